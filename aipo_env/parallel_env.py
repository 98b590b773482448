"""The PettingZoo Parallel face: everybody acts in each tick, and those whose turn it is are heard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pettingzoo import ParallelEnv

from aipo_env.episode import POLICY, Episode
from aipo_env.errors import EpisodeStateError, InvalidActionError
from aipo_env.roles import POLICY_ROLE, ConsultRoles

Ticks = tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]


class ParallelConsultEnv(ConsultRoles, ParallelEnv[str, Any, Any]):  # type: ignore[misc]
    """The roles, observations, actions and rewards of `AECConsultEnv`, one tick at a time.

    `infos[role]["active"]` says, from `reset` on, whose action counts in the next tick: the policy's, or those of all
    helpers that it consulted. Actions of the others are ignored and may be left out. One turn of the policy may consult
    several helpers (`fan_out`): tags that follow each other, or a list of `Consult`s. Their replies are taken in one
    tick and stand in the order of the tags.

    The policy's info is that of `ConsultEnv` and "active"; its segments are those that are new since the last tick.

    Made by `aipo_env.make_parallel`, which documents the options; `ConsultRoles` has the arguments.
    """

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Starts an episode.

        Args:
            seed: seeds the choice of tasks and the helpers.
            options: `{"task_index": i}` plays the task with that index.

        Returns:
            Observations and infos by role.
        """
        episode = self._begin(seed, options)
        self.agents = self.possible_agents.copy()
        return self._observations(episode), self._infos(episode)

    def step(self, actions: Mapping[str, Any]) -> Ticks:
        """One tick.

        Args:
            actions: an action for each role that is active; those of others are ignored.

        Returns:
            Observations, rewards, terminations, truncations and infos, each by role.

        Raises:
            InvalidActionError: for a role without an action, an unknown role, or an action of a type that the role
                does not take; the episode goes on as before.
            EpisodeStateError: before `reset`, or after the end.
        """
        episode = self.episode
        if not self.agents:
            raise EpisodeStateError("the episode is over: call reset() first.")
        if not isinstance(actions, Mapping):
            raise InvalidActionError(f"actions is a dict from role to action, got {type(actions).__name__}.")
        if unknown := [str(role) for role in actions if role not in self._action_spaces]:
            raise InvalidActionError(
                f"there is no role {', '.join(unknown)}; this environment has {', '.join(self.possible_agents)}."
            )
        active = self._active(episode)
        if missing := sorted(active - actions.keys()):
            raise InvalidActionError(
                f"{', '.join(missing)} must act in this tick and brought no action; got {', '.join(actions) or 'none'}. "
                'infos[role]["active"] says who must.'
            )
        if POLICY_ROLE in active:
            self._act(actions[POLICY_ROLE])
        else:
            self._replies |= {self._name_of[role]: self._as_reply(role, actions[role]) for role in active}
        self._play_on()
        observations, infos = self._observations(episode), self._infos(episode)
        terminations = dict.fromkeys(self.agents, episode.terminated)
        truncations = dict.fromkeys(self.agents, episode.truncated)
        rewards = self._shares(episode, self._earned(episode))
        if episode.done:
            self.agents = []
        return observations, rewards, terminations, truncations, infos

    def _active(self, episode: Episode) -> set[str]:
        """The roles whose actions count in the next tick."""
        if episode.turn_of == POLICY:
            return {POLICY_ROLE} & self._action_spaces.keys()
        return {self._role_of[name] for name in episode.requests if name in self._role_of}

    def _observations(self, episode: Episode) -> dict[str, Any]:
        requests = episode.requests
        return {role: self._view(role, requests.get(self._name_of.get(role, ""))) for role in self.possible_agents}

    def _infos(self, episode: Episode) -> dict[str, dict[str, Any]]:
        requests = episode.requests
        infos = {role: self._helper_info(episode, requests.get(name)) for role, name in self._name_of.items()}
        if POLICY_ROLE in self._action_spaces:
            infos[POLICY_ROLE] = self._policy_info(episode) | {"active": episode.turn_of == POLICY}
        return infos
