"""An environment of ours as one of gem's: text in, text out.

    pip install gem-llm==0.1.0 && python examples/gem_env.py

What is lost on the way: gem passes texts, so the trainer behind it makes the ids and the mask of an episode, and a helper's
reply is an observation like any other. `info` keeps what ours has, `segments` among it. docs/guides/other_trainers.md says
more.
"""

from __future__ import annotations

from typing import Any

import gem

import aipo_env


class AIPOEnv(gem.Env):
    """Observations are the new messages' text: the prompt first, then what follows each turn of the policy."""

    def __init__(self, name: str, **options: Any) -> None:
        self.env = aipo_env.make(name, observation="messages", **options)
        self._seen = 0

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """The prompt of a task that the seed decides."""
        observation, info = self.env.reset(seed=seed)
        self._seen = 0
        return self._new(observation), info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """A turn of the policy; the observation is what it is told next."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._seen += 1  # its own turn
        return self._new(observation), float(reward), terminated, truncated, info

    def _new(self, observation: dict[str, Any]) -> str:
        new = observation["messages"][self._seen :]
        self._seen += len(new)
        return "\n\n".join(message["content"] for message in new)


gem.register("aipo/rulebook-consult", AIPOEnv, name="rulebook-consult", level=2)

if __name__ == "__main__":
    env = gem.make("aipo/rulebook-consult")
    prompt, info = env.reset(seed=0)
    print(prompt)
    for turn in ('<consult agent="knowledge">Which rule does this operator follow?</consult>', r"\boxed{0}"):
        told, reward, terminated, truncated, info = env.step(turn)
        print(f"> {turn}\n{told}\nreward {reward}, ended: {terminated or truncated}")
