"""The examples of neighbouring methods do what they say: verdicts that are Verify's."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def verdict() -> ModuleType:
    return load("verdict_reward")


def test_the_expert_is_verify(verdict: ModuleType) -> None:
    claims = ["4+4+1=9", "4+4+1=10", "9+9+9=27", "0+0+0=1"] * 30
    assert verdict.Expert().judge(claims[: verdict.BATCH]).tolist() == [1.0, 0.0, 1.0, 0.0] * 25


def test_a_policy_that_chooses_asks_what_tells_more(verdict: ModuleType) -> None:
    ((auc, accuracy),) = verdict.run("policy", [600], 0)
    assert auc > 0.9
    assert accuracy > 0.3
