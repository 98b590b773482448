"""An evaluation that is cut goes on to the same results; one with other settings is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aipo_env.errors import ConfigurationError
from benchmarks.evaluation import EvaluationConfig, evaluate_policy
from tests.algorithms.tiny import tiny_policy
from tests.benchmarks.evaluation.running import aipo_eval, read_results, timeless, write_rows

COMMAND = (sys.executable, "-m", "aipo_env.cli", "eval", "--suite", "rulebook", "--max-tokens", "48", "--out", "out")
SMALL = (
    "--suite",
    "rulebook",
    "--num-tasks",
    5,
    "--samples",
    4,
    "--max-tokens",
    40,
    "--max-in-flight",
    6,
    "--out",
    "out",
)


def start(folder: Path, *arguments: str, before: str = "") -> subprocess.Popen[str]:
    """The command in a process of its own, which works in `folder`; `before` is run there first."""
    folder.mkdir(exist_ok=True)
    command = [*COMMAND, *arguments]
    if before:
        program = f"{before}\nimport sys\nfrom aipo_env.cli import main\nsys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, *command[3:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def wait_for_episodes(process: subprocess.Popen[str], traces: Path, count: int) -> None:
    """Until the file holds so many lines; fails if the process ends before."""
    deadline = time.monotonic() + 600
    while not traces.exists() or traces.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_kill_9_at_any_time_and_the_same_command_gives_the_same_results(tmp_path: Path) -> None:
    arguments = ("--num-tasks", "40", "--samples", "8")
    whole = start(tmp_path / "whole", *arguments)
    assert whole.wait(900) == 0, whole.communicate()
    cut = tmp_path / "cut"
    for run, count in (("solo", 30), ("assisted", 100)):
        process = start(cut, *arguments)
        wait_for_episodes(process, cut / "out" / "traces" / f"rulebook.{run}.jsonl", count)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        process.communicate()
        assert (cut / "out" / "traces" / f"rulebook.{run}.jsonl").read_bytes().count(b"\n") < 320
    last = start(cut, *arguments)
    assert last.wait(900) == 0, last.communicate()
    last.communicate()
    whole.communicate()
    first, second = read_results(tmp_path / "whole" / "out"), read_results(cut / "out")
    assert first["complete"]
    assert timeless(first) == timeless(second)
    assert first["timing"] != second["timing"]


def lines(folder: Path, mode: str) -> list[object]:
    """The traces of a run by task and sample, without their times."""
    rows = [json.loads(line) for line in (folder / "traces" / f"rulebook.{mode}.jsonl").read_bytes().splitlines()]
    for row in rows:
        del row["metadata"]["evaluation"]["seconds"]
    return sorted(rows, key=lambda row: (row["task_index"], row["sample"]))


def test_traces_cut_at_any_byte_are_completed_with_the_same_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert aipo_eval(capsys, *SMALL)[0] == 0
    results, whole = timeless(read_results(Path("out"))), {m: lines(Path("out"), m) for m in ("solo", "assisted")}
    for number, share in enumerate((0.0, 0.003, 0.21, 0.5, 0.77, 0.999)):
        mode = ("solo", "assisted")[number % 2]
        traces = Path("out/traces") / f"rulebook.{mode}.jsonl"
        content = traces.read_bytes()
        traces.write_bytes(content[: int(share * len(content))])
        assert aipo_eval(capsys, *SMALL)[0] == 0
        assert timeless(read_results(Path("out"))) == results
        assert lines(Path("out"), mode) == whole[mode]


def test_an_episode_that_a_fault_took_out_of_a_batch_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert aipo_eval(capsys, *SMALL)[0] == 0
    results, whole = timeless(read_results(Path("out"))), lines(Path("out"), "assisted")
    traces = Path("out/traces/rulebook.assisted.jsonl")
    rows = traces.read_bytes().splitlines(keepends=True)
    lost = rows.pop(8)
    traces.write_bytes(b"".join(rows))
    # As it stands beside the traces when the grader failed.
    fault = json.loads(lost) | {"stop_reason": "error"}
    fault["metadata"]["error"] = "GradingError: gone"
    traces.with_name("rulebook.assisted.errors.jsonl").write_text(json.dumps(fault) + "\n", encoding="utf-8")
    assert aipo_eval(capsys, *SMALL)[0] == 0
    assert timeless(read_results(Path("out"))) == results
    assert lines(Path("out"), "assisted") == whole


def test_finished_episodes_are_not_played_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert aipo_eval(capsys, *SMALL)[0] == 0
    before = Path("out/traces/rulebook.solo.jsonl").read_bytes()
    first = read_results(Path("out"))
    assert aipo_eval(capsys, *SMALL)[0] == 0
    assert Path("out/traces/rulebook.solo.jsonl").read_bytes() == before
    assert read_results(Path("out"))["timing"]["seconds"] == first["timing"]["seconds"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("--temperature", 0.9), "sampling.temperature was 1.0 and is 0.9"),
        (("--top-p", 0.9), "sampling.top_p was 1.0 and is 0.9"),
        (("--max-tokens", 41), "sampling.max_tokens was 40 and is 41"),
        (("--samples", 3), "num_samples was 4 and is 3"),
        (("--num-tasks", 6), "tasks was [0, 1, 2, 3, 4] and is [0, 1, 2, 3, 4, 5]"),
        (("--context", 60), "sampling.context was 512 and is 60"),
        (("--seed", 1), "seed was 0 and is 1"),
        (("--prompt", "plain"), 'prompt.name was "bare" and is "plain"'),
        (("--agents", "verify"), "helpers.knowledge"),
        (("--env-options", "level", 3), "env_options.level was 2 and is 3"),
        (("--env-options", "max_consults", 1), "rules.max_consults was 4 and is 1"),
    ],
)
def test_a_changed_setting_is_refused_and_named(
    change: tuple[object, ...],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    # Nothing is played: what is compared is there before.
    monkeypatch.setattr("benchmarks.evaluation.samplers.TurnSampler.play", lambda *_, **__: None)
    assert aipo_eval(capsys, *SMALL)[0] == 1
    options = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | {change[0]: change[1]}
    arguments = [part for pair in options.items() for part in pair] + list(change[2:])
    code, _, err = aipo_eval(capsys, *arguments)
    assert (code, "other settings" in err, named in err) == (2, True, True), err


def test_changed_weights_and_changed_data_are_refused(tmp_path: Path) -> None:
    row: dict[str, object] = {"problem": "1+1", "answer": "2", "subject": "Algebra", "level": 1, "unique_id": "a"}
    data = write_rows(tmp_path / "math500.jsonl", [row])
    tiny_policy(seed=0).save(tmp_path / "policy")
    config = EvaluationConfig(
        "math500", policy=str(tmp_path / "policy"), mode="solo", samples=2, max_tokens=4, data=(str(data),), out=tmp_path / "out",
        prompt="bare",
    )  # fmt: skip
    assert evaluate_policy(config).complete
    tiny_policy(seed=1).save(tmp_path / "policy")
    with pytest.raises(ConfigurationError, match=r'policy\.weights was "parameters:'):
        evaluate_policy(config)
    tiny_policy(seed=0).save(tmp_path / "policy")
    assert evaluate_policy(config).complete
    write_rows(data, [row | {"answer": "3"}])
    with pytest.raises(ConfigurationError, match=r"math500\.solo\.data\.files"):
        evaluate_policy(config)


def test_a_second_suite_may_be_added_to_the_folder(tmp_path: Path) -> None:
    row: dict[str, object] = {"problem": "1+1", "answer": "2", "subject": "Algebra", "level": 1, "unique_id": "a"}
    data = write_rows(tmp_path / "math500.jsonl", [row])
    common = {"mode": "solo", "samples": 2, "max_tokens": 4, "num_tasks": 1, "out": tmp_path / "out"}
    assert evaluate_policy(EvaluationConfig("rulebook", **common)).complete  # type: ignore[arg-type]
    first = read_results(tmp_path / "out")["runs"]
    assert evaluate_policy(EvaluationConfig("math500", data=(str(data),), **common)).complete  # type: ignore[arg-type]
    results = read_results(tmp_path / "out")
    assert [run["suite"] for run in results["runs"]] == ["rulebook", "math500"]
    assert results["runs"][0] == first[0]


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    arguments = ("--num-tasks", "200", "--samples", "8", "--mode", "solo")
    process = start(tmp_path / "a", *arguments)
    wait_for_episodes(process, tmp_path / "a" / "out" / "traces" / "rulebook.solo.jsonl", 20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted. The same command goes on from there; what is finished is in out." in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_finished_and_says_so(tmp_path: Path) -> None:
    # A file may not grow beyond this size: what a write to a full disk looks like to the program.
    limit = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    )
    arguments = ("--num-tasks", "10", "--samples", "4", "--mode", "solo")
    full = start(tmp_path / "full", *arguments, before=limit)
    _, err = full.communicate(timeout=300)
    assert full.returncode == 1
    assert "Make room on the disk. The same command goes on" in err
    assert "Traceback" not in err
    traces = tmp_path / "full" / "out" / "traces" / "rulebook.solo.jsonl"
    assert 15_000 < traces.stat().st_size <= 20_000
    assert traces.read_bytes().endswith(b"\n")
    whole = start(tmp_path / "whole", *arguments)
    again = start(tmp_path / "full", *arguments)
    for process in (whole, again):
        process.communicate(timeout=300)
        assert process.returncode == 0
    found = [timeless(read_results(tmp_path / name / "out")) for name in ("whole", "full")]
    assert found[0] == found[1]
