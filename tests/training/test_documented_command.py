"""README's training command, as it stands there, and the single file. `make test-train` runs them, minutes, and sets AIPO_TEST_TRAIN."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, commands

PAGES = (ROOT / "README.md", ROOT / "docs" / "index.md")
AIPO = "import sys; from aipo_env.cli import main; sys.exit(main())"


@pytest.fixture(scope="module", autouse=True)
def single_file() -> Iterator[subprocess.Popen[str] | None]:
    """The single file's run, beside the documented command's: each takes one core."""
    if "AIPO_TEST_TRAIN" not in os.environ:
        yield None
        return
    command = [sys.executable, str(ROOT / "examples" / "aipo_single_file.py")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def documented() -> list[str]:
    """The commands that train the embedded policy."""
    return [line for page in PAGES for line in commands(page) if line.startswith("train ") and "embedded" in line]


def test_the_pages_say_the_same() -> None:
    assert len(documented()) == len(PAGES)
    assert len(set(documented())) == 1


@pytest.mark.skipif("AIPO_TEST_TRAIN" not in os.environ, reason="`make test-train` runs it: minutes")
def test_repair_01_the_documented_command_learns(tmp_path: Path) -> None:
    words = shlex.split(documented()[0])
    done = subprocess.run(
        [sys.executable, "-c", AIPO, *words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=1800
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    out = tmp_path / words[words.index("--out") + 1]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["step"] == 0
    assert rows[0]["eval/solo_pass1"] < 0.05
    assert rows[-1]["eval/solo_pass1"] >= 0.4
    # Help is not unlearnt on the way, and nobody was warned.
    assert rows[-1]["eval/assisted_pass1"] >= 0.6
    assert not any(name.startswith("problem/") for row in rows for name in row)


@pytest.mark.skipif("AIPO_TEST_TRAIN" not in os.environ, reason="`make test-train` runs it: minutes")
def test_the_single_file_learns(single_file: subprocess.Popen[str]) -> None:
    printed, errors = single_file.communicate(timeout=1800)
    print(printed, errors)
    assert single_file.returncode == 0
    alone = [float(value) for value in re.findall(r"alone (\d\.\d+)", printed)]
    assert alone[0] < 0.05
    assert alone[-1] >= 0.7
