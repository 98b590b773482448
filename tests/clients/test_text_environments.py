"""gem and SkyRL play our episodes through the examples: what they are told, and paid, is what the environment says."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import aipo_env

EXAMPLES = Path(__file__).parents[2] / "examples"
LEVEL, COST = {"level": 2}, {"consult_cost": 0.125, "fan_out": 2}


@functools.cache  # a name can be registered once
def load(name: str, package: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(package, reason=f"{package} is not installed; make test-clients has it")
        spec.loader.exec_module(module)
    return module


def turns(env: Any, task_id: str) -> list[str]:
    """Two questions at the same time, one alone, then the gold answer."""
    ask = '<consult agent="knowledge">Which rule does this operator follow?</consult>'
    gold = env.tasks.task(int(task_id.rpartition("/")[2])).gold
    return [ask + '<consult agent="verify">1+1=2</consult>', ask, f"\\boxed{{{gold}}}"]


def played_here(env_id: str, **reset: Any) -> tuple[list[dict[str, str]], list[float], dict[str, Any]]:
    """The messages, rewards and last info of the episode in process."""
    env = aipo_env.make(env_id, observation="messages", **LEVEL, **(COST if env_id.endswith("-consult") else {}))
    _, info = env.reset(**reset)
    rewards = []
    for turn in turns(env, info["task_id"]):
        observation, reward, terminated, truncated, info = env.step(turn)
        rewards.append(float(reward))
        if terminated or truncated:
            break
    return [dict(message) for message in observation["messages"]], rewards, info


def test_gem() -> None:
    example = load("gem_env", "gem")
    import gem

    gem.register("aipo/mine", example.AIPOEnv, name="rulebook-consult", **LEVEL, **COST)
    for seed in range(3):
        env = gem.make("aipo/mine")
        prompt, info = env.reset(seed=seed)
        said, rewards = [prompt], []
        for turn in turns(env.env, info["task_id"]):
            told, reward, terminated, truncated, info = env.step(turn)
            said += [turn, told]
            rewards.append(reward)
        messages, wanted, last = played_here("rulebook-consult", seed=seed)
        assert terminated
        assert not truncated
        assert rewards == wanted
        assert rewards[-1] == 1
        assert info["segments"] == last["segments"]
        assert [text for text in said if text] == [message["content"] for message in messages]


@pytest.mark.parametrize("name", ["rulebook-consult", "rulebook"])
def test_skyrl(name: str) -> None:
    example = load("skyrl_env", "skyrl_gym")
    import skyrl_gym

    rows = [row for row in example.rows("rulebook", range(3), COST, **LEVEL) if row["env_id"] == name]
    assert [row["task_index"] for row in rows] == [0, 1, 2]
    for row in rows:
        env = skyrl_gym.make(row["env_class"], extras=row)
        said, info = env.init(row["prompt"])
        assert said == row["prompt"]
        rewards = []
        for turn in turns(env.env, info["task_id"]):
            step = env.step(turn)
            said += [{"role": "assistant", "content": turn}, *step["observations"]]
            rewards.append(step["reward"])
            if step["done"]:
                break
        messages, wanted, last = played_here(name, options={"task_index": row["task_index"]})
        assert rewards == wanted
        assert said == messages
        assert step["metadata"]["segments"] == last["segments"]
        assert env.turns == len(rewards) == (3 if name.endswith("-consult") else 1)
        env.close()
