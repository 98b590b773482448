"""The Gymnasium face: the policy is the agent, the helpers are inside."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium import spaces

from aipo_env import markup
from aipo_env.episode import Episode
from aipo_env.errors import ConfigurationError
from aipo_env.game import ActionMode, ConsultGame, GameFace, Observation
from aipo_env.protocol import Agent, Reply
from aipo_env.tasks.base import Task
from aipo_env.trajectory import Trajectory


class ConsultEnv(GameFace, gymnasium.Env[Observation, Any]):
    r"""A reasoning task in which asking for help is an action.

    Observation: `Dict(prompt=Unicode, turn=Discrete(max_turns + 1), consult_mask=MultiBinary(number of helpers))`.

    Action, in text mode: a string (`Unicode`). `<consult agent="verify">...</consult>` asks, `\boxed{...}` or
    `<answer>...</answer>` answers. `Consult`, `Answer` and `TokenAction` objects are taken in every mode. In structured
    mode the space is `Dict(target=Discrete(number of helpers + 1), text=Unicode)`; the last target is the answer.

    Reward: 1 for a verified answer, 0 otherwise, less `consult_cost` per consult; `info["reward_parts"]` has the parts.

    Episode end: `terminated` on an answer (in a solo episode on the end of the turn), `truncated` on a spent budget.

    Made by `aipo_env.make`, which documents the options.

    Args:
        game: tasks, helpers and rules.
        action_mode: "text" or "structured".
        render_mode: None or "ansi".
        seed: used by the first `reset` that brings none.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it so
        "render_modes": ["ansi"],
        "render_fps": 4,
    }

    def __init__(
        self,
        game: ConsultGame,
        *,
        action_mode: ActionMode = "text",
        render_mode: str | None = None,
        seed: int | None = None,
    ) -> None:
        if render_mode not in (None, "ansi"):
            raise ConfigurationError(f"render_mode is None or 'ansi', got {render_mode!r}.")
        self.game = game
        self.action_mode = action_mode
        self.render_mode = render_mode
        self.telemetry: list[dict[str, Any]] = []
        """One entry per consult of the running episode: agent, error, cached, usage. Not part of `info`, which is
        deterministic."""
        self.observation_space: spaces.Space[Any] = game.observation_space
        self.action_space: spaces.Space[Any] = game.action_space(action_mode)
        self._episode: Episode | None = None
        self._initial_seed = seed

    @property
    def agents(self) -> Mapping[str, Agent]:
        """The helpers by name; empty in a solo environment."""
        return self.game.agents

    @property
    def agent_names(self) -> list[str]:
        """The helpers' names, in the order of the consult mask."""
        return self.game.agent_names

    def make_episode(self, task: Task | int, *, seed: int = 0, assisted: bool | None = None) -> Episode:
        """An episode of this environment's rules on one task; see `ConsultGame.make_episode`."""
        return self.game.make_episode(task, seed=seed, assisted=assisted)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: seeds the choice of tasks and the helpers.
            options: `{"task_index": i}` plays the task with that index.
        """
        if seed is None:
            seed = self._initial_seed
        self._initial_seed = None
        super().reset(seed=seed)
        self._episode = episode = self.game.begin(self.np_random, options)
        self.telemetry = []
        return self.game.observe(episode), self.game.info(episode, episode.segments, first=True)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """The policy takes one turn; if it consults, the helper's reply is in the next observation.

        Raises:
            InvalidActionError: for an action that is none of the documented kinds. Malformed *text* is not an error:
                it is an observation with the reason in `info["parse_error"]`.
        """
        before, reward = len(self.episode.segments), self.episode.reward
        [replies] = self.game.play_sync([self.episode], [action])
        return self._outcome(before, reward, replies)

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """`reset` for callers in an event loop; the task is made in a thread."""
        return await self.game.in_thread(functools.partial(self.reset, seed=seed, options=options))

    async def astep(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """`step` for callers in an event loop, which goes on while helpers reply and the answer is graded."""
        before, reward = len(self.episode.segments), self.episode.reward
        return self._outcome(before, reward, await self.game.play(self.episode, action))

    def _outcome(
        self, before: int, reward: float, replies: Mapping[str, Reply]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """What a step returns, of an episode that had `before` segments and this reward."""
        episode = self.episode
        self.telemetry += [consult_record(name, reply) for name, reply in replies.items()]
        info = self.game.info(episode, episode.segments[before:])
        earned = float(episode.reward - reward)
        return self.game.observe(episode), earned, episode.terminated, episode.truncated, info

    def render(self) -> str | None:
        """The transcript, one block per source (render_mode "ansi")."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() does nothing here: make the environment with render_mode="ansi".')
            return None
        return render_transcript(self.trajectory)

    def close(self) -> None:
        """Closes what the helpers hold open, apart from those that the caller made."""
        self.game.close()


def consult_record(name: str, reply: Reply) -> dict[str, Any]:
    """One consult as it stands in an environment's `telemetry`."""
    thoughts = {} if reply.reasoning is None else {"reasoning": reply.reasoning}
    return {"agent": name, "error": reply.error, "cached": reply.cached, "usage": reply.usage, **thoughts}


def render_transcript(trajectory: Trajectory) -> str:
    """A transcript that a person can read: one labelled block per segment; lengths alone where the task is confidential."""
    if trajectory.confidential:
        trajectory = trajectory.redacted()
    lines = [f"== {trajectory.env_id} · {trajectory.task_id}"]
    for segment in trajectory.segments:
        label = segment.agent or segment.source.name.lower()
        body = segment.text
        if segment.withheld is not None:
            body = f"(withheld: {segment.num_chars:,} characters, {segment.num_tokens:,} tokens)"
        elif segment.agent:
            body = body.removeprefix(markup.feedback_open(segment.agent)).removesuffix(markup.FEEDBACK_CLOSE)
        lines.append(f"[{label}]".ljust(13) + body.strip().replace("\n", "\n" + " " * 13))
    if trajectory.stop_reason:
        verdict = f", {trajectory.verdict}" if trajectory.verdict else ""
        lines.append(f"== ended by {trajectory.stop_reason}{verdict}; reward {trajectory.reward:g}")
    return "\n".join(lines) + "\n"
