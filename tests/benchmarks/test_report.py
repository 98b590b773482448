from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import report


def test_a_spread_is_the_median_and_the_range() -> None:
    assert report.spread([3.0, 1.0, 10.0]) == report.Spread(median=3.0, low=1.0, high=10.0, num_samples=3)
    assert report.spread([1.0, 2.0]).median == 1.5


def test_a_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        report.spread([])


def test_ratios_are_taken_pair_by_pair() -> None:
    # The ratio of the medians would be 1; the median of the ratios is 2.
    assert report.ratios([2.0, 4.0, 1.0], [1.0, 2.0, 4.0]) == report.Spread(2.0, 0.25, 2.0, 3)
    with pytest.raises(ValueError, match="zip"):
        report.ratios([1.0], [1.0, 2.0])


def test_the_text_shows_median_and_range() -> None:
    assert report.Spread(1.624, 1.5, 1711.0, 3).text(2, "x") == "1.62x (1.50 .. 1,711.00)"


def test_the_machine_is_described_without_what_is_not_installed() -> None:
    about = report.machine(["numpy", "no-such-distribution"], threads=3)
    assert about["threads"] == 3
    assert list(about["versions"]) == ["numpy"]  # type: ignore[call-overload]
    assert {"command", "cpu", "cores", "python", "load_at_start"} <= about.keys()


def test_a_report_is_written_with_its_dataclasses(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    report.write_json(path, {"ratio": report.spread([2.0]), "samples": {"a": [report.spread([1.0])]}, "path": path})
    row = json.loads(path.read_text())
    assert row["ratio"] == dataclasses.asdict(report.spread([2.0]))
    assert row["samples"]["a"][0]["median"] == 1.0
    assert row["path"] == str(path)


def test_the_printed_report_has_rows_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    report.print_report("Title", {"versions": {"x": "1"}, "cores": 2}, ["", "speed"], [["ours", "5"]], ["a [note]"])
    out = capsys.readouterr().out
    assert "versions: x 1" in out
    assert "ours" in out
    assert "- a [note]" in out
