"""OpenRLHF's own parser takes the flags of the recipes in examples/cluster."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import ray

from algorithms.cluster.hooks import DRIVER
from algorithms.cluster.launch import default_flags
from algorithms.cluster.options import split_arguments
from algorithms.cluster.settings import check_openrlhf_settings
from tests.cluster.recipes import SCRIPTS, learner_flags


class Parsed(Exception):
    """OpenRLHF got as far as Ray: its parser and its checks had nothing against the flags."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_flags_of_a_recipe_parse(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, flags = split_arguments(learner_flags(script, tmp_path))

    def stop(*_: object, **__: object) -> None:
        raise Parsed

    monkeypatch.setattr(ray, "init", stop)
    monkeypatch.setattr(sys, "argv", [DRIVER, *default_flags(flags), *flags, "--train.agent_func_path", "executor.py"])
    with pytest.raises(Parsed) as caught:
        runpy.run_module(DRIVER, run_name="__main__", alter_sys=True)
    frames = [entry.frame.f_locals for entry in caught.traceback if "args" in entry.frame.f_locals]
    arguments = frames[-1]["args"]
    assert arguments.rollout.n_samples_per_prompt == 16
    check_openrlhf_settings(arguments)
