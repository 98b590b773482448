"""The Gymnasium face: the policy is the agent, the helpers are inside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from aipo_env import markup
from aipo_env.consulting import consult, run_sync
from aipo_env.episode import POLICY, Episode, EpisodeConfig, RewardFunction, TokenCodec
from aipo_env.errors import ConfigurationError, EpisodeStateError, InvalidActionError
from aipo_env.prompts import DESCRIPTIONS, build_prompt
from aipo_env.protocol import Action, Agent, Answer, Consult, Malformed
from aipo_env.spaces import Unicode
from aipo_env.tasks.base import Task, TaskSet
from aipo_env.trajectory import Segment, Trajectory

ActionMode = Literal["text", "structured"]


class Observation(TypedDict):
    """What the policy sees."""

    prompt: str
    """The whole transcript so far, prompt first."""
    turn: int
    """Turns taken."""
    consult_mask: NDArray[np.int8]
    """1 for each helper that may be consulted now, in the order of `env.unwrapped.agent_names`."""


class ConsultEnv(gymnasium.Env[Observation, Any]):
    r"""A reasoning task in which asking for help is an action.

    Observation: `Dict(prompt=Unicode, turn=Discrete(max_turns + 1), consult_mask=MultiBinary(number of helpers))`.

    Action, in text mode: a string (`Unicode`). `<consult agent="verify">...</consult>` asks, `\boxed{...}` or
    `<answer>...</answer>` answers. `Consult`, `Answer` and `TokenAction` objects are taken in every mode. In structured
    mode the space is `Dict(target=Discrete(number of helpers + 1), text=Unicode)`; the last target is the answer.

    Reward: 1 for a verified answer, 0 otherwise, less `consult_cost` per consult; `info["reward_parts"]` has the parts.

    Episode end: `terminated` on an answer (in a solo episode on the end of the turn), `truncated` on a spent budget.

    Made by `aipo_env.make`, which documents the options.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it so
        "render_modes": ["ansi"],
        "render_fps": 4,
    }

    def __init__(
        self,
        tasks: TaskSet,
        agents: Mapping[str, Agent],
        config: EpisodeConfig,
        *,
        prompt: str = "consult",
        consult_timeout: float | None = 60.0,
        reward_fn: RewardFunction | None = None,
        codec: TokenCodec | None = None,
        action_mode: ActionMode = "text",
        render_mode: str | None = None,
        seed: int | None = None,
        env_id: str = "",
    ) -> None:
        if render_mode not in (None, "ansi"):
            raise ConfigurationError(f"render_mode is None or 'ansi', got {render_mode!r}.")
        if action_mode not in ("text", "structured"):
            raise ConfigurationError(f"action_mode is 'text' or 'structured', got {action_mode!r}.")
        if consult_timeout is not None and not consult_timeout > 0:
            raise ConfigurationError(f"consult_timeout is in seconds and positive, or None; got {consult_timeout!r}.")
        self.tasks = tasks
        self.agents = dict(agents)
        self.agent_names = list(config.agents)
        self.config = config
        self.env_id = env_id
        self.prompt = prompt
        self.consult_timeout = consult_timeout
        self.reward_fn = reward_fn
        self.codec = codec
        self.action_mode = action_mode
        self.render_mode = render_mode
        self.telemetry: list[dict[str, Any]] = []
        """One entry per consult of the running episode: agent, error, cached, usage. Not part of `info`, which is
        deterministic."""
        self._descriptions = {name: describe(name, self.agents.get(name)) for name in config.agents}
        build_prompt(prompt, "", self._descriptions)
        text = Unicode(max_chars=2 * config.max_chars)
        self.observation_space: spaces.Space[Any] = spaces.Dict(
            prompt=Unicode(max_chars=10_000_000),
            turn=spaces.Discrete(config.max_turns + 1),
            consult_mask=spaces.MultiBinary(max(1, len(config.agents))),
        )
        self.action_space: spaces.Space[Any] = (
            text if action_mode == "text" else spaces.Dict(target=spaces.Discrete(len(config.agents) + 1), text=text)
        )
        self._episode: Episode | None = None
        self._initial_seed = seed

    @property
    def episode(self) -> Episode:
        """The running episode; EpisodeStateError before the first `reset`."""
        if self._episode is None:
            raise EpisodeStateError("there is no episode yet: call reset() first.")
        return self._episode

    @property
    def trajectory(self) -> Trajectory:
        """The record of the running episode."""
        return self.episode.trajectory()

    def make_episode(self, task: Task, *, seed: int = 0, assisted: bool | None = None) -> Episode:
        """An episode of this environment's rules on one task; what `reset` uses, and batched rollouts too.

        Args:
            task: one of `tasks`.
            seed: the helpers' seeds derive from it.
            assisted: overrides whether helpers answer; the prompt stays the same.
        """
        config = self.config
        if assisted is not None and assisted != config.assisted:
            config = dataclasses.replace(config, assisted=assisted)
        if config.assisted and not self.agents:
            raise ConfigurationError(f"{self.env_id} is solo: it has no helpers. Make the id that ends in '-consult'.")
        return Episode(
            task,
            build_prompt(self.prompt, task.problem, self._descriptions),
            lambda answer: self.tasks.grade(task, answer),
            config,
            seed=seed,
            codec=self.codec,
            reward_fn=self.reward_fn,
            env_id=self.env_id,
        )

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
        options = options or {}
        if unknown := options.keys() - {"task_index"}:
            raise ConfigurationError(f"reset knows the option 'task_index', got {sorted(unknown)}.")
        index = options["task_index"] if "task_index" in options else self.tasks.sample_index(self.np_random)
        task = self.tasks.task(index)
        self._episode = self.make_episode(task, seed=int(self.np_random.integers(2**31)))
        self.telemetry = []
        return self._observe(), self._info(self._episode.segments, "", "")

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """The policy takes one turn; if it consults, the helper's reply is in the next observation.

        Raises:
            InvalidActionError: for an action that is none of the documented kinds. Malformed *text* is not an error: it
                is
                an observation with the reason in `info["parse_error"]`.
        """
        episode = self.episode
        before, reward = len(episode.segments), episode.reward
        understood = episode.act(self._lower(action))
        if episode.turn_of not in (POLICY, None):
            self._consult(episode)
        kind = _KINDS[type(understood)]
        error = understood.reason if isinstance(understood, Malformed) else ""
        info = self._info(episode.segments[before:], kind, error)
        return self._observe(), float(episode.reward - reward), episode.terminated, episode.truncated, info

    def render(self) -> str | None:
        """The transcript, one block per source (render_mode "ansi")."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() does nothing here: make the environment with render_mode="ansi".')
            return None
        return render_transcript(self.trajectory)

    def _lower(self, action: Any) -> Action:
        if not isinstance(action, Mapping):
            return action  # type: ignore[no-any-return]
        try:
            target, text = int(action["target"]), action["text"]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidActionError(
                f"a structured action is {{'target': int, 'text': str}}, got {str(dict(action))[:120]}."
            ) from error
        if not isinstance(text, str) or not 0 <= target <= len(self.agent_names):
            raise InvalidActionError(
                f"'target' is 0 to {len(self.agent_names)} ({', '.join(self.agent_names)}, answer) and 'text' a str; got "
                f"{target!r} and {type(text).__name__}."
            )
        return Answer(text) if target == len(self.agent_names) else Consult(self.agent_names[target], text)

    def _consult(self, episode: Episode) -> None:
        name = episode.turn_of or ""
        request = episode.request
        reply = run_sync(consult(self.agents[name], request, self.consult_timeout))
        usage = reply.usage
        self.telemetry.append({"agent": name, "error": reply.error, "cached": reply.cached, "usage": usage})
        episode.reply(reply)

    def _observe(self) -> Observation:
        episode = self.episode
        mask = np.zeros(max(1, len(self.agent_names)), dtype=np.int8)
        mask[: len(self.agent_names)] = episode.consult_mask
        return {"prompt": episode.transcript, "turn": episode.turn, "consult_mask": mask}

    def _info(self, segments: list[Segment], kind: str, parse_error: str) -> dict[str, Any]:
        episode = self.episode
        return {
            "task_id": episode.task.id,
            "turn": episode.turn,
            "action_kind": kind,
            "parse_error": parse_error,
            "consult_mask": episode.consult_mask,
            "num_consults": episode.num_consults,
            "reward_parts": dict(episode.reward_parts),
            "stop_reason": episode.stop_reason,
            "verdict": "" if episode.grade is None else episode.grade.verdict.value,
            "segments": [segment.to_json() for segment in segments],
        }


_KINDS: dict[type, str] = {Consult: "consult", Answer: "answer", Malformed: "malformed"}


def describe(name: str, agent: Agent | None) -> str:
    """One line on what a helper does, for the prompt: the agent's own `description`, else that of the built-in role."""
    return str(getattr(agent, "description", "") or DESCRIPTIONS.get(name, ""))


def render_transcript(trajectory: Trajectory) -> str:
    """A transcript that a person can read: one labelled block per segment."""
    lines = [f"== {trajectory.env_id} · {trajectory.task_id}"]
    for segment in trajectory.segments:
        label = segment.agent or segment.source.name.lower()
        body = segment.text
        if segment.agent:
            body = body.removeprefix(markup.feedback_open(segment.agent)).removesuffix(markup.FEEDBACK_CLOSE)
        lines.append(f"[{label}]".ljust(13) + body.strip().replace("\n", "\n" + " " * 13))
    if trajectory.stop_reason:
        verdict = f", {trajectory.verdict}" if trajectory.verdict else ""
        lines.append(f"== ended by {trajectory.stop_reason}{verdict}; reward {trajectory.reward:g}")
    return "\n".join(lines) + "\n"
