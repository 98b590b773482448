"""`aipo play` in a real terminal, and what it says where there is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import aipo_env
from aipo_env import Source, read_traces
from aipo_env.cli import main
from aipo_env.installation import install_command

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal"),
    # The fork is followed by an exec at once, and other tests' threads hold nothing that it needs.
    pytest.mark.filterwarnings("ignore:.*use of forkpty:DeprecationWarning"),
]
CLI = [
    "-c",
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from aipo_env.cli import main\n"
    "sys.exit(main())",
]
F3, F9, CTRL_S, CTRL_Q, CTRL_C, CTRL_O = "\x1bOR", "\x1b[20~", "\x13", "\x11", "\x03", "\x0f"


@contextmanager
def terminal(*arguments: str) -> Iterator[Any]:
    """The command in a pseudo-terminal of its own."""
    pexpect = pytest.importorskip("pexpect", reason="the extra 'dev' is not installed")
    pytest.importorskip("textual", reason="the extra 'play' is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    environment |= {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"}
    child = pexpect.spawn(
        sys.executable, [*CLI, "play", *arguments], env=environment, dimensions=(36, 110), encoding="utf-8", timeout=120
    )
    try:
        yield child
    finally:
        child.close(force=True)


def ended(child: Any) -> int | None:
    """Waits for the end; returns the exit code."""
    import pexpect

    child.expect(pexpect.EOF)
    child.wait()
    return int(child.exitstatus) if child.exitstatus is not None else None


@pytest.mark.slow
def test_a_whole_episode_of_the_rulebook(tmp_path: Path) -> None:
    task = aipo_env.make_tasks("rulebook-consult").task(3)
    query = str(task.metadata["expression"])
    with terminal("rulebook-consult", "--task", "3", "--out", str(tmp_path)) as child:
        child.expect("consults 0 of 4")
        child.expect("Your turn")
        child.send(query)
        child.send(F3)
        child.expect("consults 1 of 4")
        child.expect("Your turn")
        child.send(task.gold)
        child.send(F9)
        child.expect("CORRECT")
        child.send("q")
        child.expect("1 episodes, 1 correct; traces are in")
        assert ended(child) == 0
    (trajectory,) = read_traces(tmp_path / "traces.jsonl")
    assert [s.source for s in trajectory.segments] == [Source.PROMPT, Source.POLICY, Source.AGENT, Source.POLICY]
    assert (trajectory.task_id, trajectory.verdict, trajectory.segments[2].agent) == (task.id, "correct", "knowledge")
    assert aipo_env.replay(tmp_path / "traces.jsonl", aipo_env.make("rulebook-consult")).faithful


@pytest.mark.slow
def test_a_text_is_edited_in_an_editor_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "editor.py"
    script.write_text(
        "import sys, pathlib\np = pathlib.Path(sys.argv[1])\np.write_text(p.read_text()[::-1] + '5\\n')\n"
    )
    monkeypatch.setenv("VISUAL", f"{sys.executable} {script}")
    with terminal("rulebook-consult", "--task", "3", "--out", str(tmp_path)) as child:
        child.expect("Your turn")
        child.send("321")
        child.send(CTRL_O)
        child.expect("1235")
        child.send(F9)
        child.expect("WRONG")
        child.send("q")
        assert ended(child) == 0
    (trajectory,) = read_traces(tmp_path / "traces.jsonl")
    assert trajectory.segments[1].text == "\\boxed{1235}"


@pytest.mark.slow
def test_the_embedded_policy_asks_a_person(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the extra 'train' is not installed")
    arguments = ("--as", "knowledge", "--task", "0", "--seed", "0", "--temperature", "0", "--out", str(tmp_path))
    with terminal("rulebook-consult", *arguments) as child:
        child.expect("embedded asks you, knowledge")
        child.send("1+1+1;2+2+2;3+3+3")
        child.send(CTRL_S)
        child.expect("(WRONG|CORRECT|NO ANSWER)")
        child.send(CTRL_Q)
        assert ended(child) == 0
    (trajectory,) = read_traces(tmp_path / "traces.jsonl")
    reply = next(s for s in trajectory.segments if s.source is Source.AGENT)
    assert "1+1+1;2+2+2;3+3+3" in reply.text
    assert reply.token_ids
    assert trajectory.metadata["policy"] == "embedded"


@pytest.mark.slow
def test_a_policy_behind_a_server_asks_a_person(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="the extra 'llm' is not installed")
    pytest.importorskip("torch", reason="the extra 'train' is not installed")
    from tests.misbehaving_server import Fault
    from tests.test_rollout_command import ASK, EmbeddedTokenizer

    with EmbeddedTokenizer() as server:
        # What may pass is tried again without a word.
        server.script(Fault("status", status=500), None, Fault("reset"))
        arguments = ("--as", "knowledge", "--server", server.base_url, "--model", "fake", "--out", str(tmp_path))
        with terminal("rulebook-consult", *arguments) as child:
            child.expect("fake asks you, knowledge")
            child.send("5+5+5")
            child.send(CTRL_S)
            child.expect("WRONG")
            child.send("q")
            assert ended(child) == 0
    (trajectory,) = read_traces(tmp_path / "traces.jsonl")
    said = [segment.text for segment in trajectory.segments[1:]]
    assert said == [ASK, '<feedback agent="knowledge">5+5+5</feedback>', "\\boxed{151515}"]


@pytest.mark.slow
@pytest.mark.parametrize("by_signal", [False, True])
def test_ctrl_c_ends_it_and_gives_the_terminal_back(by_signal: bool) -> None:
    with terminal("rulebook-consult") as child:
        child.expect("Your turn")
        if by_signal:
            child.kill(signal.SIGINT)
        else:
            child.send(CTRL_C)
        # What a terminal program does last: it leaves the second screen.
        child.expect_exact("\x1b[?1049l")
        assert ended(child) == 130


def test_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("textual", reason="the extra 'play' is not installed")
    done = subprocess.run(
        [sys.executable, *CLI, "play"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs a terminal, and standard input and standard output are none" in done.stderr


def test_mistakes_are_explained_before_anything_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="the extra 'train' is not installed")
    for arguments, message in (
        (["rulebok-consult"], "Did you mean 'rulebook-consult'"),
        (["--as", "knowlege"], "Did you mean 'knowledge'"),
        (["rulebook", "--as", "knowledge"], "Play rulebook-consult, or play the policy"),
        (["--as", "knowledge", "--policy", str(tmp_path / "nothing")], "no policy"),
        (["--as", "knowledge", "--model", "x"], "--server and --model go together"),
        (["--retries", "2"], "--retries and --requests-per-minute are for --server and --helper-server"),
        (["--helper-server", "http://me:geheim@x/v1", "--helper-model", "x"], "--helper-server holds a user name"),
        (["--server", "http://x/v1", "--model", "x"], "--server is for a policy that plays beside you"),
        (["--agents", "oracle"], "unknown agent 'oracle'"),
        (["--env-options", "levl", "3"], "has no option levl"),
        (["--task", "-1"], "--task"),
    ):
        monkeypatch.setattr("algorithms.apps.play_command.check_terminal", lambda: None)
        assert main(["play", *arguments]) == 2, arguments
        assert message in capsys.readouterr().err


def test_without_textual(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual", None)
    assert main(["play"]) == 2
    assert install_command("play") in capsys.readouterr().err
