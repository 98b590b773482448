"""torchrl's environments around ours."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torchrl", reason="torchrl is not installed; make test-clients has it")

from torchrl.data import NonTensor
from torchrl.envs import GymEnv, GymWrapper
from torchrl.envs.utils import check_env_specs

import aipo_env
from aipo_env.spaces import Unicode

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(torchrl|tensordict|torch).*")


def test_a_wrapped_environment_keeps_its_specs() -> None:
    env = GymWrapper(aipo_env.make("rulebook-consult"))
    assert isinstance(env.action_spec, NonTensor)
    assert isinstance(env.observation_spec["prompt"], NonTensor)
    check_env_specs(env)
    start = env.reset()
    assert "Problem" in start["prompt"] or start["prompt"]
    after = env.step(start.set("action", "\\boxed{1}"))["next"]
    assert after["prompt"].endswith("\\boxed{1}")
    assert bool(after["terminated"])
    env.close()


def test_a_chat_is_no_tensor_either() -> None:
    env = GymWrapper(aipo_env.make("rulebook-consult", observation="messages", dialect="tools"))
    assert isinstance(env.observation_spec["messages"], NonTensor)
    check_env_specs(env)
    start = env.reset()
    after = env.step(start.set("action", "Hm."))["next"]
    assert [message["role"] for message in after["messages"]] == ["system", "user", "assistant", "tool"]
    env.close()


def test_an_environment_is_made_by_its_id() -> None:
    env = GymEnv("aipo/rulebook-consult-v0", max_turns=3)
    check_env_specs(env)
    assert len(env.rollout(10)) <= 10
    env.close()


def test_an_option_that_nothing_takes_is_told() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        GymEnv("aipo/rulebook-consult-v0", nonsense=3)


def test_an_environment_that_was_there_before_torchrl_needs_one_call() -> None:
    script = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import aipo_env; env = aipo_env.make('rulebook-consult')\n"
        "from torchrl.envs import GymWrapper\n"
        "from aipo_env.spaces import tell_torchrl; tell_torchrl()\n"
        "print(type(GymWrapper(env).action_spec).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("NonTensor"), done.stderr
    assert Unicode().sample() in Unicode()
