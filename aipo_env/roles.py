"""Who plays which role in the PettingZoo faces, and what each role sees and earns."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Self, TypedDict

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding

from aipo_env.consulting import run_sync
from aipo_env.episode import GRADER, POLICY, Episode, EpisodeConfig
from aipo_env.errors import ConfigurationError, EpisodeStateError, InvalidActionError, unknown_id
from aipo_env.game import ActionMode, ConsultGame, GameFace, Observation
from aipo_env.gym_env import consult_record, render_transcript
from aipo_env.playing import PolicyLike, as_policy, turn_request
from aipo_env.protocol import Action, ConsultRequest, Reply, TurnPolicy
from aipo_env.spaces import Unicode
from aipo_env.trajectory import Trajectory

POLICY_ROLE = "policy_0"
_MOST_EPISODES = 100

HelperReward = Callable[[str, Trajectory], float]
"""A reward for the helpers: gets a helper's name ("verify") and the finished record; called once for each controlled one."""


class HelperObservation(TypedDict):
    """What a helper sees: what it is asked while it is its turn, nothing otherwise."""

    prompt: str
    """The transcript up to and including the consult tag; the query alone with `helper_view="query"`."""
    query: str
    """What the policy wrote inside the tag."""
    turn: int
    """Turns that the policy has taken."""


class ConsultRoles(GameFace):
    """What the two PettingZoo faces share: an episode whose roles are played by the caller or by plugged agents.

    Args:
        game: tasks, helpers and rules.
        controlled: the roles that the caller plays ("policy_0", "verify_0", ...); None for all.
        policy: plays the policy where the caller does not.
        helper_reward: replaces the team's reward for the helpers.
        action_mode: the policy's, "text" or "structured".
        render_mode: None, "ansi" or "human".
        seed: used by the first `reset` that brings none.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - PettingZoo declares it so
        "name": "aipo",
        "render_modes": ["ansi", "human"],
        "render_fps": 4,
        # The caller of a conversion would have to know whose turn it is; `make_parallel` is native instead.
        "is_parallelizable": False,
    }

    possible_agents: list[str]
    agents: list[str]

    def __init__(
        self,
        game: ConsultGame,
        *,
        controlled: Iterable[str] | None = None,
        policy: PolicyLike | None = None,
        helper_reward: HelperReward | None = None,
        action_mode: ActionMode = "text",
        render_mode: str | None = None,
        seed: int | None = None,
    ) -> None:
        if render_mode not in (None, "ansi", "human"):
            raise ConfigurationError(f"render_mode is None, 'ansi' or 'human', got {render_mode!r}.")
        if helper_reward is not None and not callable(helper_reward):
            raise ConfigurationError(
                f"helper_reward is a function of a helper's name and a Trajectory, got {type(helper_reward).__name__}."
            )
        self.game = game
        self.action_mode = action_mode
        self.render_mode = render_mode
        self.metadata = type(self).metadata | {"name": game.env_id}
        self.telemetry: list[dict[str, Any]] = []
        """One entry per consult of the running episode: agent, error, cached, usage. Not part of the infos, which are
        deterministic."""
        self.possible_agents = controlled_roles(game, controlled)
        self.agents = []
        self._helper_reward = helper_reward
        self._policy = _policy_player(policy, POLICY_ROLE in self.possible_agents)
        self._name_of = {role: role.removesuffix("_0") for role in self.possible_agents if role != POLICY_ROLE}
        self._role_of = {name: role for role, name in self._name_of.items()} | {POLICY: POLICY_ROLE}
        self._plugged = [name for name in game.agent_names if name not in self._role_of]
        game.require_agents(self._plugged)
        self._observation_spaces: dict[str, spaces.Space[Any]] = {
            role: game.observation_space if role == POLICY_ROLE else _helper_space(game.config)
            for role in self.possible_agents
        }
        policy_space = game.action_space(action_mode)
        self._action_spaces: dict[str, spaces.Space[Any]] = {
            role: policy_space if role == POLICY_ROLE else Unicode(max_chars=2 * game.config.max_reply_chars)
            for role in self.possible_agents
        }
        self._initial_seed = seed
        self._np_random: np.random.Generator | None = None
        self._episode: Episode | None = None
        self._replies: dict[str, Reply] = {}
        """Replies that were given before it was their turn in the order of the tags."""
        self._segments_seen = 0
        self._reward_paid = 0.0

    # -- what a caller reads ------------------------------------------------------------------------------------------

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """The policy's `Dict(prompt, turn, consult_mask)`, a helper's `Dict(prompt, query, turn)`; always the same object."""
        return self._observation_spaces[self._known(agent)]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """The policy's turn, or a helper's reply as text; always the same object."""
        return self._action_spaces[self._known(agent)]

    def render(self) -> str | None:
        """The transcript, one block per source: returned with render_mode "ansi", printed with "human"."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() does nothing here: make the environment with render_mode="ansi".')
            return None
        text = render_transcript(self.trajectory)
        if self.render_mode == "ansi":
            return text
        print(text, end="")
        return None

    def fork(self) -> Self:
        """A copy at the running episode's present state, which goes on by itself: several replies to one query, say.

        Helpers and `policy` are the same objects in both.
        """
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, dict | list):
                setattr(other, name, value.copy())
        other._episode = self.episode.fork()
        other._np_random = copy.deepcopy(self._np_random)
        return other

    def close(self) -> None:
        """Closes what the helpers hold open, apart from those that the caller made."""
        self.game.close()

    # -- playing ------------------------------------------------------------------------------------------------------

    def _begin(self, seed: int | None, options: Mapping[str, Any] | None) -> Episode:
        """Starts an episode, exactly as the Gymnasium face does, and plays it up to the first controlled role.

        PettingZoo's `reset` leaves somebody to act: one that ends before is followed by the next.
        """
        if seed is None:
            seed = self._initial_seed
        self._initial_seed = None
        if seed is not None or self._np_random is None:
            self._np_random, _ = seeding.np_random(seed)
        if unknown := (options or {}).keys() - {"task_index"}:
            # PettingZoo's own api_test passes an option that no environment knows, so this cannot be an error.
            gymnasium.logger.warn(f"reset knows the option 'task_index'; {sorted(unknown)} changed nothing.")
            options = {k: v for k, v in (options or {}).items() if k not in unknown}
        for _ in range(_MOST_EPISODES):
            self._episode = episode = self.game.begin(self._np_random, options)
            self.telemetry = []
            self._replies = {}
            self._segments_seen = 0
            self._reward_paid = 0.0
            self._play_on()
            if not episode.done:
                return episode
        raise EpisodeStateError(
            f"reset plays until one of {', '.join(self.possible_agents)} has to act, and policy= has ended {_MOST_EPISODES} "
            f"episodes without asking them, the last by {episode.stop_reason!r}. Pass a policy that consults them, or control "
            f"{POLICY_ROLE} as well."
        )

    def _act(self, action: Action | Mapping[str, Any]) -> None:
        """The policy's turn; the plugged helpers among those that it consulted are asked at once, all at the same time."""
        episode = self.episode
        episode.act(self.game.lower(action))
        if asked := {name: request for name, request in episode.requests.items() if name in self._plugged}:
            self._replies.update(zip(asked, run_sync(self.game.ask_agents(asked, episode)), strict=True))

    def _play_on(self) -> None:
        """Plays the roles that are not the caller's, until one that is has to act or the episode is over."""
        episode = self.episode
        while (name := episode.turn_of) is not None:
            if name in self._replies:
                reply = self._replies.pop(name)
                episode.reply(reply)
                self.telemetry.append(consult_record(name, reply))
            elif name == GRADER:
                self.game.grade(episode)
            elif name in self._role_of and (name != POLICY or self._policy is None):
                return
            else:
                self._play_policy(episode)

    def _play_policy(self, episode: Episode) -> None:
        assert self._policy is not None
        seed = np.random.SeedSequence(episode.seed, spawn_key=(episode.turn, 0, 0)).generate_state(1)
        request = turn_request(episode, seed=int(seed[0]))
        try:
            action = run_sync(self._policy.act(request))
        except (TimeoutError, ConnectionError):
            episode.truncate("error")
        else:
            self._act(action)

    def _as_reply(self, role: str, action: Any) -> Reply:
        reply = Reply(action) if isinstance(action, str) else action
        if not isinstance(reply, Reply):
            raise InvalidActionError(
                f"{role} is a helper: its action is its reply, a str or a Reply; got {type(action).__name__}: "
                f'{str(action)[:80]!r}. To decline, pass Reply("", error="why", declined=True).'
            )
        if not self.game.finds_leaks:
            return reply
        return run_sync(self.game.screened(self.episode.requests[self._name_of[role]], reply, self.episode))

    # -- what each role gets ------------------------------------------------------------------------------------------

    def _view(self, role: str, request: ConsultRequest | None) -> Observation | HelperObservation:
        """What a role sees; `request` is what a helper is asked, None while it is not its turn."""
        episode = self.episode
        if role == POLICY_ROLE:
            return self.game.observe(episode)
        if request is None:
            return {"prompt": "", "query": "", "turn": episode.turn}
        # With helper_view="query" the request holds no transcript.
        prompt = request.transcript if self.game.config.helper_view == "transcript" else request.query
        return {"prompt": prompt, "query": request.query, "turn": episode.turn}

    def _policy_info(self, episode: Episode) -> dict[str, Any]:
        """The same `info` as the Gymnasium face's, with the segments that are new since the last one."""
        segments = episode.segments
        seen, self._segments_seen = self._segments_seen, len(segments)
        return self.game.info(episode, segments[seen:])

    def _helper_info(self, episode: Episode, request: ConsultRequest | None) -> dict[str, Any]:
        """`active`; `task_id`; `seed`, from which alone a sampling helper draws (0 while it is not its turn)."""
        active = request is not None
        return {"active": active, "task_id": episode.task.id, "seed": request.seed if request is not None else 0}

    def _earned(self, episode: Episode) -> float:
        """What the team earned since the last call."""
        total = episode.reward
        # The same subtraction as in the Gymnasium face: the last bit agrees too.
        earned, self._reward_paid = float(total - self._reward_paid), total
        return earned

    def _shares(self, episode: Episode, earned: float) -> dict[str, float]:
        """What each controlled role gets of what the team earned."""
        shares = dict.fromkeys(self.possible_agents, earned)
        if self._helper_reward is not None:
            trajectory = episode.trajectory() if episode.done else None
            for role, name in self._name_of.items():
                shares[role] = 0.0 if trajectory is None else float(self._helper_reward(name, trajectory))
        return shares

    def _known(self, agent: str) -> str:
        if agent not in self._action_spaces:
            raise unknown_id("controlled role", agent, self._action_spaces)
        return agent


def controlled_roles(game: ConsultGame, controlled: Iterable[str] | None) -> list[str]:
    """The roles that the caller plays, the policy first, then the helpers in the order of the consult mask.

    Args:
        game: whose helpers there are; a solo game has none.
        controlled: the roles by name; None for all.
    """
    helpers = game.agent_names if game.config.assisted else []
    known = [POLICY_ROLE, *(f"{name}_0" for name in helpers)]
    if controlled is None:
        return known
    if isinstance(controlled, str) or not isinstance(controlled, Collection):
        raise ConfigurationError(
            f"controlled is a list of roles out of {', '.join(known)}; got {controlled!r}. For one role write "
            f"controlled=({controlled!r},)."
        )
    for role in controlled:
        if role not in known:
            raise unknown_id("role", role, known, f"{game.env_id} has the roles {', '.join(known)}.")
    if not controlled or len(set(controlled)) < len(controlled):
        raise ConfigurationError(
            f"controlled names one role or more out of {', '.join(known)}, each once; got {list(controlled)}."
        )
    return [role for role in known if role in controlled]


def _helper_space(config: EpisodeConfig) -> spaces.Dict:
    return spaces.Dict(
        prompt=Unicode(max_chars=10_000_000),
        query=Unicode(max_chars=10_000_000),
        turn=spaces.Discrete(config.max_turns + 1),
    )


def _policy_player(policy: PolicyLike | None, controlled: bool) -> TurnPolicy | None:
    if controlled and policy is not None:
        raise ConfigurationError(
            f"policy= plays {POLICY_ROLE} where the caller does not, but controlled= has it. Drop one of the two."
        )
    if not controlled and policy is None:
        raise ConfigurationError(
            f"somebody has to play {POLICY_ROLE}, which controlled= leaves out: pass policy=, a TurnPolicy or a function "
            "from the transcript to the turn's text."
        )
    return None if policy is None else as_policy(policy)
