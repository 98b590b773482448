"""Ctrl-C in real processes: they end soon, with 130, say how to go on, and the same command does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra 'train' is not installed")

from aipo_env import read_traces
from aipo_env.console import finish_first
from algorithms.checkpoint import list_checkpoints
from tests.test_rollout_command import EmbeddedTokenizer

# Where the tests run in the background of a script, Ctrl-C is ignored there and in every process that starts from it.
AIPO = [
    sys.executable,
    "-c",
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from aipo_env.cli import main\n"
    "if __name__ == '__main__': sys.exit(main())",
]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")


def interrupt(
    arguments: list[str], ready: Callable[[], bool], *, seconds: float = 600, number: int = signal.SIGINT
) -> tuple[int, str, str]:
    """Starts a command, presses Ctrl-C (which reaches its whole group) once it is ready, and waits for its end."""
    with subprocess.Popen(
        [*AIPO, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + seconds
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def run(*arguments: str) -> str:
    done = subprocess.run([*AIPO, *arguments], capture_output=True, text=True, env=ENVIRONMENT, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_train_writes_a_checkpoint_and_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    options = [
        "train", "--steps", "40", "--prompts-per-step", "2", "--samples-per-prompt", "4", "--eval-tasks", "2", "--eval-samples",
        "1", "--env-options", "style", "terse", "prompt", "bare", "max_reply_chars", "40", "--sampling.max-tokens", "48",
    ]  # fmt: skip
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    code, _, err = interrupt([*options, "--out", str(cut)], lambda: lines(cut / "metrics.jsonl") >= 3)
    assert code == 130
    step = lines(cut / "metrics.jsonl") - 1
    assert 2 <= step < 40, "the run was over before it could be interrupted"
    assert f"The same command goes on after step {step} of 40; the run is in {cut}" in err
    assert "Traceback" not in err
    assert [path.name for path in list_checkpoints(cut / "checkpoints")] == [f"step-{step:07d}"]
    run(*options, "--out", str(cut), "--quiet")
    run(*options, "--out", str(whole), "--quiet")
    rows = [list(map(json.loads, (out / "metrics.jsonl").read_text().splitlines())) for out in (cut, whole)]
    for row, expected in zip(*rows, strict=True):
        assert {k: v for k, v in row.items() if "seconds" not in k} == {
            k: v for k, v in expected.items() if "seconds" not in k
        }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_repair_34_what_batch_systems_send_ends_training_with_a_checkpoint(tmp_path: Path, name: str) -> None:
    options = [
        "train", "--steps", "400", "--prompts-per-step", "2", "--samples-per-prompt", "4", "--eval-tasks", "1", "--eval-samples",
        "1", "--env-options", "style", "terse", "prompt", "bare", "max_reply_chars", "40", "--sampling.max-tokens", "48",
        "--quiet", "--checkpoint-every", "0", "--out", str(tmp_path),
    ]  # fmt: skip
    code, _, err = interrupt(options, lambda: lines(tmp_path / "metrics.jsonl") >= 3, number=getattr(signal, name))
    assert (code, "Traceback" in err) == (130, False), err
    step = lines(tmp_path / "metrics.jsonl") - 1
    assert 2 <= step < 400, "the run was over before it could be interrupted"
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == [f"step-{step:07d}"]
    assert f"The same command goes on after step {step} of 400" in err


def test_repair_34_the_first_signal_asks_and_a_second_ctrl_c_interrupts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    # Where the tests run in the background of a script, Ctrl-C is ignored; finish_first would leave it so.
    own = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = [signal.getsignal(number) for number in numbers]
    for first in numbers:
        with finish_first("finishing") as stop:
            assert not stop.asked
            os.kill(os.getpid(), first)
            assert stop.asked
            # A closing terminal may send one of its own as well.
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert capsys.readouterr().err == "aipo: finishing\n"
        assert [signal.getsignal(number) for number in numbers] == before
    signal.signal(signal.SIGINT, own)


def test_repair_34_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with finish_first("finishing") as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_rollout_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    options = ["rollout", "--num-tasks", "60", "--max-tokens", "60", "--max-in-flight", "8"]
    cut, whole = tmp_path / "cut" / "traces.jsonl", tmp_path / "whole" / "traces.jsonl"
    code, _, err = interrupt([*options, "--out", str(cut.parent)], lambda: lines(cut) >= 5)
    assert code == 130
    kept = lines(cut)
    assert 5 <= kept < 120, "the run was over before it could be interrupted"
    assert f"The same command goes on from there; what is finished is in {cut}" in err
    assert "Traceback" not in err
    assert f"{kept} episodes were there already" in run(*options, "--out", str(cut.parent))
    run(*options, "--out", str(whole.parent))
    found, expected = ({(t.task_id, t.sample): t for t in read_traces(p)} for p in (cut, whole))
    assert {key: t.token_ids for key, t in found.items()} == {key: t.token_ids for key, t in expected.items()}
    # What stands beside a row rounds its matrix products another way.
    for key, t in found.items():
        assert t.logprobs == pytest.approx(expected[key].logprobs, abs=1e-4)


@pytest.mark.slow
def test_rollout_with_a_server_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="the extra 'llm' is not installed")
    path = tmp_path / "traces.jsonl"
    with EmbeddedTokenizer() as server:
        server.latency = 0.1
        options = [
            "rollout",
            "--server",
            server.base_url,
            "--model",
            "fake",
            "--num-tasks",
            "40",
            "--max-tokens",
            "200",
        ]
        options += ["--max-in-flight", "4", "--out", str(tmp_path)]
        code, _, err = interrupt(options, lambda: lines(path) >= 5)
        assert (code, "The same command goes on from there" in err, "Traceback" in err) == (130, True, False), err
        kept = path.read_bytes()
        assert kept.endswith(b"\n")
        assert 5 <= kept.count(b"\n") < 80, "the run was over before it could be interrupted"
        assert server.wait_idle()
        server.latency = 0.0
        assert f"{kept.count(chr(10).encode())} episodes were there already" in run(*options)
    assert path.read_bytes().startswith(kept)
    assert len(list(read_traces(path))) == 80


@pytest.mark.slow
def test_eval_goes_on(tmp_path: Path) -> None:
    options = ["eval", "--suite", "rulebook", "--num-tasks", "60", "--samples", "2", "--out", str(tmp_path)]
    solo = tmp_path / "traces" / "rulebook.solo.jsonl"
    code, _, err = interrupt(options, lambda: lines(solo) >= 5)
    assert (code, "The same command goes on from there" in err, "Traceback" in err) == (130, True, False), err
    kept = solo.read_bytes()
    results = json.loads(run(*options, "--json", "--quiet"))
    assert results["complete"] is True
    assert solo.read_bytes().startswith(kept)


@pytest.mark.slow
def test_demo_ends_at_once_and_leaves_no_process(tmp_path: Path) -> None:
    started = tmp_path / "aipo" / "metrics.jsonl"
    code, _, err = interrupt(["demo", "--steps", "400", "--out", str(tmp_path)], lambda: started.exists())
    assert (code, "starts from the beginning" in err, "Traceback" in err) == (130, True, False), err
    size = lines(started)
    time.sleep(2)
    assert lines(started) == size
