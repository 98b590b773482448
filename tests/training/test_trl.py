"""TRL with our term, and without: the example, as a user runs it. `make test-train` runs it, minutes, and sets AIPO_TEST_TRAIN."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT


@pytest.mark.skipif("AIPO_TEST_TRAIN" not in os.environ, reason="`make test-train` runs it: minutes")
def test_trl_learns_with_the_agent_term_and_not_with_replies_masked(tmp_path: Path) -> None:
    runs = {
        name: subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / "trl_aipo.py"), "--agent-loss", name, "--out", str(tmp_path / name)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name in ("aipo", "mask")
    }  # fmt: skip
    try:
        printed = {name: run.communicate(timeout=1800) for name, run in runs.items()}
    finally:
        for run in runs.values():
            run.kill()
    alone = {}
    for name, (output, errors) in printed.items():
        print(name, output, errors[-2000:])
        assert runs[name].returncode == 0
        alone[name] = [float(value) for value in re.findall(r"alone, \w+: (\d\.\d+)", output)]
    assert alone["aipo"][0] == alone["mask"][0] == 0.0
    assert alone["aipo"][1] >= 0.5
    assert alone["mask"][1] < 0.05
