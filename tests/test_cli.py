from __future__ import annotations

import json
import logging
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from aipo_env import Source, read_traces
from aipo_env.cli import commands, main
from aipo_env.console import repeats_collapsed
from aipo_env.installation import install_command
from aipo_env.parsing import parse


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for command in ("completion", "doctor", "envs", "grade", "play", "rollout", "train", "warmup", "demo"):
        assert re.search(rf"^  {command} +\S", out, re.MULTILINE)


def test_envs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "envs")
    assert code == 0
    training, _, evaluation = out.partition("# for evaluation alone\n")
    assert any(line.startswith("rulebook-consult ") for line in training.splitlines())
    assert re.search(r"^math500-consult ", evaluation, re.MULTILINE)
    assert not re.search(r"^math500", training, re.MULTILINE)


def test_unknown_commands_and_wrong_values_are_explained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "rolout")
    assert (code, "Did you mean 'rollout'" in err) == (2, True)
    code, _, err = run(capsys, "rollout", "--env", "rulebok", "--out", str(tmp_path))
    assert (code, "Did you mean 'rulebook'" in err) == (2, True)
    code, _, err = run(capsys, "rollout", "--policy", str(tmp_path / "nothing"), "--out", str(tmp_path))
    assert (code, "no policy" in err) == (2, True)
    code, _, err = run(capsys, "train", "--samples-per-prompt", "1")
    assert (code, "at least 2" in err, "raise --samples-per-prompt." in err) == (2, True, True)
    code, _, err = run(capsys, "rollout", "--max-tokens", "0", "--out", str(tmp_path))
    assert (code, "got --temperature=0.6, top_p=1.0, --max-tokens=0" in err) == (2, True), err


def test_rollout_writes_checked_traces(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = (
        "rollout",
        "--num-tasks",
        "3",
        "--samples",
        "2",
        "--max-tokens",
        "60",
        "--out",
        str(tmp_path),
        "--check",
    )
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    assert "of 6 correct" in out
    difference = float(out.split("recomputed log-probabilities: ")[1].split()[0])
    assert difference < 1e-3
    traces = list(read_traces(tmp_path / "traces.jsonl"))
    assert len(traces) == 6
    assert {t.metadata["policy"] for t in traces} == {"embedded, temperature 0.6"}
    assert any(s.source is Source.AGENT and s.agent == "knowledge" for t in traces for s in t.segments)
    code, out, _ = run(
        capsys, "rollout", "--solo", "--num-tasks", "2", "--max-tokens", "60", "--out", str(tmp_path / "solo")
    )
    assert (code, "rulebook-consult, solo" in out) == (0, True)
    assert not any(t.assisted for t in read_traces(tmp_path / "solo" / "traces.jsonl"))


def test_helpers_from_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    helper = "knowledge=tests.test_cli:wrong_expansion"
    code, _, err = run(
        capsys, "rollout", "--num-tasks", "2", "--max-tokens", "60", "--out", str(tmp_path), "--agents", helper
    )
    assert code == 0, err
    replies = [s.text for t in read_traces(tmp_path / "traces.jsonl") for s in t.segments if s.source is Source.AGENT]
    assert replies
    assert all("1+1+1;1+1+1;1+1+1" in reply for reply in replies)


def wrong_expansion(query: str) -> str:
    """A helper that is always wrong."""
    return "1+1+1;1+1+1;1+1+1"


def test_train_from_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = (
        "train", "--out", str(tmp_path), "--steps", "2", "--prompts-per-step", "2", "--samples-per-prompt", "4", "--eval-tasks",
        "2", "--eval-samples", "1", "--env-options", "style", "terse", "prompt", "bare", "max_reply_chars", "40",
        "--sampling.max-tokens", "48", "--objective.agent-loss", "clone",
    )  # fmt: skip
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    assert "solo_pass1" in out
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "config.json").read_text())["objective"]["agent_loss"] == "clone"
    assert (tmp_path / "policy" / "model.safetensors").exists()


def test_output_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "envs", "--json")
    assert code == 0
    assert {
        "id": "rulebook",
        "description": "procedural problems with undefined operators, solo",
        "assisted": False,
        "splits": ["train", "test"],
    } in (json.loads(out))
    code, out, _ = run(capsys, "plan", "--json", "--model", "7b", "--gpus", "16", "--helper-gpus", "8")
    planned = json.loads(out)
    assert code == (1 if planned["problems"] else 0)
    assert planned["training_gib"]


def test_train_for_scripts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = (
        "train", "--out", str(tmp_path), "--steps", "1", "--prompts-per-step", "2", "--samples-per-prompt", "4", "--eval-tasks",
        "2", "--eval-samples", "1", "--env-options", "style", "terse", "prompt", "bare", "max_reply_chars", "40",
        "--sampling.max-tokens", "48",
    )  # fmt: skip
    code, out, err = run(capsys, *arguments, "--json", "--quiet")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["step"], result["out"]) == (1, str(tmp_path))
    assert "eval/solo_pass1" in result["metrics"]
    assert run(capsys, *arguments, "--quiet") == (0, "", "")


def test_replay_for_scripts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    options = ("rollout", "--num-tasks", "1", "--samples", "2", "--max-tokens", "60", "--out", str(tmp_path))
    assert run(capsys, *options, "--quiet") == (0, "", "")
    code, out, _ = run(capsys, "replay", str(path), "--json")
    assert (code, json.loads(out)) == (0, {"episodes": 2, "faithful": True, "differences": []})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["reward"] = 5.0
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = run(capsys, "replay", str(path), "--json")
    (difference,) = json.loads(out)["differences"]
    assert (code, difference["line"], difference["what"], difference["recorded"]) == (1, 2, "reward", 5.0)


def test_rollout_goes_on_and_refuses_what_is_of_another_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ("rollout", "--max-tokens", "60", "--out", str(tmp_path), "--num-tasks")
    assert run(capsys, *options, "1")[0] == 0
    code, out, _ = run(capsys, *options, "3")
    assert (code, "2 episodes were there already" in out, "of 6 correct" in out) == (0, True, True)
    for more, message in (
        (("--temperature", "1"), "its policy is 'embedded, temperature 0.6'"),
        (("--solo",), "is assisted, and would be solo"),
        (("--seed", "1"), "and with --seed=1 it would be"),
        (("--env-options", "level", "3"), "options was"),
    ):
        code, _, err = run(capsys, *options, "3", *more)
        assert (code, message in err) == (2, True), err
    assert len(list(read_traces(tmp_path / "traces.jsonl"))) == 6


def test_a_reader_that_leaves_is_no_error() -> None:
    # More output than a pipe holds, so that the writer is still writing when its reader is gone.
    writer = subprocess.Popen(
        [sys.executable, "-c", "from aipo_env.cli import main; raise SystemExit(main(['completion', 'bash']))"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    with writer, writer.stderr:
        writer.stdout.close()
        assert writer.stderr.read() == b""
    assert writer.returncode == 141


def test_help_names_what_cannot_be_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "broken_plugin-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[aipo.commands]\noracle = no_such_module:oracle\n")
    monkeypatch.syspath_prepend(tmp_path)
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "oracle      (cannot be loaded:" in out
    assert "First steps:" in out
    code, _, err = run(capsys, "oracle")
    assert (code, "needs the package 'no_such_module'" in err) == (2, True)


def test_a_missing_package_names_the_extra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, err = run(capsys, "rollout")
    assert (code, "needs the package 'transformers'" in err, install_command("train") in err) == (2, True, True), err
    # What no extra brings is a bug, and a bug keeps its traceback.
    monkeypatch.setitem(sys.modules, "aipo_env.grading.cli", None)
    with pytest.raises(ModuleNotFoundError, match=r"aipo_env\.grading\.cli"):
        main(["grade", "pairs.jsonl"])


EXAMPLES = [example for command in commands().values() for example in getattr(command, "examples", ())]
for name in ("command_line.md", "play.md"):
    text = (Path(__file__).parents[1] / "docs" / name).read_text(encoding="utf-8")
    EXAMPLES += re.findall(r"^    (aipo .*)$", text, re.MULTILINE)


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_of_the_help_and_the_docs_parse(line: str) -> None:
    program, name, *arguments = shlex.split(line, comments=True)
    arguments = arguments[: next((i for i, word in enumerate(arguments) if word in ("|", ">")), None)]
    command = commands()[name]
    assert program == "aipo"
    if "--config" in arguments:
        at = arguments.index("--config")
        del arguments[at : at + 2]
        arguments += ["--suite", "rulebook"] if name == "eval" else []
    if "openrlhf" in arguments:
        assert command.pass_on is not None  # type: ignore[attr-defined]
        return

    assert parse(command, arguments, f"aipo {name}")


def test_help_ends_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in commands().items():
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        out = capsys.readouterr().out
        assert caught.value.code == 0
        assert out.rstrip().endswith(getattr(command, "examples", ("",))[-1]), name
        assert "Examples:" in out, name


def test_repair_29_warnings_that_repeat_collapse(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("aipo_env")
    with repeats_collapsed():
        for number in range(5):
            log.warning("no server at port %d (request a%df)", 8000 + number, number)
        log.warning("something else")
        log.info("not a warning")
    log.warning("no server at port 1")
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        "no server at port 8000 (request a0f)", "something else", "5 times in all: no server at port 8004 (request a4f)",
        "no server at port 1",
    ]  # fmt: skip
