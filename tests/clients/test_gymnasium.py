"""Gymnasium's own wrappers around our environments, as anybody uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector.utils import create_empty_array
from gymnasium.wrappers.utils import create_zero_array

import aipo_env
from aipo_env.errors import ConfigurationError, UnknownOptionError
from aipo_env.spaces import Unicode

TURNS = ["I am not sure yet.", '<consult agent="verify">17+25=42</consult>', "\\boxed{1}"]
WRAPPERS: dict[str, Callable[[Any], gymnasium.Env[Any, Any]]] = {
    "FrameStackObservation": lambda env: wrappers.FrameStackObservation(env, 2),
    "FrameStackObservation, zeros": lambda env: wrappers.FrameStackObservation(env, 3, padding_type="zero"),
    "DelayObservation": lambda env: wrappers.DelayObservation(env, 1),
    "TimeLimit": lambda env: wrappers.TimeLimit(env, 3),
    "TimeAwareObservation": lambda env: wrappers.TimeAwareObservation(wrappers.TimeLimit(env, 3), flatten=False),
    "RecordEpisodeStatistics": lambda env: wrappers.RecordEpisodeStatistics(env),
    "PassiveEnvChecker": lambda env: wrappers.PassiveEnvChecker(env),
    "OrderEnforcing": lambda env: wrappers.OrderEnforcing(env),
    "Autoreset": lambda env: wrappers.Autoreset(env),
    "FilterObservation": lambda env: wrappers.FilterObservation(env, ["prompt", "turn"]),
    "TransformReward": lambda env: wrappers.TransformReward(env, lambda reward: 2 * reward),
    "NormalizeReward": lambda env: wrappers.NormalizeReward(env),
    "StickyAction": lambda env: wrappers.StickyAction(env, 0.5),
    "TransformAction": lambda env: wrappers.TransformAction(env, lambda text: text + " ", env.action_space),
}


@pytest.mark.parametrize("kind", ["text", "messages"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_s_observations_are_in_its_space(name: str, kind: str) -> None:
    env = WRAPPERS[name](aipo_env.make("rulebook-consult", observation=kind))
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    for turn in TURNS:
        observation, reward, terminated, truncated, _ = env.step(turn)
        assert observation in env.observation_space
        assert isinstance(float(reward), float)
        if terminated or truncated:
            break
    env.close()


def test_stacked_and_delayed_observations_hold_the_real_texts() -> None:
    plain = aipo_env.make("rulebook-consult")
    first, _ = plain.reset(seed=0)
    second, *_ = plain.step(TURNS[0])
    stacked = wrappers.FrameStackObservation(aipo_env.make("rulebook-consult"), 2, padding_type="zero")
    assert stacked.reset(seed=0)[0]["prompt"] == ("", first["prompt"])
    observation = stacked.step(TURNS[0])[0]
    assert observation["prompt"] == (first["prompt"], second["prompt"])
    assert np.array_equal(observation["consult_mask"], [first["consult_mask"], second["consult_mask"]])
    delayed = wrappers.DelayObservation(aipo_env.make("rulebook-consult"), 1)
    assert delayed.reset(seed=0)[0]["prompt"] == ""
    assert delayed.step(TURNS[0])[0]["prompt"] == first["prompt"]
    for env in (plain, stacked, delayed):
        env.close()


def test_nothing_is_an_empty_text() -> None:
    space = Unicode()
    assert create_zero_array(space) == ""
    assert create_empty_array(space, 3) == ("", "", "")
    assert create_empty_array(space, None) == ""


def test_an_option_that_nothing_takes_is_what_python_would_say() -> None:
    for make in (
        lambda: aipo_env.make("rulebook-consult", frameskip=4),
        lambda: gymnasium.make("aipo/rulebook-consult-v0", frameskip=4),
    ):
        with pytest.raises(UnknownOptionError, match="unexpected keyword argument 'frameskip'") as caught:
            make()
        assert isinstance(caught.value, TypeError)
        assert isinstance(caught.value, ConfigurationError)
