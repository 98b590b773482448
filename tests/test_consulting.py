from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import aipo_env
from aipo_env import ConsultEnv, ConsultRequest, Reply, consulting
from aipo_env.consulting import consult
from aipo_env.errors import InvalidActionError
from tests.helpers import Recorder, SumTasks

ASK = '<consult agent="verify">ab</consult>'


def make(helper: object, **options: Any) -> ConsultEnv:
    env = aipo_env.make("rulebook-consult", tasks=SumTasks(), agents={"verify": helper}, **options)
    env.reset(seed=0)
    return env


def asked(env: ConsultEnv) -> str:
    """What the policy sees of the reply."""
    return str(env.step(ASK)[0]["prompt"]).rpartition(ASK)[2]


def within(seconds: float, function: Callable[[], object]) -> object:
    """The result of a call that may never return; so does the caller's thread where this is given up."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"not done after {seconds} s"
    return found[0]


def in_a_loop(function: Callable[[], object]) -> object:
    async def main() -> object:
        return function()

    return asyncio.run(main())


# -- plain functions ---------------------------------------------------------------------------------------------------


def test_repair_17_no_helper_is_late_because_others_are_busy() -> None:
    together = threading.Barrier(64, timeout=30)

    def slow(query: str) -> str:
        together.wait()  # passed when all of them run
        return "done"

    def policy(transcript: str) -> str:
        return r"\boxed{1}" if "<feedback agent" in transcript else ASK

    options: dict[str, Any] = {"tasks": SumTasks(), "agents": {"verify": slow}, "consult_timeout": 25}
    env = aipo_env.make("rulebook-consult", **options)
    found = aipo_env.collect_rollouts(env, policy, 64, max_in_flight=64)
    assert ["done" in trajectory.text for trajectory in found] == [True] * 64


def test_repair_17_as_many_synchronous_policies_as_episodes_in_flight() -> None:
    together = threading.Barrier(80, timeout=30)

    def policy(transcript: str) -> str:
        together.wait()
        return r"\boxed{1}"

    env = aipo_env.make("rulebook", tasks=SumTasks())
    assert len(aipo_env.collect_rollouts(env, policy, 80, max_in_flight=80)) == 80


class Asks:
    async def __call__(self, query: str) -> str:
        return query * 2


async def ask(query: str) -> str:
    return query * 2


def with_default(query: str = "") -> str:
    return query * 2


@pytest.mark.parametrize(
    "function", [lambda query: ask(query), Asks(), with_default, lambda *texts: texts[0] * 2, ask, Asks]
)
def test_repair_23_functions_of_every_kind_are_helpers(function: object) -> None:
    assert "abab" in asked(make(function))


@pytest.mark.parametrize("function", [lambda query: None, lambda query: 5, lambda query: b"x"])
def test_repair_23_a_reply_that_is_no_text_names_the_helper(function: object) -> None:
    with pytest.raises(InvalidActionError, match=r"the helper 'verify' must be a text, got (NoneType|int|bytes)"):
        asked(make(function))


def test_repair_23_awaitables_of_policies_are_awaited() -> None:
    async def answer(transcript: str) -> str:
        return r"\boxed{1}"

    class Answers:
        async def __call__(self, transcript: str) -> str:
            return r"\boxed{1}"

    env = aipo_env.make("rulebook", tasks=SumTasks())
    for policy in (lambda transcript: answer(transcript), Answers()):
        (played,) = aipo_env.collect_rollouts(env, policy, 1)
        assert played.reward == 1.0


# -- time limits -------------------------------------------------------------------------------------------------------


def test_repair_27_a_helpers_own_time_out_is_not_ours() -> None:
    class Impatient(Recorder):
        async def respond(self, request: ConsultRequest) -> Reply:
            raise TimeoutError("my own server")

    class Late(Recorder):
        async def respond(self, request: ConsultRequest) -> Reply:
            await asyncio.sleep(600)
            return self.reply

    def reply(agent: Recorder, timeout: float | None) -> str | None:
        return asyncio.run(consult(agent, ConsultRequest("q"), timeout)).error

    assert reply(Impatient(), 60) == reply(Impatient(), None) == "it timed out"
    assert reply(Late(), 0.05) == "no reply within 0.05 s"


# -- helpers that play episodes themselves -----------------------------------------------------------------------------


class Playing(Recorder):
    """A helper that asks another environment's helper, and says what came."""

    def __init__(self, inner: ConsultEnv) -> None:
        super().__init__()
        self.inner = inner

    async def respond(self, request: ConsultRequest) -> Reply:
        self.inner.reset(seed=0)
        return Reply("inner: " + asked(self.inner))


class Hanging(Recorder):
    cancelled = False

    async def respond(self, request: ConsultRequest) -> Reply:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return self.reply


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("around", [in_a_loop, lambda function: function()])
def test_repair_19_a_helper_may_step_environments(depth: int, around: Callable[..., object]) -> None:
    def play() -> str:
        env = make(Recorder("deep"))
        for _ in range(depth):
            env = make(Playing(env))
        # Twice: no loop is left standing still.
        assert asked(env) == asked(env)
        return asked(env)

    for _ in range(3):
        assert within(30, lambda: around(play)).count("inner: ") == depth  # type: ignore[attr-defined]
    # A loop that stood still is used again.
    assert sum(thread.name == "aipo-consult" for thread in threading.enumerate()) <= 4


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("around", [in_a_loop, lambda function: function()])
def test_repair_19_a_helper_that_hangs_in_another_environment_is_late(
    depth: int, around: Callable[..., object]
) -> None:
    hanging = Hanging()

    def play() -> str:
        helper: Recorder = hanging
        for _ in range(depth):
            helper = Playing(make(helper, consult_timeout=None))
        return asked(make(helper, consult_timeout=0.2))

    assert "verify could not answer: no reply within 0.2 s" in str(within(30, lambda: around(play)))
    end = time.monotonic() + 20
    while not hanging.cancelled:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_repair_19_the_limit_of_a_consult_ends_with_it() -> None:
    inner = make(Recorder("deep"))

    class Starting(Recorder):
        """Leaves something running behind its reply."""

        async def later(self) -> str:
            await asyncio.sleep(0.1)
            return asked(inner)

        async def respond(self, request: ConsultRequest) -> Reply:
            self.task = asyncio.create_task(self.later())
            return self.reply

    async def two() -> tuple[Reply, str, Reply]:
        starting = Starting()
        outer = consulting._limit.get()
        first = await consult(starting, ConsultRequest("q"), 0.05)
        assert consulting._limit.get() is outer
        behind = await starting.task
        return first, behind, await consult(Playing(inner), ConsultRequest("q"), None)

    first, behind, second = within(30, lambda: asyncio.run(two()))  # type: ignore[misc]
    assert (first.text, "deep" in behind, "deep" in second.text) == ("ok", True, True)


def test_repair_19_an_inner_limit_is_the_inner_helpers() -> None:
    reply = within(30, lambda: asked(make(Playing(make(Hanging(), consult_timeout=0.05)), consult_timeout=20)))
    assert "no reply within 0.05 s" in str(reply)
    assert "20 s" not in str(reply)


def test_repair_19_functions_may_step_environments_too() -> None:
    inner = make(Recorder("deep"))
    assert "deep" in str(within(30, lambda: in_a_loop(lambda: asked(make(lambda query: asked(inner))))))
