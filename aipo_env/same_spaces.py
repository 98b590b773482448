"""One observation space and one action space for all agents, for libraries that ask for it (tianshou's `PettingZooEnv`)."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from gymnasium.wrappers.utils import create_zero_array
from pettingzoo import AECEnv
from pettingzoo.utils.wrappers import BaseWrapper

from aipo_env.errors import ConfigurationError
from aipo_env.spaces import Unicode


class SameSpaces(BaseWrapper):  # type: ignore[misc]
    """An AEC environment whose agents all have the same spaces.

    An observation has the keys of all agents' observations; those that an agent has not are empty or 0. An action is text
    of at most what the agent with the longest actions may write.

    Args:
        env: of `make_aec`, with text for actions.

    Raises:
        ConfigurationError: an agent's actions are no text.
    """

    def __init__(self, env: AECEnv[str, Any, Any]) -> None:
        super().__init__(env)
        actions = [env.action_space(agent) for agent in env.possible_agents]
        texts = [space for space in actions if isinstance(space, Unicode)]
        if len(texts) < len(actions):
            raise ConfigurationError('SameSpaces needs text for actions: make the environment with action_mode="text".')
        keys = {k: v for agent in env.possible_agents for k, v in env.observation_space(agent).spaces.items()}
        self._observation_space = spaces.Dict(keys)
        self._action_space = max(texts, key=lambda space: space.max_chars)

    def observation_space(self, agent: str) -> spaces.Dict:
        """All agents': the same object on every call."""
        return self._observation_space

    def action_space(self, agent: str) -> Unicode:
        """All agents': the same object on every call."""
        return self._action_space

    def observe(self, agent: str) -> dict[str, Any]:
        """The agent's observation, filled up."""
        return {**create_zero_array(self._observation_space), **super().observe(agent)}
