"""The PettingZoo AEC face: the policy and its helpers take turns."""

from __future__ import annotations

from typing import Any

from pettingzoo import AECEnv

from aipo_env.episode import POLICY, Episode
from aipo_env.errors import EpisodeStateError
from aipo_env.roles import POLICY_ROLE, ConsultRoles


class AECConsultEnv(ConsultRoles, AECEnv[str, Any, Any]):  # type: ignore[misc]
    r"""A reasoning task in which asking for help is an action, and answering it another agent's.

    Roles: `policy_0`, and `<helper>_0` for each helper. The caller plays those in `possible_agents`; plugged agents play
    the others. The policy acts; if it consults, the addressed helper acts (several in the order of their tags); then the
    policy again. A helper that is not addressed takes no turn.

    Observations: the policy's as in `ConsultEnv`; a helper's `Dict(prompt=Unicode, query=Unicode, turn=Discrete)`, empty
    while it is not its turn.

    Actions: the policy's as in `ConsultEnv`; a helper's is its reply, a text or a `Reply`, whose `error` declines.

    Rewards: the team's; each role gets what the policy gets, at the same step. With `helper_reward` the helpers get 0,
    and at the end what it returns.

    Episode end: all roles end together; each is then stepped with None, as PettingZoo wants. Where the caller plays
    helpers alone, `reset` passes over episodes in which the policy asks none of them.

    Made by `aipo_env.make_aec`, which documents the options; `ConsultRoles` has the arguments.
    """

    agent_selection: str
    _skip_agent_selection: str | None = None
    _paid_last = False
    """Whether the last step left anything but 0 in `rewards`."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Starts an episode.

        Args:
            seed: seeds the choice of tasks and the helpers.
            options: `{"task_index": i}` plays the task with that index.
        """
        episode = self._begin(seed, options)
        roles = self.possible_agents
        self.agents = roles.copy()
        self.rewards = dict.fromkeys(roles, 0.0)
        self._cumulative_rewards = dict.fromkeys(roles, 0.0)
        self.terminations = dict.fromkeys(roles, False)
        self.truncations = dict.fromkeys(roles, False)
        self.infos = {
            role: self._policy_info(episode) if role == POLICY_ROLE else self._helper_info(episode, None)
            for role in roles
        }
        self._skip_agent_selection = None
        self._paid_last = False
        self.agent_selection = roles[0]
        self._pay(episode)
        self._pass_on(episode)

    def step(self, action: Any) -> None:
        """The role in `agent_selection` acts; None for one whose episode is over.

        Raises:
            InvalidActionError: for an action of a type that the role does not take; the episode goes on as before.
            EpisodeStateError: before `reset`, or for an action after the end.
        """
        episode = self.episode
        role = self.agent_selection
        if episode.turn_of is None:
            self._step_ended(role, action)
            return
        if role == POLICY_ROLE:
            self._act(action)
        else:
            self._replies[self._name_of[role]] = self._as_reply(role, action)
        self._play_on()
        self._cumulative_rewards[role] = 0.0
        self._pay(episode)
        if role != POLICY_ROLE:
            self.infos[role] = self._helper_info(episode, None)
        self._pass_on(episode)

    def observe(self, agent: str) -> Any:
        """What a role sees now: the policy the transcript, a helper what it is asked while it is its turn."""
        episode = self.episode
        turn_of = episode.turn_of
        due = turn_of not in (POLICY, None) and self._name_of.get(self._known(agent)) == turn_of
        return self._view(self._known(agent), episode.request if due else None)

    def last(self, observe: bool = True) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Observation, reward since its last step, terminated, truncated and info of the role that acts next."""
        self._require_agents()
        return super().last(observe)  # type: ignore[no-any-return]

    def _pay(self, episode: Episode) -> None:
        earned = self._earned(episode)
        if not earned and not self._paid_last and episode.turn_of is not None:
            return  # the usual step: every entry of `rewards` is 0 already
        self._paid_last = bool(earned)
        rewards, cumulative = self.rewards, self._cumulative_rewards
        for role, share in self._shares(episode, earned).items():
            rewards[role] = share
            cumulative[role] += share

    def _pass_on(self, episode: Episode) -> None:
        """Gives the turn to the role that is due; at the end, to the first that has to take its last step."""
        turn_of = episode.turn_of
        if turn_of is None:
            self.terminations = dict.fromkeys(self.agents, episode.terminated)
            self.truncations = dict.fromkeys(self.agents, episode.truncated)
            self._deads_step_first()
        else:
            role = self.agent_selection = self._role_of[turn_of]
            if turn_of != POLICY:
                self.infos[role] = self._helper_info(episode, episode.request)
                return
        if POLICY_ROLE in self.infos and len(episode.segments) > self._segments_seen:
            self.infos[POLICY_ROLE] = self._policy_info(episode)

    def _step_ended(self, role: str, action: Any) -> None:
        self._require_agents()
        if action is not None:
            raise EpisodeStateError(f"the episode is over: step {role} with None, or reset; got {str(action)[:80]!r}.")
        self._was_dead_step(None)

    def _require_agents(self) -> None:
        if not self.agents:
            over = "the episode is over" if self._episode is not None else "there is no episode yet"
            raise EpisodeStateError(f"{over}: call reset() first.")
