"""PettingZoo's own wrappers and conversions around our environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.test import api_test, parallel_api_test
from pettingzoo.utils import BaseParallelWrapper, BaseWrapper, OrderEnforcingWrapper, aec_to_parallel, parallel_to_aec
from pettingzoo.utils.conversions import turn_based_aec_to_parallel
from pettingzoo.utils.wrappers import MultiEpisodeParallelEnv

import aipo_env
from aipo_env.errors import ConfigurationError
from aipo_env.same_spaces import SameSpaces

ALL = ("policy_0", "verify_0", "knowledge_0", "reasoning_0")


def aec(**options: Any) -> AECEnv[Any, Any, Any]:
    return aipo_env.make_aec("rulebook-consult", **options)


def parallel(**options: Any) -> ParallelEnv[Any, Any, Any]:
    return aipo_env.make_parallel("rulebook-consult", **options)


@pytest.mark.parametrize(
    "wrap",
    [BaseWrapper, OrderEnforcingWrapper, SameSpaces],
    ids=["base", "order", "same spaces"],
)
@pytest.mark.parametrize("controlled", [ALL, ("policy_0",)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_wrapped_aec(wrap: Callable[[Any], Any], controlled: tuple[str, ...]) -> None:
    api_test(wrap(aec(controlled=controlled)), num_cycles=20)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BaseParallelWrapper(parallel(controlled=ALL)),
        lambda: MultiEpisodeParallelEnv(parallel(controlled=ALL), num_episodes=2),
        lambda: turn_based_aec_to_parallel(aec(controlled=ALL)),
        lambda: aec_to_parallel(parallel_to_aec(parallel(controlled=ALL))),
    ],
    ids=["base", "several episodes", "turn-based AEC", "there and back"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_wrapped_and_converted_parallel(make: Callable[[], Any]) -> None:
    parallel_api_test(make(), num_cycles=20)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_parallel_to_aec() -> None:
    api_test(parallel_to_aec(parallel(controlled=ALL)), num_cycles=20)


def test_one_agent_after_another_is_not_all_at_once() -> None:
    with pytest.raises(AssertionError, match="not generally safe"):
        aec_to_parallel(aec())


def test_calls_out_of_order_are_told_by_the_wrapper() -> None:
    env = OrderEnforcingWrapper(aec())
    with pytest.raises(Exception, match="reset"):
        env.step("\\boxed{1}")


def test_same_spaces() -> None:
    env = SameSpaces(aec(controlled=ALL))
    assert len({id(env.observation_space(agent)) for agent in env.possible_agents}) == 1
    assert len({id(env.action_space(agent)) for agent in env.possible_agents}) == 1
    env.reset(seed=0)
    for turn in ('<consult agent="verify">1+1=2</consult>', "correct", "\\boxed{1}"):
        observation, *_ = env.last()
        assert observation in env.observation_space(env.agent_selection)
        inner = env.env.observe(env.agent_selection)
        assert {key: observation[key] for key in inner if key != "consult_mask"} == {
            k: v for k, v in inner.items() if k != "consult_mask"
        }
        assert observation["query"] == ("1+1=2" if env.agent_selection == "verify_0" else "")
        env.step(turn)
    with pytest.raises(ConfigurationError, match='action_mode="text"'):
        SameSpaces(aec(action_mode="structured"))
