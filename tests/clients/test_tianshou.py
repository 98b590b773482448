"""tianshou's `PettingZooEnv` around ours."""

from __future__ import annotations

import warnings

import pytest

import aipo_env
from aipo_env.same_spaces import SameSpaces
from tests.clients.test_pettingzoo import ALL

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tianshou = pytest.importorskip("tianshou.env", reason="tianshou is not installed; make test-clients has it")


@pytest.mark.parametrize("controlled", [ALL, ("policy_0",)])
def test_an_episode(controlled: tuple[str, ...]) -> None:
    env = tianshou.PettingZooEnv(SameSpaces(aipo_env.make_aec("rulebook-consult", controlled=controlled)))
    observation, _ = env.reset(seed=0)
    assert observation["agent_id"] == "policy_0"
    assert observation["obs"] in env.observation_space
    observation, rewards, *_ = env.step('<consult agent="verify">1+1=2</consult>')
    assert observation["agent_id"] == ("verify_0" if controlled == ALL else "policy_0")
    if controlled == ALL:
        assert observation["obs"]["query"] == "1+1=2"
        observation, rewards, *_ = env.step("correct")
    _, rewards, terminated, truncated, _ = env.step("\\boxed{1}")
    assert (len(rewards), terminated, truncated) == (len(controlled), True, False)
    env.close()


def test_it_wants_the_same_spaces() -> None:
    with pytest.raises(AssertionError, match="must be identical"):
        tianshou.PettingZooEnv(aipo_env.make_aec("rulebook-consult"))
