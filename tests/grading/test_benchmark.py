from __future__ import annotations

import json
from pathlib import Path

import pytest

from aipo_env.errors import DataNotFoundError
from benchmarks.grading import Settings, benchmark, percentile, read_rows, score


def test_a_hang_is_a_miss_but_never_an_acceptance() -> None:
    rows = [{"equal": True}, {"equal": True}, {"equal": False}, {"equal": False}, {"equal": None}]
    assert score(rows, [True, None, True, None, None]) == {
        "rows": 5,
        "accuracy": 0.5,
        "false_positives": 1,
        "false_negatives": 1,
        "hangs": 3,
    }
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0


def test_rows_are_read_from_every_file_of_a_set(tmp_path: Path) -> None:
    for name in ("hostile_a", "hostile_b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name}) + "\n")
    assert [row["id"] for row in read_rows(tmp_path, "hostile", None)] == ["hostile_a", "hostile_b"]
    assert len(read_rows(tmp_path, "hostile", 1)) == 1
    with pytest.raises(DataNotFoundError, match="answer_pairs"):
        read_rows(tmp_path, "answer_pairs", None)


def test_a_peer_that_is_not_installed_is_skipped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.grading.read_rows", lambda *_: [])
    monkeypatch.setattr("sys.executable", "/bin/false")
    result = benchmark(Settings(data=tmp_path, graders=("hendrycks-style",)))
    assert result["graders"] == {}
    assert "hendrycks-style" in result["skipped"]
