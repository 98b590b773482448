from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aipo_env
from aipo_env import ConsultRequest, Reply, ServiceError, Source, TokenAction, Trajectory, TurnRequest, read_traces
from aipo_env.errors import AipoError, ConfigurationError, InvalidActionError
from aipo_env.game import ConsultGame
from aipo_env.grading import Grade
from aipo_env.playing import as_policy
from aipo_env.registry import make_game
from aipo_env.rollout import EpisodeSeeds
from aipo_env.tasks.base import Task
from tests.helpers import CharacterCodec, Recorder, SumTasks

ASK = '<consult agent="verify">is it?</consult>'


class SeededHelper(Recorder):
    """Replies with its seed, after a time that differs between episodes."""

    async def respond(self, request: ConsultRequest) -> Reply:
        self.requests.append(request)
        await asyncio.sleep((request.seed % 7) * 1e-3)
        return Reply(f"seed {request.seed}")


class Script:
    """Asks `consults` times, then gives an answer that depends on its seed."""

    name = "script"

    def __init__(self, consults: int = 1, seconds: float = 0.0) -> None:
        self.consults, self.seconds = consults, seconds
        self.requests: list[TurnRequest] = []
        self.running = self.most_running = 0

    async def act(self, request: TurnRequest) -> str:
        self.requests.append(request)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        return ASK if request.turn < self.consults and request.assisted else rf"\boxed{{{request.seed % 100}}}"


class Failing(Script):
    """A script that fails as told on some tasks."""

    def __init__(self, error: Exception, tasks: set[int]) -> None:
        super().__init__()
        self.error, self.tasks = error, tasks

    async def act(self, request: TurnRequest) -> str:
        turn = await super().act(request)
        if request.turn == 1 and int(request.task_id.rpartition("/")[2]) in self.tasks:
            raise self.error
        return turn


def make_sums(helper: Recorder | None = None, **options: Any) -> ConsultGame:
    agents = {"verify": helper if helper is not None else SeededHelper()}
    return make_game("rulebook-consult", **{"agents": agents, "tasks": SumTasks(), "prompt": "bare", **options})


async def gather(env: Any, policy: Any, tasks: Any = None, **options: Any) -> list[Trajectory]:
    before = asyncio.all_tasks()
    async with aipo_env.rollout(env, policy, tasks, **options) as episodes:
        found = [trajectory async for trajectory in episodes]
    assert asyncio.all_tasks() == before
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that comes soon, however busy the machine is."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def run(env: Any, policy: Any, tasks: Any = None, **options: Any) -> list[Trajectory]:
    return asyncio.run(gather(env, policy, tasks, **options))


def as_set(trajectories: list[Trajectory]) -> dict[tuple[int, int], str]:
    return {(t.group, t.sample): json.dumps(t.to_json()) for t in trajectories}


# -- what is played ---------------------------------------------------------------------------------------------------


def test_episodes_of_a_group() -> None:
    policy = Script()
    found = run(make_sums(), policy, [7, 3], group_size=4, solo_share=0.5)
    by_key = {(t.group, t.sample): t for t in found}
    assert sorted(by_key) == [(group, sample) for group in (0, 1) for sample in range(4)]
    for (group, sample), t in by_key.items():
        assert (t.task_index, t.task_id) == ((7, 3)[group], f"sums/{(7, 3)[group]}")
        # As in the trainer: the first samples of a group are solo.
        assert (t.assisted, t.num_consults, t.stop_reason) == (sample >= 2, int(sample >= 2), "answer")
        assert t.metadata == {"level": 1, "policy": "script"}
    assert len({t.seed for t in found}) == 8
    assert len({request.seed for request in policy.requests}) == 12


def test_halves_of_a_solo_share_are_rounded_up() -> None:
    for size, solo in ((1, 1), (3, 2), (5, 3), (6, 3)):
        assert aipo_env.rollout(make_sums(), Script(), 1, group_size=size, solo_share=0.5).num_solo == solo
    assert aipo_env.rollout(make_sums(), Script(), 1, group_size=5, solo_share=0.29).num_solo == 1


def test_every_turn_of_an_episode_has_a_seed_of_its_own() -> None:
    seeds = EpisodeSeeds(5, 3, 1)
    turns = [seeds.turn(number) for number in range(40)]
    assert len({seeds.episode, *turns}) == 41
    for number in (39, 8, 0):
        assert EpisodeSeeds(5, 3, 1).turn(number) == turns[number]


def test_a_request_tells_what_the_policy_needs() -> None:
    policy = Script()
    (played,) = run(make_sums(codec=CharacterCodec()), policy, [4], max_tokens=500)
    first, second = policy.requests
    assert (first.transcript, first.turn, first.task_id, first.assisted) == ("4+1=", 0, "sums/4", True)
    assert (first.stop, first.max_tokens) == (("</consult>",), 500)
    assert second.transcript == "".join(s.text for s in played.segments[:3])
    assert list(second.token_ids) == played.token_ids[: len(second.token_ids)]
    assert second.max_tokens == 500 - (len(second.token_ids) - len(first.token_ids))
    solo = Script()
    run(make_game("rulebook", tasks=SumTasks()), solo, 1)
    assert [(r.stop, r.assisted, r.max_tokens, r.token_ids) for r in solo.requests] == [((), False, None, ())]


def test_results_depend_on_neither_order_nor_flight() -> None:
    wanted = as_set(run(make_sums(), Script(2), 12, group_size=2, max_in_flight=1))
    assert as_set(run(make_sums(), Script(2), 12, group_size=2, max_in_flight=50)) == wanted
    some = as_set(run(make_sums(), Script(2), [11, 2], group_size=1))
    for (group, _), row in some.items():
        task = (11, 2)[group]
        assert json.loads(row) | {"group": task} == json.loads(wanted[task, 0])
    assert as_set(run(make_sums(), Script(2), 12, group_size=2, seed=1)) != wanted


def test_trajectories_come_as_they_finish() -> None:
    class Late(Script):
        async def act(self, request: TurnRequest) -> str:
            await asyncio.sleep(0.05 if request.task_id == "sums/0" else 0)
            return r"\boxed{1}"

    found = run(make_sums(), Late(), 5)
    assert [t.task_index for t in found][-1] == 0


@pytest.mark.parametrize("kind", ["thread", "async", "lambda"])
def test_functions_are_policies(kind: str) -> None:
    seen = []

    def answer(transcript: str) -> str:
        seen.append((transcript, threading.current_thread() is threading.main_thread()))
        return r"\boxed{5}"

    async def answer_async(transcript: str) -> str:
        return answer(transcript)

    policy: Any = {"thread": answer, "async": answer_async, "lambda": lambda transcript: answer(transcript)}[kind]
    (played,) = run(make_sums(), policy, [4])
    assert played.reward == 1.0
    assert seen == [("4+1=", kind == "async")]
    assert str(played.metadata["policy"]).split("-")[0] == {"thread": "answer", "async": "answer_async"}.get(kind, kind)


def test_an_environment_of_make_or_an_id() -> None:
    env = aipo_env.make("rulebook-consult", agents={"verify": Recorder()}, tasks=SumTasks())
    assert [t.env_id for t in run(env, Script(), 2)] == ["rulebook-consult"] * 2
    (played,) = run("rulebook-consult", Script(), 1, level=3, agents={"verify": str.upper})
    assert played.task_id.startswith("rulebook/l3/")
    assert "IS IT?" in played.text


def test_several_consults_a_turn_are_asked_at_the_same_time() -> None:
    class Meeting(Recorder):
        async def respond(self, request: ConsultRequest) -> Reply:
            await asyncio.wait_for(barrier.wait(), 10)
            return Reply(self.name)

    class Both(Script):
        async def act(self, request: TurnRequest) -> Any:
            self.requests.append(request)
            both = [aipo_env.Consult("knowledge", "what?"), aipo_env.Consult("verify", "so?")]
            return both if request.turn == 0 else aipo_env.Answer("5")

    # All six helpers of the three episodes have to be there before one replies.
    barrier, policy = asyncio.Barrier(6), Both()
    agents = {name: Meeting(name=name) for name in ("verify", "knowledge")}
    game = make_sums(agents=agents, fan_out=2)
    found = run(game, policy, [4, 5, 6])
    assert policy.requests[0].stop == ()
    assert [[s.agent for s in t.segments] for t in found] == [["", "", "knowledge", "verify", ""]] * 3
    assert aipo_env.replay(found, game).faithful


# -- limits -----------------------------------------------------------------------------------------------------------


class Tokens(Script):
    """Samples characters: `count` of them, or as many as are left."""

    def __init__(self, count: int | None, finish: str = "stop") -> None:
        super().__init__()
        self.count, self.finish = count, finish

    async def act(self, request: TurnRequest) -> Any:
        self.requests.append(request)
        if request.turn == 0:
            return TokenAction([ord(c) for c in ASK])
        count = request.max_tokens if self.count is None else self.count
        return TokenAction([ord("x")] * (count or 0), finish_reason=self.finish)  # type: ignore[arg-type]


def test_the_token_budget() -> None:
    def game() -> ConsultGame:
        return make_sums(Recorder("r" * 20), codec=CharacterCodec())

    fixed = len(ASK) + len('<feedback agent="verify"></feedback>') + 20
    (played,) = run(game(), Tokens(None, "length"), [1], max_tokens=fixed + 10)
    assert (played.stop_reason, len(played.token_ids) - len(played.segments[0].token_ids)) == ("length", fixed + 10)
    # The reply alone used it up: the episode ends between the turns.
    policy = Tokens(None)
    (played,) = run(game(), policy, [1], max_tokens=fixed)
    assert (played.stop_reason, played.segments[-1].source, len(policy.requests)) == ("length", Source.AGENT, 1)
    # A single token that is left is asked for.
    policy = Tokens(None, "length")
    run(game(), policy, [1], max_tokens=fixed + 1)
    assert [request.max_tokens for request in policy.requests] == [fixed + 1, 1]
    with pytest.raises(InvalidActionError, match="at most 10 tokens"):
        run(game(), Tokens(11), [1], max_tokens=fixed + 10)


def test_flight_is_bounded_by_the_consumer() -> None:
    policy = Script(0)

    async def main() -> None:
        async with aipo_env.rollout(make_sums(), policy, 100, max_in_flight=10) as episodes:
            await until(lambda: len(policy.requests) >= 10)
            await asyncio.sleep(0.05)
            assert len(policy.requests) == 10
            for taken in range(1, 6):
                await anext(episodes)
                await until(lambda taken=taken: len(policy.requests) >= 10 + taken)  # type: ignore[misc]
                await asyncio.sleep(0.02)
                assert len(policy.requests) == 10 + taken

    asyncio.run(main())
    policy = Script(0, 0.001)
    run(make_sums(), policy, 100, max_in_flight=7)
    assert policy.most_running == 7


def test_a_million_tasks_take_no_memory() -> None:
    class Endless(SumTasks):
        num_tasks = None  # type: ignore[assignment]

        def task(self, index: int) -> Task:
            asked.append(index)
            return Task(f"sums/{index}", f"{index}+1=", str(index + 1))

    asked: list[int] = []

    async def main() -> None:
        async with aipo_env.rollout(make_sums(tasks=Endless()), Script(0), range(10**12), max_in_flight=4) as episodes:
            for _ in range(20):
                await anext(episodes)
            assert len(asyncio.all_tasks()) <= 5
            assert episodes.num_episodes == 10**12

    asyncio.run(main())
    assert max(asked) < 30


@pytest.mark.parametrize("late", ["policy", "helper"])
def test_a_late_episode_is_recorded(late: str) -> None:
    class Hanging(Recorder):
        cancelled = 0

        async def respond(self, request: ConsultRequest) -> Reply:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                Hanging.cancelled += 1
                raise
            raise AssertionError

    class Slow(Script):
        async def act(self, request: TurnRequest) -> str:
            if late == "policy" and request.turn == 1:
                await asyncio.Event().wait()
            return await super().act(request)

    game = make_sums(Hanging() if late == "helper" else Recorder("fine"))
    (played,) = run(game, Slow(), [1], timeout=0.05)
    assert (played.stop_reason, played.reward, played.verdict) == ("timeout", 0.0, "")
    assert played.metadata["error"] == "not finished within 0.05 s"
    sources = [s.source.name for s in played.segments]
    assert sources == (["PROMPT", "POLICY", "AGENT"] if late == "policy" else ["PROMPT", "POLICY"])
    assert Hanging.cancelled == (late == "helper")


class SlowGrading(SumTasks):
    """Grades task 0 when it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def grade(self, task: Task, answer: str) -> Grade:
        assert threading.current_thread() is not threading.main_thread()
        if task.id == "sums/0":
            assert self.go_on.wait(20)
        return super().grade(task, answer)


class SlowTasks(SumTasks):
    """Notes where and how often tasks are made."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.blocking = self.running = self.most = 0

    def task(self, index: int) -> Task:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            self.blocking += 1
        self.running += 1
        self.most = max(self.most, self.running)
        time.sleep(0.02)
        self.running -= 1
        self.made.append(index)
        return super().task(index)


def test_repair_18_making_tasks_does_not_block_the_loop() -> None:
    tasks = SlowTasks()
    found = run(make_sums(tasks=tasks), Script(), 6, group_size=3)
    assert len(found) == 18
    # A thread makes them, each once for its group, and one at a time: no family has to be safe for threads.
    assert (tasks.blocking, tasks.most, sorted(tasks.made)) == (0, 1, list(range(6)))


def test_tasks_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aipo_env.game._MOST_TASKS", 3)
    tasks = SlowTasks()
    game = make_sums(tasks=tasks)
    for index in (0, 1, 2, 2, 3, 3, 2):
        game.make_episode(index)
    assert tasks.made == [0, 1, 2, 3, 2]


def test_slow_grading_holds_up_nobody_else() -> None:
    async def main() -> list[Trajectory]:
        found = []
        async with aipo_env.rollout(make_sums(tasks=tasks), Script(0), 20) as episodes:
            async for trajectory in episodes:
                found.append(trajectory)
                if len(found) == 19:
                    tasks.go_on.set()
        return found

    tasks = SlowGrading()
    found = asyncio.run(main())
    assert found[-1].task_index == 0
    assert {t.stop_reason for t in found} == {"answer"}


def test_the_time_limit_covers_grading() -> None:
    tasks = SlowGrading()
    (played,) = run(make_sums(tasks=tasks), Script(0), 1, timeout=0.05)
    tasks.go_on.set()
    # The answer is in the record; nobody has graded it.
    assert (played.stop_reason, played.verdict, len(played.segments)) == ("timeout", "", 2)


def test_a_family_may_grade_without_blocking() -> None:
    class AsyncGrading(SumTasks):
        asked = 0

        def grade(self, task: Task, answer: str) -> Grade:
            raise AssertionError("the asynchronous one is there")

        async def grade_async(self, task: Task, answer: str) -> Grade:
            AsyncGrading.asked += 1
            return SumTasks.grade(self, task, answer)

    found = run(make_sums(tasks=AsyncGrading()), lambda transcript: r"\boxed{2}", 3)
    assert [t.reward for t in sorted(found, key=lambda t: t.group)] == [0.0, 1.0, 0.0]
    assert AsyncGrading.asked == 3


# -- faults -----------------------------------------------------------------------------------------------------------

FAULTS = [ServiceError("the server is down", status=503), TimeoutError(), ConnectionResetError("reset")]


@pytest.mark.parametrize("error", FAULTS, ids=lambda e: type(e).__name__)
def test_a_policy_that_cannot_act_is_data(error: Exception) -> None:
    found = run(make_sums(), Failing(error, {1, 3}), 5)
    assert {t.task_index for t in found if t.stop_reason == "error"} == {1, 3}
    for t in found:
        if t.stop_reason == "error":
            assert str(t.metadata["error"]).startswith(type(error).__name__)
            assert str(error) in str(t.metadata["error"])
            assert (t.num_consults, [s.source.name for s in t.segments]) == (1, ["PROMPT", "POLICY", "AGENT"])
    with pytest.raises(type(error)) as caught:
        run(make_sums(), Failing(error, {1, 3}), 5, on_error="raise")
    assert caught.value is error


def test_a_bug_ends_all_and_keeps_its_traceback() -> None:
    class Waiting(Failing):
        ended = 0

        async def act(self, request: TurnRequest) -> str:
            try:
                if request.task_id == "sums/0":
                    await asyncio.Event().wait()
            finally:
                Waiting.ended += request.task_id == "sums/0"
            return await super().act(request)

    with pytest.raises(ZeroDivisionError) as caught:
        run(make_sums(), Waiting(ZeroDivisionError("a bug"), {3}), 5)
    assert [entry.name for entry in caught.traceback][-1] == "act"
    assert Waiting.ended == 1


def test_a_bug_in_a_helper_propagates() -> None:
    class Broken(Recorder):
        async def respond(self, request: ConsultRequest) -> Reply:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(make_sums(Broken()), Script(), 5)


def test_a_bug_is_not_lost_when_the_consumer_leaves_early() -> None:
    async def main() -> None:
        async with aipo_env.rollout(make_sums(), Failing(ZeroDivisionError(), {3}), 5) as episodes:
            await until(lambda: len(asyncio.all_tasks()) == 1)
            assert episodes.num_resumed == 0

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())


def test_helpers_late_and_broken_services_are_replies() -> None:
    class Moody(Recorder):
        async def respond(self, request: ConsultRequest) -> Reply:
            if request.task_id == "sums/0":
                await asyncio.sleep(10)
            raise ServiceError("no", status=500)

    found = run(make_sums(Moody(), consult_timeout=0.05), Script(), 2)
    assert {t.stop_reason for t in found} == {"answer"}
    notices = {t.task_index: t.segments[2].text for t in found}
    assert "no reply within 0.05 s" in notices[0]
    assert "HTTP 500" in notices[1]


# -- leaving ----------------------------------------------------------------------------------------------------------


class Guarded(Script):
    """Hangs, and tells whether it was ended."""

    started = ended = 0

    async def act(self, request: TurnRequest) -> str:
        self.started += 1
        if request.task_id == "sums/0":
            return r"\boxed{1}"
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.ended += 1
        raise AssertionError


def test_leaving_the_context_ends_the_episodes() -> None:
    policy = Guarded()

    async def main() -> None:
        async with aipo_env.rollout(make_sums(), policy, 10) as episodes:
            async for _ in episodes:
                break
            assert len(asyncio.all_tasks()) == 10
        assert policy.ended == 9
        assert len(asyncio.all_tasks()) == 1
        with pytest.raises(StopAsyncIteration):
            await anext(episodes)
        with pytest.raises(AipoError, match="started before"):
            await episodes.__aenter__()

    asyncio.run(main())


def test_breaking_out_without_a_context_ends_them_too() -> None:
    policy = Guarded()

    async def main() -> None:
        async for _ in aipo_env.rollout(make_sums(), policy, 10):
            break
        gc.collect()
        await until(lambda: policy.ended == 9 and len(asyncio.all_tasks()) == 1)
        assert policy.ended == 9
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_cancelling_the_consumer_ends_them() -> None:
    policy = Guarded()

    async def consume() -> None:
        async with aipo_env.rollout(make_sums(), policy, 10) as episodes:
            async for _ in episodes:
                pass

    async def main() -> None:
        consumer = asyncio.create_task(consume())
        await until(lambda: policy.started == 10)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        assert policy.ended == 9
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_giving_up_waiting_for_one_ends_nothing() -> None:
    async def main() -> None:
        async with aipo_env.rollout(make_sums(), Script(0, 0.1), 3) as episodes:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(episodes), 0.01)
            assert len([t async for t in episodes]) == 3

    asyncio.run(main())


def test_left_open_files_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        episodes = aipo_env.rollout(make_sums(), Script(0), 3, max_in_flight=1, traces=tmp_path / "t.jsonl")
        await anext(episodes)
        await asyncio.sleep(0.05)

    # What a finaliser warns of is an error in this test suite, which a finaliser cannot raise.
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: None)

    def leave() -> None:
        asyncio.run(main())
        gc.collect()

    with pytest.warns(ResourceWarning, match="async with"):
        leave()
    # The lock is gone with the object.
    assert len(run(make_sums(), Script(0), 3, traces=tmp_path / "t.jsonl")) == 1


def test_what_the_caller_made_stays_open() -> None:
    class Closing(Recorder):
        closed = 0

        async def aclose(self) -> None:
            Closing.closed += 1

    lent = Closing(name="verify")
    run(make_sums(lent), Script(), 2)
    run("rulebook-consult", Script(), 2, agents={"verify": lent})
    assert Closing.closed == 0
    run("rulebook-consult", Script(), 2, agents={"verify": Closing})
    assert Closing.closed == 1


def test_what_finish_makes_of_an_episode_is_written_and_yielded(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"

    def finish(trajectory: Trajectory) -> Trajectory:
        trajectory.metadata["length"] = len(trajectory.text)
        trajectory.segments = []
        return trajectory

    found = run(make_sums(), Script(), 3, traces=path, finish=finish)
    assert [t.segments for t in found] == [[]] * 3
    assert {t.metadata["length"] for t in found} == {t.metadata["length"] for t in read_traces(path)}
    # The shortened record still tells which episodes are there.
    assert run(make_sums(), Script(), 3, traces=path, finish=finish) == []


def test_the_synchronous_way_works_inside_a_running_loop() -> None:
    async def main() -> list[Trajectory]:
        return aipo_env.collect_rollouts(make_sums(), Script(), 3, group_size=2)

    found = asyncio.run(main())
    assert [(t.group, t.sample) for t in found] == [(g, s) for g in range(3) for s in range(2)]
    assert as_set(found) == as_set(aipo_env.collect_rollouts(make_sums(), Script(), 3, group_size=2))


def test_progress_shows_counts_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    run(make_sums(), Failing(ServiceError("down"), {2}), 4, progress=True)
    captured = capsys.readouterr()
    assert "4/4" in captured.err
    assert "errors 1" in captured.err
    assert captured.out == ""
    run(make_sums(), Script(), 2)
    assert capsys.readouterr().err == ""


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": None, "env": "rulebook-consult"}, "no end"),
        ({"tasks": 101}, "has 100 tasks"),
        ({"tasks": -1}, "has 100 tasks"),
        ({"tasks": True}, "a number, a range"),
        ({"tasks": "ten"}, "a number, a range"),
        ({"tasks": [1, 2, 1], "traces": "traces.jsonl"}, "twice"),
        ({"group_size": 0}, "group_size"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"max_in_flight": 1.5}, "max_in_flight"),
        ({"seed": -1}, "seed"),
        ({"solo_share": 1.5}, "solo_share"),
        ({"timeout": 0}, "timeout"),
        ({"on_error": "ignore"}, "on_error"),
        ({"max_tokens": 10}, "no tokenizer"),
        ({"level": 2}, "level"),
        ({"env": 5}, "int"),
        ({"policy": 5}, "a policy has"),
        ({"policy": Script}, "the class Script"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_work(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        aipo_env.rollout(**{"env": make_sums(), "policy": Script(), "tasks": 3, **arguments})


def test_indices_beyond_the_family() -> None:
    for tasks in ([3, 100], range(90, 101), [np.int64(-1)]):
        with pytest.raises(IndexError, match="valid indices are 0"):
            aipo_env.rollout(make_sums(), Script(), tasks)
    assert [t.task_index for t in run(make_sums(), Script(), np.array([3]))] == [3]


# -- files ------------------------------------------------------------------------------------------------------------


def keys(path: Path) -> list[tuple[int | None, int]]:
    return [(t.task_index, t.sample) for t in read_traces(path)]


def test_traces_are_there_before_the_trajectory(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "traces.jsonl"

    async def main() -> None:
        async with aipo_env.rollout(make_sums(), Script(), 6, traces=path) as episodes:
            async for trajectory in episodes:
                assert trajectory.to_json() in [t.to_json() for t in read_traces(path)]

    asyncio.run(main())
    assert len(keys(path)) == 6


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    whole = as_set(run(make_sums(), Script(), 6, group_size=2))
    run(make_sums(), Script(), [0, 1, 2], group_size=2, traces=path)
    lines = path.read_bytes().splitlines(keepends=True)
    cut = lines[-1][: len(lines[-1]) // 2]
    path.write_bytes(b"".join(lines[:4]) + cut)

    async def main() -> list[Trajectory]:
        async with aipo_env.rollout(make_sums(), Script(), 6, group_size=2, traces=path) as episodes:
            assert (episodes.num_resumed, episodes.num_episodes) == (4, 12)
            return [t async for t in episodes]

    assert len(asyncio.run(main())) == 8
    written = list(read_traces(path))
    assert as_set(written) == whole
    assert len(written) == 12
    assert run(make_sums(), Script(), 6, group_size=2, traces=path) == []
    # More of the same run: the file keeps what it has.
    assert len(run(make_sums(), Script(), 7, group_size=2, traces=path)) == 2
    assert len(run(make_sums(), Script(), 3, group_size=3, traces=path)) == 3


def test_repair_21_all_trajectories_are_collected_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    options: dict[str, Any] = {"group_size": 2, "traces": path}
    whole = aipo_env.collect_rollouts(make_sums(), Script(), 6, group_size=2)
    aipo_env.collect_rollouts(make_sums(), Script(), [5, 1, 3], **options)
    assert aipo_env.collect_rollouts(make_sums(), Script(), 6, **options) == whole
    assert aipo_env.collect_rollouts(make_sums(), Script(), 6, **options) == whole
    # What the file holds beside this run's tasks and samples is not of it; positions are those of this run.
    part = aipo_env.collect_rollouts(make_sums(), Script(), [4, 1], traces=path)
    assert [(t.task_index, t.group, t.sample) for t in part] == [(4, 0, 0), (1, 1, 0)]
    assert len(list(read_traces(path))) == 12


def bold(answer: str, transcript: str) -> str:
    return rf"\boxed{{{answer}}}"


def closure(answer: str) -> Callable[[str], str]:
    return lambda transcript: rf"\boxed{{{answer}}}"


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (lambda transcript: r"\boxed{1}", lambda transcript: r"\boxed{2}"),
        (lambda transcript: transcript.upper(), lambda transcript: transcript.lower()),
        (lambda transcript, answer="1": answer, lambda transcript, answer="2": answer),
        (lambda transcript: (lambda: "1")(), lambda transcript: (lambda: "2")()),
        (lambda transcript, *, answer="1": answer, lambda transcript, *, answer="2": answer),
        (closure("1"), closure("2")),
        (functools.partial(bold, "1"), functools.partial(bold, "2")),
    ],
)
def test_repair_21_another_lambda_does_not_go_on_with_the_first_ones_file(
    tmp_path: Path, first: Callable[[str], str], other: Callable[[str], str]
) -> None:
    path = tmp_path / "traces.jsonl"
    run(make_sums(), first, 2, traces=path)
    with pytest.raises(ConfigurationError, match=r"line 1 is not of this run: its policy is '(lambda|partial)-"):
        run(make_sums(), other, 3, traces=path)
    assert len(run(make_sums(), first, 3, traces=path)) == 1


def test_repair_21_a_lambda_is_known_by_what_it_does(tmp_path: Path) -> None:
    def name(function: Callable[[str], str]) -> str:
        return as_policy(function).name

    assert name(closure("1")) == name(closure("1"))
    program = "from tests.test_rollout import *; print(as_policy(closure('1')).name)"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == name(closure("1"))


def test_faults_lie_apart_and_are_played_again(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    game = make_sums()
    found = run(game, Failing(ServiceError("down"), {1, 3}), 5, traces=path)
    assert len(found) == 5
    assert {index for index, _ in keys(path)} == {0, 2, 4}
    assert {index for index, _ in keys(tmp_path / "traces.errors.jsonl")} == {1, 3}
    assert {t.task_index for t in run(game, Script(), 5, traces=path)} == {1, 3}
    assert sorted(keys(path)) == [(i, 0) for i in range(5)]
    assert aipo_env.replay(path, game).faithful
    assert aipo_env.replay(tmp_path / "traces.errors.jsonl", game).num_trajectories == 2


class Other(Script):
    name = "another"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed"),
        ({"policy": Other()}, "policy"),
        ({"solo_share": 0.5}, "solo"),
        ({"env": lambda: make_sums(max_consults=3, tasks=SumTasks(), agents={"verify": Recorder(name="other")}), "seed": 2}, "seed"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("with_record", [True, False])
def test_another_run_is_not_mixed_in(tmp_path: Path, change: dict[str, Any], message: str, with_record: bool) -> None:
    path = tmp_path / "traces.jsonl"
    run(make_sums(), Script(), 2, group_size=2, traces=path)
    if not with_record:
        (tmp_path / "traces.run.json").unlink()
    before = path.read_bytes()
    options: dict[str, Any] = {"env": make_sums, "policy": Script(), **change}
    policy = options.pop("policy")
    with pytest.raises(ConfigurationError, match=rf"traces\.jsonl.*{message}.*another\s+place"):
        run(options.pop("env")(), policy, 2, group_size=2, traces=path, **options)
    assert not policy.requests
    assert path.read_bytes() == before


def test_other_options_are_told_of(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    run("rulebook-consult", Script(), 2, traces=path, level=2, agents={"verify": Recorder()})
    with pytest.raises(ConfigurationError, match=r"'level': 2.*'level': 3"):
        run("rulebook-consult", Script(), 3, traces=path, level=3, agents={"verify": Recorder()})
    with pytest.raises(ConfigurationError, match="agents was"):
        run("rulebook-consult", Script(), 3, traces=path, level=2)
    path.write_text("{}\n")
    with pytest.raises(AipoError, match="line 1"):
        run("rulebook-consult", Script(), 3, traces=path, level=2)


def test_traces_of_other_writers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    (played,) = run(make_sums(), Script(), 1)
    for field, value, message in (
        ("task_index", None, "does not say"),
        ("sample", 10**12, "does not say"),
        ("env_id", "x", "x"),
    ):
        path.unlink(missing_ok=True)
        aipo_env.write_traces(path, [Trajectory.from_json(played.to_json() | {field: value})])
        with pytest.raises(ConfigurationError, match=rf"line 1 is not of this run: .*{message}"):
            run(make_sums(), Script(), 1, traces=path)


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_repair_27_a_file_system_without_locks_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(
        UserWarning, match=r"traces\.jsonl is on a file system without locks \(No locks available\).*second run"
    ):
        assert len(run(make_sums(), Script(), 2, traces=tmp_path / "traces.jsonl")) == 2


def test_two_runs_do_not_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"

    async def main() -> None:
        async with aipo_env.rollout(make_sums(), Guarded(), 3, traces=path):
            with pytest.raises(ConfigurationError, match="another run"):
                await gather(make_sums(), Guarded(), 3, traces=path)

    asyncio.run(main())
    assert len(run(make_sums(), Script(), 3, traces=path)) in (2, 3)


PROGRAM = """
import asyncio, os, resource, sys
sys.path.insert(0, os.getcwd())
import aipo_env
from tests.test_rollout import Script, make_sums

async def main():
    async with aipo_env.rollout(make_sums(), Script(2, 0.002), 100, group_size=2, max_in_flight=4, traces=sys.argv[1]) as episodes:
        {before}
        async for trajectory in episodes:
            print(trajectory.task_index, flush=True)

asyncio.run(main())
"""


def start(path: Path, before: str = "pass") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM.replace("{before}", before)), str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )


@pytest.fixture
def lines_of() -> Iterator[Callable[[subprocess.Popen[str], int], None]]:
    """Reads some lines of a process; ends it with the test."""
    started = []

    def read(process: subprocess.Popen[str], count: int) -> None:
        started.append(process)
        assert process.stdout is not None
        for _ in range(count):
            assert process.stdout.readline(), process.stderr and process.stderr.read()

    yield read
    for process in started:
        process.kill()
        process.communicate()


def test_a_killed_run_goes_on(tmp_path: Path, lines_of: Callable[[subprocess.Popen[str], int], None]) -> None:
    path = tmp_path / "traces.jsonl"
    process = start(path)
    lines_of(process, 20)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(path.read_bytes().splitlines())
    assert finished >= 20
    with path.open("ab") as file:
        # What a kill in the middle of a write leaves, here within a character of several bytes.
        file.write('{"env_id":"é'.encode()[:-1])
    found = run(make_sums(), Script(2), 100, group_size=2, traces=path)
    assert len(found) == 200 - finished
    assert sorted(keys(path)) == [(task, sample) for task in range(100) for sample in range(2)]
    assert as_set(list(read_traces(path))) == as_set(run(make_sums(), Script(2), 100, group_size=2))


def test_ctrl_c_ends_a_run(tmp_path: Path, lines_of: Callable[[subprocess.Popen[str], int], None]) -> None:
    path = tmp_path / "traces.jsonl"
    process = start(path)
    lines_of(process, 3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert errors.strip().endswith("KeyboardInterrupt")
    assert "never retrieved" not in errors
    assert "destroyed" not in errors
    assert len(keys(path)) >= 3


def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    process = start(path, "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "OSError" in errors.strip().splitlines()[-1]
    assert "traces.jsonl" in errors.strip().splitlines()[-1]
    finished = keys(path)
    assert len(finished) > 5
    assert path.read_bytes().endswith(b"\n")
    # Room again: the rest follows.
    assert len(run(make_sums(), Script(2), 100, group_size=2, traces=path)) == 200 - len(finished)


def test_time_is_spent_waiting_together() -> None:
    start_time = time.perf_counter()
    run(make_sums(), Script(2, 0.05), 100, max_in_flight=100)
    # One after the other they would take 15 s.
    assert time.perf_counter() - start_time < 12
