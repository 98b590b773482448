"""The vector face: many episodes step together, and all helpers that they consult are asked at the same time."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from aipo_env.episode import Episode, Turn
from aipo_env.errors import ConfigurationError, EpisodeStateError, InvalidActionError
from aipo_env.game import ActionMode, ConsultGame, Observation
from aipo_env.gym_env import consult_record, render_transcript
from aipo_env.tasks.base import is_for_evaluation
from aipo_env.trajectory import Trajectory

Step = tuple[dict[str, Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class ConsultVectorEnv(VectorEnv[Any, Any, Any]):
    """`num_envs` episodes of one game, each the same as in a `ConsultEnv` with the same seed.

    No processes and no shared memory: Gymnasium's own shared memory would return stale text. The consulted helpers of all
    sub-environments are asked concurrently. An episode that ends is followed by the next one in the same step
    (`AutoresetMode.SAME_STEP`): its last observation and info are in `infos["final_obs"]` and `infos["final_info"]`.

    Observation: `{"prompt": tuple of str, "turn": int64 array, "consult_mask": int8 array (num_envs, helpers)}`.

    Action: a sequence of `num_envs` actions of `ConsultEnv`; in structured mode also the batched form of its space.

    Made by `aipo_env.make_vec`, which documents the options.

    Args:
        game: tasks, helpers and rules.
        num_envs: how many.
        action_mode: "text" or "structured".
        render_mode: None or "ansi".
        seed: used by the first `reset` that brings none.
        allow_test_split: no warning where a loop plays one episode after the other of tasks that are for evaluation.
    """

    def __init__(
        self,
        game: ConsultGame,
        num_envs: int,
        *,
        action_mode: ActionMode = "text",
        render_mode: str | None = None,
        seed: int | Sequence[int | None] | None = None,
        allow_test_split: bool = False,
    ) -> None:
        if render_mode not in (None, "ansi"):
            raise ConfigurationError(f"render_mode is None or 'ansi', got {render_mode!r}.")
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise ConfigurationError(f"num_envs is 1 or more, got {num_envs!r}.")
        self.game = game
        self.num_envs = num_envs
        self.action_mode = action_mode
        self.render_mode = render_mode
        self.metadata = {"render_modes": ["ansi"], "render_fps": 4, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = game.observation_space
        self.single_action_space = game.action_space(action_mode)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.telemetry: list[list[dict[str, Any]]] = [[] for _ in range(num_envs)]
        """For each sub-environment one entry per consult of its episode: agent, error, cached, usage. Those of an episode
        that ended stay until the next step."""
        self.finished: list[Trajectory | None] = [None] * num_envs
        """The records of the episodes that ended in the last step; None for sub-environments whose episode goes on."""
        self._initial_seed = seed
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._episodes: list[Episode] = []
        self._warns = is_for_evaluation(game.tasks) and not allow_test_split
        self._follows = [False] * num_envs  # whether an episode is one that came by itself, behind another

    @property
    def episodes(self) -> list[Episode]:
        """The running episodes; EpisodeStateError before the first `reset`."""
        if not self._episodes:
            raise EpisodeStateError("there are no episodes yet: call reset() first.")
        return self._episodes

    @property
    def trajectories(self) -> list[Trajectory]:
        """The records of the running episodes."""
        return [episode.trajectory() for episode in self.episodes]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode in each sub-environment.

        Args:
            seed: one for each sub-environment, or an int, which stands for seed, seed + 1, ...
            options: `{"task_index": i}` plays one task in all of them, a list of indices one in each.
        """
        if seed is None:
            seed = self._initial_seed
        seeds = self._per_env("seed", range(seed, seed + self.num_envs) if isinstance(seed, int | np.integer) else seed)
        options = dict(options or {})
        indices = options.pop("task_index", None)
        if indices is not None:
            many = isinstance(indices, Sequence | np.ndarray) and not isinstance(indices, str)
            indices = self._per_env("task_index", indices if many else [indices] * self.num_envs)
        self._initial_seed = None
        for number, single in enumerate(seeds):
            if single is not None or self._generators[number] is None:
                self._generators[number], _ = seeding.np_random(single)
        self._episodes = [
            self._begin(number, options if indices is None else options | {"task_index": indices[number]})
            for number in range(self.num_envs)
        ]
        self.telemetry = [[] for _ in range(self.num_envs)]
        self.finished = [None] * self.num_envs
        self._follows = [False] * self.num_envs
        infos: dict[str, Any] = {}
        for number, episode in enumerate(self._episodes):
            infos = self._add_info(infos, self.game.info(episode, episode.segments), number)
        return self._observations(), infos

    def step(self, actions: Any) -> Step:
        """The policy takes one turn in each sub-environment.

        Raises:
            InvalidActionError: for an action that is none of the documented kinds; no episode has moved then.
            EpisodeStateError: before `reset`.
        """
        episodes = self.episodes
        turns = self._turns(actions)
        before = [(len(episode.segments), episode.reward) for episode in episodes]
        for number in range(self.num_envs):
            if self.finished[number] is not None:
                self.finished[number], self.telemetry[number] = None, []
        for consults, replies in zip(self.telemetry, self.game.play_sync(episodes, turns), strict=True):
            consults += [consult_record(name, reply) for name, reply in replies.items()]
        rewards = np.array(
            [e.reward - reward for e, (_, reward) in zip(episodes, before, strict=True)], dtype=np.float64
        )
        terminations = np.array([episode.terminated for episode in episodes], dtype=np.bool_)
        truncations = np.array([episode.truncated for episode in episodes], dtype=np.bool_)
        infos: dict[str, Any] = {}
        for number, episode in enumerate(list(episodes)):
            info = self.game.info(episode, episode.segments[before[number][0] :])
            if episode.done:
                final = {"final_obs": self.game.observe(episode), "final_info": info}
                infos = self._add_info(infos, final, number)
                self.finished[number] = episode.trajectory()
                self._warn(number)
                self._episodes[number] = fresh = self._begin(number, {})
                info = self.game.info(fresh, fresh.segments)
            infos = self._add_info(infos, info, number)
        return self._observations(), rewards, terminations, truncations, infos

    def render(self) -> tuple[Any, ...] | None:
        """The transcripts of the running episodes (render_mode "ansi")."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() does nothing here: make the environment with render_mode="ansi".')
            return None
        return tuple(render_transcript(trajectory) for trajectory in self.trajectories)

    def close_extras(self, **kwargs: Any) -> None:
        """Closes what the helpers hold open, apart from those that the caller made."""
        self.game.close()

    def _begin(self, number: int, options: Mapping[str, Any]) -> Episode:
        generator = self._generators[number]
        assert generator is not None
        return self.game.begin(generator, options)

    def _warn(self, number: int) -> None:
        """Of episodes that were played to their end though nobody asked for them: training does that, evaluation does not."""
        if self._warns and self._follows[number]:
            self._warns = False
            warnings.warn(
                f"this loop plays drawn tasks of {self.game.env_id}, which are for evaluation, one after the other. If it "
                "trains, take a training set (`aipo envs` lists them); if not, say allow_test_split=True.",
                stacklevel=3,
            )
        self._follows[number] = True

    def _observations(self) -> dict[str, Any]:
        seen: list[Observation] = [self.game.observe(episode) for episode in self._episodes]
        chats = {"messages": tuple(o["messages"] for o in seen)} if self.game.observation == "messages" else {}
        return {
            **chats,
            "consult_mask": np.stack([observation["consult_mask"] for observation in seen]),
            "prompt": tuple(observation["prompt"] for observation in seen),
            "turn": np.array([observation["turn"] for observation in seen], dtype=np.int64),
        }

    def _turns(self, actions: Any) -> list[Turn]:
        """One action, as it is read, for each sub-environment: a wrong one must not leave the others half a step ahead."""
        if isinstance(actions, Mapping):
            try:
                actions = list(iterate(self.action_space, actions))
            except (KeyError, TypeError, ValueError) as error:
                raise InvalidActionError(
                    f"the batched structured action is {{'target': {self.num_envs} ints, 'text': {self.num_envs} strs}}; "
                    f"got {str(dict(actions))[:120]} ({error!r})."
                ) from error
        if not isinstance(actions, list | tuple | np.ndarray) or len(actions) != self.num_envs:
            raise InvalidActionError(
                f"actions is a list or tuple of {self.num_envs} actions, one for each sub-environment; got "
                f"{type(actions).__name__}: {str(actions)[:80]!r}."
            )
        return [e.read(self.game.lower(action)) for e, action in zip(self._episodes, actions, strict=True)]

    def _per_env(self, name: str, values: Iterable[Any] | float | None) -> list[Any]:
        if values is None:
            return [None] * self.num_envs
        single = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else []
        if len(single) != self.num_envs:
            raise ConfigurationError(
                f"{name} is an int, or has one value for each of {self.num_envs} sub-environments; got {values!r}."
            )
        return single
