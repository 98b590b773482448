"""The guide on a task of one's own, followed from a copy of its blocks."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks, commands

PAGE = ROOT / "docs" / "guides" / "own_task.md"
AIPO = "import sys; from aipo_env.cli import main; sys.exit(main())"


def follow(folder: Path, command: str, *more: str) -> str:
    """Runs one of the page's commands in the folder of its file."""
    [line] = [line for line in commands(PAGE) if line.startswith(f"{command} ")]
    words = [sys.executable, "-c", AIPO, *shlex.split(line), *more]
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(words, cwd=folder, env=path, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    code = next(block.code for block in blocks(PAGE) if block.language == "python")
    (tmp_path / code.partition("\n")[0].removeprefix("# ")).write_text(code, encoding="utf-8")
    return tmp_path


def test_every_command_of_the_page_runs(folder: Path) -> None:
    assert "code_book:CodeBook, assisted" in follow(folder, "rollout")
    short = ("--prompts-per-step", "2", "--samples-per-prompt", "4", "--eval-tasks", "2", "--eval-samples", "1")
    said = follow(folder, "train", "--steps", "1", *short, "--env-options", "reward_fn", "code_book:reward")
    assert "cannot read" not in said
    rows = [json.loads(line) for line in (folder / "runs" / "code-book" / "traces.jsonl").read_text().splitlines()]
    assert {"correct", "length"} <= {part for row in rows for part in row["reward_parts"]}
    follow(folder, "eval", "--num-tasks", "2", "--samples", "1", "--max-tokens", "48")
    assert "all as recorded" in follow(folder, "replay")
    assert "trajectories" in follow(folder, "view")


def test_what_the_embedded_policy_cannot_read_is_told(folder: Path) -> None:
    code = (folder / "code_book.py").read_text()
    (folder / "code_book.py").write_text(code.replace("{number % 1000:03}=", "{number % 1000:03}?"))
    assert re.search(
        r"the embedded policy cannot read '\?', which tasks of code_book:CodeBook hold", follow(folder, "rollout")
    )


@pytest.mark.skipif("AIPO_TEST_TRAIN" not in os.environ, reason="`make test-train` runs it: minutes")
def test_the_page_s_task_is_learnt(folder: Path) -> None:
    follow(folder, "train")
    rows = [json.loads(line) for line in (folder / "runs" / "code-book" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [row["eval/solo_pass1"] for row in rows if "eval/solo_pass1" in row]
    assert evaluated[0] < 0.05
    assert evaluated[-1] >= 0.7
