"""Which files of a folder are traces, and what their runs are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from aipo_env import Trajectory, write_traces
from aipo_env.errors import DataNotFoundError
from algorithms.apps.viewer import find_run_files


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_traces(path, [Trajectory("env", "task", [])])
    return path


def test_a_folder_is_searched_and_each_run_has_its_name(tmp_path: Path) -> None:
    demo, evaluation = tmp_path / "demo", tmp_path / "eval"
    for name in ("aipo", "grpo"):
        write(demo / name / "traces.jsonl")
        (demo / name / "metrics.jsonl").write_text('{"step": 1}\n')
        write(demo / name / "checkpoints" / "traces.jsonl")
    write(evaluation / "traces" / "math500.solo.errors.jsonl")
    write(evaluation / "traces" / "math500.solo.jsonl")
    write(evaluation / "rollouts-host-7.jsonl")
    (evaluation / "traces" / "note.jsonl").write_text("no JSON\n")
    found = find_run_files([demo, evaluation])
    assert [(run.name, run.faults) for run in found] == [
        ("demo/aipo", False),
        ("demo/grpo", False),
        ("eval/rollouts-host-7", False),
        ("eval/math500.solo", False),
        ("eval/math500.solo", True),
    ]


def test_a_file_is_taken_as_it_is_and_once(tmp_path: Path) -> None:
    traces = write(tmp_path / "run" / "traces.jsonl")
    assert [(run.path, run.name) for run in find_run_files([traces, tmp_path / "run"])] == [(traces, "run")]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    files = [write(tmp_path / side / "x" / "traces.jsonl") for side in ("a", "b")]
    assert [run.name for run in find_run_files([f.parent for f in files])] == [str(f) for f in files]


def test_a_run_that_has_just_started_counts(tmp_path: Path) -> None:
    (tmp_path / "traces.jsonl").write_text("")
    assert len(find_run_files([tmp_path])) == 1
    (tmp_path / "traces.jsonl").write_text('{"env_id": "cut')
    assert len(find_run_files([tmp_path])) == 1


def test_where_nothing_is_it_says_what_writes_traces(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"there is no file or folder .*gone"):
        find_run_files([tmp_path / "gone"])
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(DataNotFoundError, match=r"no traces in .*--trace-every"):
        find_run_files([tmp_path])
