from __future__ import annotations

import json
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from aipo_env.errors import DataNotFoundError
from benchmarks.grading import ALIVE, Server, Settings, benchmark, percentile, read_rows, score


def test_a_hang_is_a_miss_but_never_an_acceptance() -> None:
    rows: list[dict[str, Any]] = [{"equal": True}, {"equal": True}, {"equal": False}, {"equal": False}, {"equal": None}]
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


def not_installed(name: str, connection: Connection) -> None:
    connection.send(f"{name} is not here")


def ends(name: str, connection: Connection) -> None:
    """Stands for a peer whose import kills the process."""


@pytest.mark.parametrize(
    ("serve", "reason"),
    [(not_installed, "hendrycks-style is not here"), (ends, "its process ended while importing")],
)
def test_a_peer_that_is_not_installed_is_skipped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: object, reason: str
) -> None:
    monkeypatch.setattr("benchmarks.grading.read_rows", lambda *_: [])
    monkeypatch.setattr("benchmarks.grading.serve", serve)
    result = benchmark(Settings(data=tmp_path, graders=("hendrycks-style",)))
    assert result.data["graders"] == {}
    assert result.data["skipped"] == {"hendrycks-style": reason}


def test_our_grader_is_measured_in_processes_of_its_own(tmp_path: Path) -> None:
    right = {"gold": "1/2", "pred": "0.5", "equal": True, "form": "answer"}
    wrong = {"gold": "1/2", "pred": "0.6", "equal": False, "form": "answer"}
    convention = {"gold": "50", "pred": "50\\%", "equal": False, "form": "answer", "contested": "percent"}
    for name, rows in (
        ("answer_pairs", [right, wrong, convention]),
        ("math500_rewrites", [right, wrong, right]),
        ("hostile", [wrong, {"gold": "1", "pred": "9^{9^{9^9}}", "equal": False, "form": "answer"}]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = benchmark(Settings(data=tmp_path, repeats=1, graders=("aipo",)))
    graders: Any = result.data["graders"]
    found = graders["aipo"]
    assert [found["pairs"][key].median for key in ("rows", "accuracy", "hangs")] == [2, 1.0, 0]
    assert [found["contested"][key].median for key in ("as_policy", "as_labelled")] == [1.0, 0.0]
    assert found["rewrites"]["per_s"].median > 0
    assert [found["hostile"][key].median for key in ("false_positives", "outer_timer_kept")] == [0, 1]
    shown = {row[0]: row[1] for row in result.tables[0].rows}
    assert shown["pairs: accuracy, %"] == "100.00"


def hang(grade: object, rows: list[dict[str, Any]]) -> tuple[list[bool], list[float]]:
    """Stands for a grader that hangs on one of the answers."""
    while rows[0]["pred"] == "hang":
        time.sleep(1)
    return [True], [0.0]


def test_a_grader_that_hangs_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.grading.grade_rows", hang)
    with Server("aipo") as server:
        first = server.process.pid
        monkeypatch.setattr("benchmarks.grading.WATCHDOG", 0.3)
        assert server.grade([{**ALIVE, "pred": "hang"}])[0] == [None]
        assert server.process.pid != first
        monkeypatch.setattr("benchmarks.grading.WATCHDOG", 60.0)
        assert server.grade([ALIVE])[0] == [True]
