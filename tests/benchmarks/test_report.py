from __future__ import annotations

import dataclasses
import json
import mmap
import os
from pathlib import Path
from typing import ClassVar

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
    table = report.Table("Title", ["", "speed"], [["ours", "5"]], ["a [note]"])
    report.print_report({"versions": {"x": "1"}, "cores": 2}, [table])
    out = capsys.readouterr().out
    assert "versions: x 1" in out
    assert "ours" in out
    assert "- a [note]" in out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(report.Settings):
    repeats: int = 2
    seed: int = 0
    threads: int = 3

    least: ClassVar = {"repeats": 1}


def doubled(settings: Settings) -> report.Result:
    rows = [["seed", str(settings.seed)]]
    return report.Result([report.Table("Doubled", ["", "value"], rows)], {"twice": 2 * settings.seed})


def test_a_run_prints_its_tables_and_writes_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    assert report.run(Settings, doubled, ["numpy"], ["--seed", "21", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "settings: repeats 2, seed 21, threads 3" in out
    assert "threads: 3" in out
    assert "Doubled" in out
    written = json.loads(path.read_text())
    assert written.keys() == {"machine", "settings", "twice"}
    assert written["twice"] == 42
    assert written["settings"] == {"repeats": 2, "seed": 21, "threads": 3}
    assert "load_at_end" in written["machine"]


def test_settings_below_their_least_are_refused() -> None:
    with pytest.raises(ValueError, match="repeats is at least 1; got 0"):
        Settings(repeats=0)


def test_each_repeat_begins_with_another() -> None:
    calls: list[str] = []

    def measure(name: str) -> int:
        calls.append(name)
        return len(calls)

    samples = report.in_turns({name: lambda name=name: measure(name) for name in "abc"}, 3)  # type: ignore[misc]
    assert calls == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert samples == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_spreads_are_taken_of_each_figure() -> None:
    assert report.spreads([{"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 5.0}]) == {
        "a": report.Spread(2.0, 1.0, 3.0, 2),
        "b": report.Spread(5.0, 5.0, 5.0, 2),
    }


def test_a_peer_that_is_not_installed_is_noted() -> None:
    def missing() -> int:
        raise ImportError("No module named 'peer'")

    made, notes = report.installed({"here": lambda: 1, "peer": missing})
    assert made == [1]
    assert len(notes) == 1
    assert notes[0].startswith("peer did not take part: No module named 'peer'")


def test_another_process_measures() -> None:
    assert report.in_own_process(os.getpid) != os.getpid()


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system resets no peak")
def test_the_peak_is_of_what_came_after_the_reset() -> None:
    before = report.reset_peak_resident()
    # Pages of its own: an object might be put where a freed one has left its pages.
    with mmap.mmap(-1, 2**26) as block:
        block.write(b"1" * len(block))
        assert report.peak_resident() - before >= 0.9 * len(block)


def test_a_file_is_loaded_without_its_package(tmp_path: Path) -> None:
    path = tmp_path / "peer.py"
    path.write_text("VALUE = 3\n")
    assert report.load_alone(path).VALUE == 3
    with pytest.raises(ImportError):
        report.file_of("no-such-distribution", "a.py")
