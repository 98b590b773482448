from __future__ import annotations

import json
from pathlib import Path

import pytest

from aipo_env import Source, read_traces
from aipo_env.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for command in ("envs", "grade", "rollout", "train", "warmup", "demo"):
        assert f"  {command} " in out


def test_envs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "envs")
    assert code == 0
    assert any(line.startswith("rulebook-consult ") for line in out.splitlines())


def test_unknown_commands_and_wrong_values_are_explained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "rolout")
    assert (code, "Did you mean 'rollout'" in err) == (2, True)
    code, _, err = run(capsys, "rollout", "--env", "rulebok", "--out", str(tmp_path))
    assert (code, "Did you mean 'rulebook'" in err) == (2, True)
    code, _, err = run(capsys, "rollout", "--policy", str(tmp_path / "nothing"), "--out", str(tmp_path))
    assert (code, "no policy" in err) == (2, True)
    code, _, err = run(capsys, "train", "--samples-per-prompt", "1")
    assert (code, "at least 2" in err) == (2, True)


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
    assert {t.metadata["policy"] for t in traces} == {"embedded"}
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
        "train", "--out", str(tmp_path), "--steps", "2", "--prompts-per-step", "2", "--samples-per-prompt", "2", "--eval-tasks",
        "2", "--eval-samples", "1", "--env-options", "style", "terse", "prompt", "bare", "max_reply_chars", "40",
        "--sampling.max-tokens", "48", "--objective.agent-loss", "clone",
    )  # fmt: skip
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    assert "solo_pass1" in out
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "config.json").read_text())["objective"]["agent_loss"] == "clone"
    assert (tmp_path / "policy" / "model.safetensors").exists()
