from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from aipo_env import threads
from aipo_env.threads import OnDemandThreads, call


def until(condition: Callable[[], bool]) -> None:
    """Waits for something that comes soon, however busy the machine is."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def num_threads() -> int:
    return sum(thread.name == "aipo-call" for thread in threading.enumerate())


def test_every_call_starts_at_once_and_idle_threads_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_IDLE_SECONDS", 0.5)
    pool, before = OnDemandThreads(), num_threads()
    together = threading.Barrier(50)
    assert [f.result(20) >= 0 for f in [pool.submit(together.wait, 20) for _ in range(50)]] == [True] * 50
    assert num_threads() >= before + 50
    until(lambda: num_threads() <= before)
    for _ in range(200):
        pool.submit(time.sleep, 0).result(20)
    assert num_threads() <= before + 1
    assert pool.submit(int, "7").result(20) == 7


def test_a_limit_makes_calls_wait() -> None:
    pool = OnDemandThreads(limit=2)
    go, lock, running, most = threading.Event(), threading.Lock(), 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go.wait(20)
        with lock:
            running -= 1

    futures = [pool.submit(work) for _ in range(6)]
    until(lambda: most == 2)
    assert futures[5].cancel()
    assert not futures[0].cancel()
    go.set()
    for future in futures[:5]:
        future.result(20)
    assert most == 2
    assert [pool.submit(int, i).result(20) for i in range(4)] == [0, 1, 2, 3]


def test_where_no_thread_can_start_calls_wait_for_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = OnDemandThreads()
    go = threading.Event()
    first = pool.submit(go.wait, 20)
    until(first.running)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    second = pool.submit(int, "2")
    with pytest.raises(RuntimeError, match="can't start"):
        OnDemandThreads().submit(int, "3")
    assert not second.done()
    go.set()
    assert second.result(20) == 2


def test_exceptions_and_the_callers_context_pass() -> None:
    where = contextvars.ContextVar("where", default="nowhere")
    where.set("here")
    pool = copy.deepcopy(OnDemandThreads(limit=1))
    assert pool.submit(where.get).result(20) == "here"
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result(20)

    async def exhausted() -> object:
        return await call(next, iter(()))

    # A coroutine cannot raise StopIteration, and a future that should would never be done.
    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(asyncio.wait_for(exhausted(), 20))


class Asks:
    async def __call__(self, query: str) -> str:
        await asyncio.sleep(0)
        return f"{query} {threading.current_thread() is threading.main_thread()}"


async def ask(query: str) -> str:
    return await Asks()(query)


@pytest.mark.parametrize("function", [ask, Asks(), Asks().__call__, functools.partial(ask, "q")])
def test_coroutine_functions_need_no_thread(
    function: Callable[..., Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_THREADS", object())

    async def main() -> object:
        return await call(function, *([] if isinstance(function, functools.partial) else ["q"]))

    assert asyncio.run(main()) == "q True"


@pytest.mark.parametrize(
    ("function", "reply"),
    [(ask, "q True"), (lambda query: ask(query), "q True"), (Asks(), "q True"), (Asks().__call__, "q True"),
     (lambda query: f"{query} {threading.current_thread() is threading.main_thread()}", "q False")],
)  # fmt: skip
def test_what_can_be_awaited_is_awaited(function: Callable[[str], object], reply: str) -> None:
    async def main() -> object:
        return await call(function, "q")

    assert asyncio.run(main()) == reply


HANGING = """
import time, aipo_env
env = aipo_env.make("rulebook-consult", agents={"verify": lambda query: time.sleep(600)}, consult_timeout=0.05)
env.reset(seed=0)
observation, *_ = env.step('<consult agent="verify">x</consult>')
assert "no reply within 0.05 s" in observation["prompt"], observation
episodes = aipo_env.collect_rollouts("rulebook-consult", lambda transcript: time.sleep(600), 2, timeout=0.05)
assert [episode.stop_reason for episode in episodes] == ["timeout"] * 2
print("over", flush=True)
"""


def test_repair_27_a_hung_function_does_not_hold_up_the_end_of_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "over\n"), done.stderr


FORKED = """
import os, threading, aipo_env
env = aipo_env.make("rulebook-consult", agents={"verify": str.upper})

def ask():
    env.reset(seed=0)
    return "AB" in env.step('<consult agent="verify">ab</consult>')[0]["prompt"]

assert ask()
child = os.fork()
if not child:
    os._exit(0 if ask() else 1)
assert os.waitpid(child, 0)[1] == 0
assert ask()
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system does not fork")
def test_a_forked_child_has_threads_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
