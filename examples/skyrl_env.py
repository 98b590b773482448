"""An environment of ours as one of SkyRL's: messages in, messages out.

    pip install skyrl-gym==0.4.0 && python examples/skyrl_env.py

`rows` makes the rows of its data set, one with helpers and one alone for each task. The rollouts of a row are a group, so the
baselines are by mode. What is lost: helpers' replies are observations, which its loss masks. docs/guides/other_trainers.md
says more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import skyrl_gym
from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput

import aipo_env


class AIPOEnv(BaseTextEnv):
    """The task that a row names, alone or with helpers."""

    def __init__(self, env_config: Any = None, extras: dict[str, Any] | None = None) -> None:
        super().__init__()
        row = extras or {}
        self._task = int(row["task_index"])
        self.env = aipo_env.make(row["env_id"], observation="messages", **row.get("env_options", {}))
        self._seen = 0

    def init(self, prompt: list[dict[str, str]]) -> tuple[list[dict[str, str]], dict[str, Any]]:
        """The prompt of the task, which is that of the row."""
        observation, info = self.env.reset(options={"task_index": self._task})
        self._seen = 0
        return self._new(observation), info

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """A turn of the policy, and the messages that follow it."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.turns += 1
        self._seen += 1  # its own turn
        return BaseTextEnvStepOutput(
            observations=self._new(observation), reward=float(reward), done=terminated or truncated, metadata=info
        )

    def close(self) -> None:
        """Ends what the environment holds."""
        self.env.close()

    def _new(self, observation: dict[str, Any]) -> list[dict[str, str]]:
        new = [dict(message) for message in observation["messages"][self._seen :]]
        self._seen += len(new)
        return new


def rows(name: str, tasks: Iterable[int], consult_options: dict[str, Any], **both: Any) -> list[dict[str, Any]]:
    """Rows of SkyRL's data set: each task once with helpers, which `consult_options` are about, and once alone."""
    found = []
    for env_id, options in ((f"{name}-consult", both | consult_options), (name, both)):
        env = aipo_env.make(env_id, observation="messages", **options)
        for task in tasks:
            observation, _ = env.reset(options={"task_index": task})
            prompt = [dict(message) for message in observation["messages"]]
            found.append(
                {"prompt": prompt, "env_class": "aipo", "env_id": env_id, "task_index": task, "env_options": options}
            )
    return found


skyrl_gym.register(id="aipo", entry_point=AIPOEnv)

if __name__ == "__main__":
    for row in rows("rulebook", range(2), {"max_consults": 2}, level=2):
        env = skyrl_gym.make(row["env_class"], extras=row)
        messages, _ = env.init(row["prompt"])
        turns = ['<consult agent="knowledge">Which rule does this operator follow?</consult>', r"\boxed{0}"]
        while turns:
            step = env.step(turns.pop(0))
            messages += step["observations"]
            if step["done"]:
                break
        print(row["env_id"], row["task_index"], [message["content"] for message in messages], step["reward"])
        env.close()
