"""Many episodes at the same time: asynchronous rollouts that survive faults, and go on where they were cut."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import warnings
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal

import numpy as np

from aipo_env.checks import check_count, check_number
from aipo_env.consulting import run_sync
from aipo_env.errors import ConfigurationError, EpisodeStateError
from aipo_env.game import ConsultGame
from aipo_env.groups import num_solo
from aipo_env.gym_env import ConsultEnv
from aipo_env.playing import Player, PolicyLike, as_policy
from aipo_env.protocol import TurnPolicy
from aipo_env.registry import make_game
from aipo_env.rollout_progress import RolloutProgress
from aipo_env.run_record import RunRecord
from aipo_env.tasks.base import TaskSet, check_index
from aipo_env.trace_files import TraceFiles
from aipo_env.trajectory import Trajectory, numbered_traces

_MOST_SAMPLES = 2**20


class Rollouts:
    r"""Plays episodes of an environment with a policy, many at the same time.

    What a trajectory holds is a function of the seed, its task and its sample alone, as far as policy and helpers are:
    neither the order nor `max_in_flight` matters.

    An asynchronous iterator over the trajectories, in the order in which they finish, and a context manager. Leaving the
    context, `aclose`, or cancelling the task that is in the context cancels the running episodes and waits for their end.
    Without the context manager, `async for` does the same when it is left; a bare `anext` needs an `aclose`. Policies,
    environments and helpers that the caller made stay open.

    Args:
        env: an environment id, or what `aipo_env.make` or `make_game` made.
        policy: a `TurnPolicy`, or a function from the transcript to the turn. A synchronous function runs in threads, as
            many as there are episodes in flight; they are not stopped by force, but do not keep the process from ending.
        tasks: how many (the first of the family), or their indices; None for all. A task that is named again, which needs
            `traces` to be None, is a group of its own with other seeds.
        group_size: episodes of each task.
        max_in_flight: episodes that run, or that are finished and wait to be taken, at most. A consumer that takes none lets
            none start.
        seed: decides the seeds of the policy and the helpers.
        solo_share: the share of each group that gets no help: its first `num_solo(solo_share, group_size)` samples, as in the
            trainer. In a solo environment it is the whole group anyway.
        max_tokens: tokens behind the prompt, helpers' replies included; needs an environment with a tokenizer. An episode
            that has used them up ends as "length".
        timeout: seconds an episode has; a late one ends as "timeout".
        on_error: what happens when the policy cannot act (`ServiceError`, `TimeoutError`, `ConnectionError`), or the grading
            machinery fails (`GradingError`): "record" ends the episode as "error", with `metadata["error"]` and all that was
            played; "raise" raises. Any other exception is a bug: it ends the other episodes and is raised with its traceback.
        traces: a JSON Lines file to which each episode is appended before it is yielded. Episodes that are in it already are
            not played again, so that the same call goes on after a crash; a policy is known by its name, a lambda by what it
            does. Those that ended as "error" or "timeout" go to `<name>.errors.jsonl` beside it, and are played again.
            `<name>.run.json` tells what the run was made of. Of a confidential task no text is written; what is yielded is
            whole.
        finish: what is made of each trajectory before it is written and yielded: more `metadata`, or less text. It keeps what
            tells the episode: task, sample, seed, `assisted`, the policy's name.
        progress: shows a bar on standard error.
        env_options: with an environment id, the options of `aipo_env.make`; for those that are named as an argument here (a
            task family's `tasks` and `seed`), make the environment first.

    Raises:
        ConfigurationError: for arguments that cannot work.

    Example:
        >>> import asyncio, aipo_env
        >>> async def main():
        ...     async with aipo_env.rollout("rulebook-consult", lambda transcript: r"\boxed{1}", tasks=3) as episodes:
        ...         return [trajectory.reward async for trajectory in episodes]
        >>> asyncio.run(main())
        [0.0, 0.0, 0.0]
    """

    def __init__(
        self,
        env: str | ConsultEnv | ConsultGame,
        policy: PolicyLike,
        tasks: int | Sequence[int] | None = None,
        *,
        group_size: int = 1,
        max_in_flight: int = 256,
        seed: int = 0,
        solo_share: float = 0.0,
        max_tokens: int | None = None,
        timeout: float | None = None,
        on_error: Literal["record", "raise"] = "record",
        traces: str | os.PathLike[str] | None = None,
        finish: Callable[[Trajectory], Trajectory] | None = None,
        progress: bool = False,
        **env_options: Any,
    ) -> None:
        check_count("group_size", group_size, what="how many episodes of each task are played")
        check_count("max_in_flight", max_in_flight, what="how many episodes run at the same time")
        check_count("seed", seed, what="the run's seed", least=0)
        if max_tokens is not None:
            check_count("max_tokens", max_tokens, what="how many tokens may follow the prompt, or None")
        if check_number("solo_share", solo_share, what="a share of each group", inclusive=True) > 1:
            raise ConfigurationError(
                f"solo_share is a share of each group, 0 to 1; got {solo_share!r}. Use 0.5 for half of it."
            )
        if timeout is not None:
            check_number("timeout", timeout, what="seconds that an episode has, or None")
        if on_error not in ("record", "raise"):
            raise ConfigurationError(f"on_error is 'record' or 'raise', got {on_error!r}.")
        self.policy: TurnPolicy = as_policy(policy)
        self._owns_game = isinstance(env, str)
        if isinstance(env, str):
            self.game = make_game(env, **env_options)
        elif isinstance(env, ConsultEnv | ConsultGame):
            if env_options:
                raise ConfigurationError(
                    f"an environment that is made takes no further options, got {', '.join(env_options)}. Pass them to "
                    "aipo_env.make, or pass the environment's id here."
                )
            self.game = env.game if isinstance(env, ConsultEnv) else env
        else:
            raise ConfigurationError(
                f"env is an environment id, a ConsultEnv or a ConsultGame, got {type(env).__name__}."
            )
        self.game.require_agents(self.game.agent_names)
        if max_tokens is not None and self.game.codec is None:
            raise ConfigurationError(
                "max_tokens counts tokens, and this environment has no tokenizer: make it with codec=, or leave max_tokens out."
            )
        self.tasks = _task_indices(tasks, self.game.tasks)
        if traces is not None and not isinstance(self.tasks, range) and len(set(self.tasks)) < len(self.tasks):
            raise ConfigurationError(
                "tasks names a task twice, which a file of traces could not tell apart; for several episodes of a task use "
                "group_size."
            )
        self.group_size, self.max_in_flight, self.seed = group_size, max_in_flight, seed
        self.num_solo = num_solo(solo_share, group_size) if self.game.config.assisted else group_size
        """Samples of each group, the first ones, that get no help."""
        self.timeout = timeout
        self.num_resumed = 0
        """Episodes that `traces` held already, known from the start of the first new one on."""
        self._on_error = on_error
        self._player = Player(self.game, self.policy, max_tokens=max_tokens)
        self._traces = traces
        self._finish = finish
        self._record = RunRecord.of(
            self.game if isinstance(env, str) else env,
            env_options if isinstance(env, str) else None,
            policy=self.policy.name,
            seed=seed,
            max_tokens=max_tokens,
        )
        self._files: TraceFiles | None = None
        self._progress = RolloutProgress() if progress else None
        self._slots: Iterator[tuple[int, int, int, int]] = iter(())
        self._running: set[asyncio.Task[Trajectory]] = set()
        self._ready: deque[Trajectory] = deque()
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None
        self._state: Literal["new", "open", "closed"] = "new"
        self._in_context = False

    @property
    def num_episodes(self) -> int:
        """Episodes of the whole run, those that `traces` held already included."""
        return len(self.tasks) * self.group_size

    async def collect(self) -> list[Trajectory]:
        """All trajectories, by task and sample, those that `traces` held before as it holds them; closes at the end."""
        async with self:
            found = list(self._resumed())
            found += [trajectory async for trajectory in self]
        return sorted(found, key=lambda trajectory: (trajectory.group, trajectory.sample))

    def _resumed(self) -> Iterator[Trajectory]:
        """The trajectories of this run that its file held before."""
        if self._files is None or not self.num_resumed:
            return
        groups: dict[int | None, int] = {task_index: group for group, task_index in enumerate(self.tasks)}
        for _, trajectory in numbered_traces(self._files.path):
            group = groups.get(trajectory.task_index)
            if group is not None and trajectory.sample < self.group_size:
                yield dataclasses.replace(trajectory, group=group)

    async def aclose(self) -> None:
        """Cancels the running episodes, waits for their end, and closes the files; calling it again does nothing."""
        if self._state == "closed":
            return
        self._state = "closed"
        running = list(self._running)
        for task in running:
            task.cancel()
        try:
            await asyncio.gather(*running, return_exceptions=True)
            if self._owns_game:
                await self.game.aclose()
        finally:
            self._let_go()
            self._wake.set()

    async def __aenter__(self) -> Rollouts:
        self._open()
        self._in_context = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
        if error is None and self._failure is not None:
            # The consumer left before it came to the bug.
            raise self._take_failure()

    def __aiter__(self) -> AsyncIterator[Trajectory]:
        return self if self._in_context else self._guarded()

    async def __anext__(self) -> Trajectory:
        if self._state == "new":
            self._open()
        while self._state == "open":
            if self._failure is not None:
                await self.aclose()
                break
            if self._ready:
                trajectory = self._ready.popleft()
                self._start_more()
                return trajectory
            if not self._running:
                await self.aclose()
                break
            self._wake.clear()
            await self._wake.wait()
        if self._failure is not None:
            raise self._take_failure()
        raise StopAsyncIteration

    def __del__(self) -> None:
        if getattr(self, "_state", "closed") == "open":
            # Running episodes hold a reference to this object: there are none, but the files are open.
            self._let_go()
            warnings.warn(
                "rollouts were left before their end and not closed: use `async with aipo_env.rollout(...) as episodes`.",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )

    async def _guarded(self) -> AsyncIterator[Trajectory]:
        """Iterates, and closes when the loop around it is left: the interpreter then closes this generator."""
        try:
            while True:
                try:
                    trajectory = await anext(self)
                except StopAsyncIteration:
                    return
                yield trajectory
        finally:
            await self.aclose()

    def _open(self) -> None:
        if self._state != "new":
            raise EpisodeStateError("these rollouts were started before: call aipo_env.rollout(...) again.")
        if self._traces is not None:
            self._files = TraceFiles(self._traces, self._record, self._foreign)
            self.num_resumed = self._count_finished(self._files.finished)
        self._slots = self._remaining()
        self._state = "open"
        if self._progress is not None:
            self._progress.start(self.num_episodes - self.num_resumed)
        self._start_more()

    def _start_more(self) -> None:
        loop = asyncio.get_running_loop()
        while self._failure is None and len(self._running) + len(self._ready) < self.max_in_flight:
            slot = next(self._slots, None)
            if slot is None:
                return
            task = loop.create_task(self._play(*slot))
            self._running.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Trajectory]) -> None:
        self._running.discard(task)
        if task.cancelled():
            if self._state == "open" and self._failure is None:
                self._failure = EpisodeStateError(
                    "somebody else cancelled the task of an episode; use aclose() to end rollouts."
                )
        elif (error := task.exception()) is not None:
            if self._failure is None:
                self._failure = error
                for other in self._running:
                    other.cancel()
        else:
            self._ready.append(task.result())
        self._wake.set()

    async def _play(self, group: int, task_index: int, sample: int, epoch: int) -> Trajectory:
        """Plays one episode and puts it on disk."""
        seeds = EpisodeSeeds(self.seed, task_index, sample, epoch)
        episode = await self._player.start(task_index, seed=seeds.episode, assisted=self._is_assisted(sample))
        fault = ""
        try:
            async with asyncio.timeout(self.timeout) as scope:
                error = await self._player.play(episode, seeds.turn)
            if error is not None:
                if self._on_error == "raise":
                    raise error
                fault = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                episode.truncate("error")
        except TimeoutError:
            if not scope.expired():
                raise
            fault = f"not finished within {self.timeout:g} s"
            episode.truncate("timeout")
        trajectory = episode.trajectory(group=group, sample=sample)
        trajectory.metadata["policy"] = self.policy.name
        if fault:
            trajectory.metadata["error"] = fault
        if self._finish is not None:
            trajectory = self._finish(trajectory)
        if self._files is not None:
            self._files.write(trajectory)
        if self._progress is not None:
            self._progress.count(trajectory)
        return trajectory

    def _remaining(self) -> Iterator[tuple[int, int, int, int]]:
        """Position in `tasks`, task index, sample and epoch of the episodes that `traces` does not hold."""
        finished = {} if self._files is None else self._files.finished
        epochs: Counter[int] = Counter()
        for group, task_index in enumerate(self.tasks):
            samples, epoch = finished.pop(task_index, 0), epochs[task_index]
            if not isinstance(self.tasks, range):
                epochs[task_index] += 1
            for sample in range(self.group_size):
                if not samples >> sample & 1:
                    yield group, task_index, sample, epoch

    def _count_finished(self, finished: dict[int, int]) -> int:
        mine = self.tasks if isinstance(self.tasks, range) else set(self.tasks)
        wanted = (1 << self.group_size) - 1
        return sum((samples & wanted).bit_count() for index, samples in finished.items() if index in mine)

    def _is_assisted(self, sample: int) -> bool:
        return self.game.config.assisted and sample >= self.num_solo

    def _foreign(self, trajectory: Trajectory) -> str | None:
        """Why a trajectory is not of this run; None where it is."""
        if trajectory.env_id != self.game.env_id:
            return f"its environment is {trajectory.env_id!r}, this run's {self.game.env_id!r}"
        index, number = trajectory.task_index, trajectory.sample
        if not isinstance(index, int) or not isinstance(number, int) or index < 0 or not 0 <= number < _MOST_SAMPLES:
            return "it does not say which sample of which task it is (task_index, sample)"
        played_by = trajectory.metadata.get("policy") if isinstance(trajectory.metadata, dict) else None
        if played_by != self.policy.name:
            return f"its policy is {played_by!r}, this run's {self.policy.name!r}"
        which, seed = f"sample {number} of task {index}", EpisodeSeeds(self.seed, index, number).episode
        if trajectory.seed != seed:
            return f"{which} has the seed {trajectory.seed}, and with seed={self.seed} it would be {seed}"
        if trajectory.assisted != self._is_assisted(number):
            kinds = ("assisted", "solo") if trajectory.assisted else ("solo", "assisted")
            return f"{which} is {kinds[0]}, and would be {kinds[1]} by this run's solo_share and group_size"
        return None

    def _let_go(self) -> None:
        """Gives back what is no task: files and the progress bar."""
        self._state = "closed"
        if self._progress is not None:
            self._progress.stop()
        if self._files is not None:
            self._files.close()

    def _take_failure(self) -> BaseException:
        failure, self._failure = self._failure, None
        assert failure is not None
        return failure


rollout = Rollouts
"""How rollouts are started: `aipo_env.rollout(env, policy, ...)`."""


def collect_rollouts(
    env: str | ConsultEnv | ConsultGame, policy: PolicyLike, tasks: int | Sequence[int] | None = None, **options: Any
) -> list[Trajectory]:
    """`rollout` for scripts and notebooks: all trajectories, by task and sample, those included that `traces` held already.

    Works inside a running event loop too.

    Args:
        env: as for `rollout`.
        policy: as for `rollout`.
        tasks: as for `rollout`.
        options: those of `rollout`.
    """
    episodes = rollout(env, policy, tasks, **options)
    try:
        return run_sync(episodes.collect())
    except BaseException:
        # Ctrl-C reaches this thread, not the one on which the episodes run.
        run_sync(episodes.aclose())
        raise


class EpisodeSeeds:
    """The seeds of one episode: functions of the run's seed, the task's index, the sample and the epoch alone.

    Args:
        seed: the run's.
        task_index: of the episode.
        sample: of the episode.
        epoch: how often the run had gone over its tasks before.
    """

    __slots__ = ("_sequence", "_words")

    def __init__(self, seed: int, task_index: int, sample: int, epoch: int = 0) -> None:
        key = (task_index, sample, epoch) if epoch else (task_index, sample)
        self._sequence = np.random.SeedSequence(seed, spawn_key=key)
        # Drawing several at once costs hardly more than one; more of them begin with the same ones.
        self._words: list[int] = self._sequence.generate_state(9, np.uint64).tolist()

    @property
    def episode(self) -> int:
        """The episode's own, from which those of the helpers derive; below 2**63."""
        return self._words[0] >> 1

    def turn(self, number: int) -> int:
        """The policy's for the turn behind this many turns; below 2**63."""
        if number + 1 >= len(self._words):
            self._words = self._sequence.generate_state(2 * (number + 1), np.uint64).tolist()
        return self._words[number + 1] >> 1


def _task_indices(tasks: int | Sequence[int] | None, family: TaskSet) -> Sequence[int]:
    if tasks is None:
        if family.num_tasks is None:
            raise ConfigurationError(
                f"{family.name} has no end: say how many tasks (tasks=100) or which (tasks=range(100, 200))."
            )
        return range(family.num_tasks)
    if isinstance(tasks, int | np.integer) and not isinstance(tasks, bool):
        if tasks < 0 or (family.num_tasks is not None and tasks > family.num_tasks):
            has = "any number of" if family.num_tasks is None else str(family.num_tasks)
            raise ConfigurationError(f"tasks={tasks} asks for the first {tasks}; {family.name} has {has} tasks.")
        return range(int(tasks))
    if isinstance(tasks, bool | str) or not isinstance(tasks, Iterable):
        raise ConfigurationError(
            f"tasks is a number, a range, a list of task indices or None, got {type(tasks).__name__}."
        )
    # A range stays one: as a list it may not fit into memory.
    indices = tasks if isinstance(tasks, range) else [check_index(index, None, family.name) for index in tasks]
    if indices:
        for index in (
            (min(indices[0], indices[-1]), max(indices[0], indices[-1])) if isinstance(indices, range) else indices
        ):
            check_index(index, family.num_tasks, family.name)
    return indices
