"""The study of trained helpers at toy size: its table, and that it goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra 'train' is not installed")

from aipo_env.errors import ConfigurationError
from algorithms.multi_agent import TrainedHelper
from benchmarks.roles import ARMS, Settings, expand, main, right_share, start_helper


def test_it_runs_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(out=tmp_path, seeds=(1, 2), steps=1, tuning_steps=2, problems=4)
    assert main(settings) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 * len(ARMS)
    table = (tmp_path / "roles.md").read_text()
    assert [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")][1:] == [
        f"| {a}" for a in ARMS
    ]
    found = json.loads((tmp_path / "roles.json").read_text())["measured"]
    assert list(found) == [f"{arm}, seed {seed}" for seed in (1, 2) for arm in ARMS]
    before = (tmp_path / "team-1" / "measured.json").read_bytes()
    assert main(dataclasses.replace(settings)) == 0
    assert (tmp_path / "team-1" / "measured.json").read_bytes() == before
    assert (tmp_path / "roles.md").read_text() == table
    with pytest.raises(ConfigurationError, match="steps was 1 and is 2"):
        main(dataclasses.replace(settings, steps=2))


def test_the_start_helper_knows_the_rule_in_part() -> None:
    assert expand("473@128", "@") == "4+4+1;7+7+2;3+3+8"
    helper = TrainedHelper("knowledge", start_helper(Settings(right_share=1.0, tuning_steps=40), 0))
    assert right_share(helper, 32) > 0.5
