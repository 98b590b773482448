"""The head's benchmark: our gradients are right, a peer that cannot run is named, ratios are to ours of the same outputs."""

from __future__ import annotations

import pytest

from benchmarks import logprob_memory, report
from benchmarks.logprob_memory import Settings

SMALLEST = Settings(rows=8, vocabulary=50, hidden=4, repeats=1)


@pytest.mark.parametrize("way", ["ours", "ours, with entropy"])
def test_our_gradients_are_those_of_float64(way: str) -> None:
    found = logprob_memory.measure(SMALLEST, way)
    assert found["gradient_error"] < 1e-5
    assert found["seconds"] > 0
    assert found["peak_gib"] >= 0


def test_ratios_are_to_ours_of_the_same_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"ours": 1.0, "ours, with entropy": 2.0, "OpenRLHF": 5.0, "TRL, full logits": 6.0}

    def measured(measure: object, settings: Settings, way: str) -> dict[str, float]:
        if way not in peaks:
            raise ImportError("No module named 'trl'")
        return {"peak_gib": peaks[way], "seconds": 0.5, "gradient_error": 1e-7}

    monkeypatch.setattr(report, "in_own_process", measured)
    (table,) = logprob_memory.benchmark(SMALLEST).tables
    assert [row[2] for row in table.rows] == ["1.00x", "1.00x", "5.00x", "3.00x"]
    assert table.rows[0] == ["ours", "1.000", "1.00x", "0.500", "1.0e-07"]
    assert "TRL, fused did not take part: ImportError: No module named 'trl'" in table.notes


def test_a_fault_of_ours_is_no_missing_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> dict[str, float]:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(report, "in_own_process", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        logprob_memory.benchmark(SMALLEST)
