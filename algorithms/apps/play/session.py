"""One episode after the other, step by step, without a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from aipo_env.consulting import run_sync
from aipo_env.episode import POLICY, Episode
from aipo_env.errors import ConfigurationError, unknown_id
from aipo_env.gym_env import ConsultEnv
from aipo_env.playing import Player
from aipo_env.protocol import TurnPolicy
from aipo_env.run_record import RunRecord
from aipo_env.trace_files import TraceFiles
from aipo_env.trajectory import Trajectory
from algorithms.apps.play.person import Person


class PlaySession:
    """Episodes of one environment in which a person plays one role.

    Args:
        env: made by `aipo_env.make`; if the person plays a helper, with the `Person` among its agents.
        person: plays the role of that name: "policy", or a helper.
        policy: plays the policy where the person does not.
        task_index: of the first episode, later ones count on; None draws each.
        seed: decides the tasks that are drawn, and the helpers' and the policy's seeds.
        max_tokens: tokens behind the prompt for a policy with a tokenizer; None for no limit.
        traces: a JSON Lines file to which finished episodes are appended.

    Raises:
        ConfigurationError: where the roles do not fit, or the file holds the traces of another run.
    """

    def __init__(
        self,
        env: ConsultEnv,
        person: Person,
        policy: TurnPolicy | None = None,
        *,
        task_index: int | None = None,
        seed: int = 0,
        max_tokens: int | None = None,
        traces: Path | None = None,
    ) -> None:
        check_role(env, person.name)
        if (policy is None) != (person.name == POLICY):
            raise ConfigurationError(
                "the person plays the policy, or a helper of a policy that is given; got "
                f"person={person.name!r} and policy={getattr(policy, 'name', None)!r}."
            )
        self.env, self.person = env, person
        self.policy: TurnPolicy = person if policy is None else policy
        self.finished: list[Trajectory] = []
        self.game = env.game
        self._seed = seed
        self._player = Player(self.game, self.policy, max_tokens=None if self.plays_policy else max_tokens)
        self._rng = np.random.default_rng(seed)
        self._next, self._number = task_index, 0
        self.episode = self._begin(self._draw())
        self._files: TraceFiles | None = None
        if traces is not None:
            codec = env.codec
            name = "" if codec is None else self.policy.name
            record = RunRecord.of(env, policy=self.policy.name, max_tokens=max_tokens, tokenizer_name=name)
            self._files = TraceFiles(traces, record, lambda trajectory: None)

    @property
    def plays_policy(self) -> bool:
        """Whether the person is the policy."""
        return self.policy is self.person

    async def play(self, changed: Callable[[], None]) -> str:
        """Plays the episode to its end.

        Args:
            changed: called whenever the episode has changed, before somebody is waited for.

        Returns:
            "" at its end, or why it cannot go on now (the policy's server, the grading machinery); calling `play` again
            tries again.
        """
        episode = self.episode

        def seed(turn: int) -> int:
            return int(np.random.SeedSequence(episode.seed, spawn_key=(turn,)).generate_state(1)[0])

        error = await self._player.play(episode, seed, changed)
        if error is not None:
            return f"{type(error).__name__}: {error}"
        self._keep(episode)
        changed()
        return ""

    def next(self) -> None:
        """Starts an episode of the next task; one that is not finished is given up."""
        self.episode = self._begin(self._draw())

    def again(self) -> None:
        """Starts another episode of the same task."""
        self.episode = self._begin(self._index)

    def close(self) -> None:
        """Closes the traces, the environment and the policy."""
        if self._files is not None:
            self._files.close()
            self._files = None
        self.env.close()
        close = getattr(self.policy, "aclose", None)
        if close is not None:
            run_sync(close())

    def _draw(self) -> int:
        if self._next is None:
            return int(self.game.tasks.sample_index(self._rng))
        index, total = self._next, self.game.tasks.num_tasks
        if total is not None and not 0 <= index < total:
            raise ConfigurationError(
                f"{self.env.game.env_id} has the tasks 0 to {total - 1}, got task_index={index}. Name one of these."
            )
        self._next = index + 1 if total is None or index + 1 < total else 0
        return index

    def _begin(self, index: int) -> Episode:
        self._index = index
        self._number += 1
        # Each episode its own seeds, the same in each session with this seed.
        seed = int(np.random.SeedSequence(self._seed, spawn_key=(self._number,)).generate_state(1)[0] >> 1)
        return self.game.make_episode(index, seed=seed)

    def _keep(self, episode: Episode) -> None:
        trajectory = episode.trajectory(sample=self._sample())
        trajectory.metadata |= {"policy": self.policy.name, "person": self.person.name}
        self.finished.append(trajectory)
        if self._files is not None:
            self._files.write(trajectory)
            self._files.finished[self._index] = self._files.finished.get(self._index, 0) | 1 << trajectory.sample

    def _sample(self) -> int:
        """The number of this episode among those of its task that are kept."""
        if self._files is None:
            return sum(t.task_index == self._index for t in self.finished)
        return self._files.finished.get(self._index, 0).bit_length()


def check_role(env: ConsultEnv, role: str) -> None:
    """Raises UnknownIdError or ConfigurationError for a role that an environment does not have."""
    if role == POLICY:
        return
    if not env.config.assisted:
        raise ConfigurationError(
            f"{env.game.env_id} is solo: nobody asks a helper in it. Play {env.game.env_id}-consult, or play the policy."
        )
    if role not in env.agent_names:
        raise unknown_id("role", role, [POLICY, *env.agent_names])
