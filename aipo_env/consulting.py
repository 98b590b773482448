"""Calling helpers: from synchronous code, with a time limit, and from plain functions."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import logging
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import TypeVar

from aipo_env.errors import ConfigurationError, InvalidActionError, ServiceError
from aipo_env.protocol import Agent, ConsultRequest, Reply
from aipo_env.threads import call

T = TypeVar("T")

log = logging.getLogger("aipo_env")


class _Limit:
    """The time limit of a consult, within those of the consults in whose replies it is asked."""

    def __init__(self, scope: asyncio.Timeout | None = None, outer: _Limit | None = None) -> None:
        self.scope, self.outer = scope, outer

    def end(self) -> float:
        """When, by the monotonic clock, this reply is late, or one that waits for it."""
        when = None if self.scope is None else self.scope.when()
        return min(math.inf if when is None else when, math.inf if self.outer is None else self.outer.end())


_NO_LIMIT = _Limit()
_limit: contextvars.ContextVar[_Limit] = contextvars.ContextVar("aipo_env_limit", default=_NO_LIMIT)
"""That of the helper in whose reply this code runs."""


async def consult(agent: Agent, request: ConsultRequest, timeout: float | None = None) -> Reply:
    """Asks a helper; lateness, lost connections and failing services become `Reply.error`, any other exception propagates.

    Args:
        agent: the helper.
        request: what it is asked.
        timeout: seconds the helper has; None for no limit.
    """
    asked = request
    hints = asked.hints if asked.hints and getattr(agent, "uses_hints", False) else ()
    deadline = timeout if asked.deadline is None else asked.deadline
    # `dataclasses.replace` would cost as much as reading the turn.
    request = ConsultRequest(
        asked.query, asked.transcript, asked.task_id, asked.seed, deadline, asked.confidential, hints
    )
    outer = _limit.get()
    try:
        async with asyncio.timeout(timeout) as scope:
            own = _Limit(scope, outer)
            _limit.set(own)
            try:
                reply = await agent.respond(request)
            finally:
                own.scope = None  # what the helper leaves running has none any more
                _limit.set(outer)
    except TimeoutError:
        now, end = time.monotonic(), scope.when()
        if now >= outer.end():
            raise  # late is the helper in whose reply this one was asked
        # One of the helper's own may come at any time.
        late = scope.expired() or (end is not None and now >= end)
        return Reply("", error=f"no reply within {timeout:g} s" if late else "it timed out")
    except ServiceError as error:
        # The policy reads the short form: the same words for the same fault, and no address.
        # What a service says may quote what it was sent.
        log.warning("%s: %s", agent.name, f"{type(error).__name__}: (withheld)" if request.confidential else error)
        status = f" (HTTP {error.status})" if error.status is not None else ""
        return Reply("", error=f"its service failed{status}", usage=error.usage)
    except ConnectionError as error:
        return Reply("", error=f"connection failed ({type(error).__name__})")
    if not isinstance(reply, Reply):
        raise InvalidActionError(
            f"{agent.name}.respond must return an aipo_env.Reply, got {type(reply).__name__}. A plain `str -> str` "
            "function becomes an agent with aipo_env.as_agent(fn)."
        )
    if not isinstance(reply.text, str):
        raise InvalidActionError(
            f"the reply of the helper {agent.name!r} must be a text, got {type(reply.text).__name__}. A helper that has none "
            'returns Reply("", error="why"); a function that makes a helper takes no arguments.'
        )
    return reply


@contextlib.contextmanager
def in_our_own_line() -> Iterator[None]:
    """Inside, the time of the helper in whose reply this runs stands still: a limit of ours is waited for, and not it."""
    limit = _limit.get().scope
    end = None if limit is None else limit.when()
    if limit is None or end is None:
        yield
        return
    came = asyncio.get_running_loop().time()
    limit.reschedule(None)
    try:
        yield
    finally:
        limit.reschedule(end + asyncio.get_running_loop().time() - came)


async def ask_together(calls: Sequence[Coroutine[object, object, T]]) -> list[T]:
    """Awaits several calls at the same time; where one of them fails, or this is cancelled, none of the others goes on."""
    if len(calls) == 1:
        # A task costs more than the rest of a consult.
        return [await calls[0]]
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


class FunctionAgent:
    """An agent made of a function; see `as_agent`."""

    def __init__(self, function: Callable[[str], str | Awaitable[str]], name: str) -> None:
        self.name = name
        self._function = function

    async def respond(self, request: ConsultRequest) -> Reply:
        """Calls the function with the query; a synchronous one runs in a thread, so that a slow one blocks nobody."""
        return Reply(await call(self._function, request.query))


def as_agent(function: Callable[[str], str | Awaitable[str]], name: str = "") -> Agent:
    """Makes an agent of a function that maps a query to a reply, synchronous or asynchronous.

    Example:
        >>> shout = as_agent(lambda query: query.upper(), name="shout")
        >>> shout.name
        'shout'
    """
    if not callable(function):
        raise ConfigurationError(f"as_agent takes a function of the query, got {type(function).__name__}.")
    return FunctionAgent(function, name or getattr(function, "__name__", "agent").strip("<>"))


class _OwnLoop:
    """An event loop that its thread runs whenever it has something to wait for; closed with the thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        """Runs a coroutine to its end; an interrupt ends it, and what it waits for, before it propagates."""
        task = self.loop.create_task(coroutine)
        try:
            return self.loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                task.cancel()
                self.loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            raise

    def close(self) -> None:
        """Gives back what the loop and its generators hold; a child process leaves what is its parent's alone."""
        if not self.loop.is_closed() and not self.loop.is_running() and self.pid == os.getpid():
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    __del__ = close


class _LoopThread:
    """An event loop on a daemon thread, for callers whose own thread is running a loop already."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.held = False
        """Whether the loop stands still: something that it runs waits in `run_sync`."""
        self.thread = threading.Thread(target=self.loop.run_forever, name="aipo-consult", daemon=True)
        self.thread.start()


_own = threading.local()
_loop_threads: list[_LoopThread] = []
_loop_lock = threading.Lock()


def run_sync(coroutine: Coroutine[object, object, T]) -> T:
    """Runs a coroutine to its end from synchronous code, whether or not the caller's thread has a running loop.

    A thread without a running loop keeps one of its own for this, since waking another thread takes longer than a whole
    turn; a thread with one (a notebook, a helper that itself plays an episode) waits for a loop on another thread.

    Raises:
        TimeoutError: in a helper, whose own time is over.
    """
    if _in_running_loop():
        return _run_elsewhere(coroutine)
    own: _OwnLoop | None = getattr(_own, "loop", None)
    # A loop does not survive a fork; the child makes its own.
    if own is None or own.pid != os.getpid():
        own = _own.loop = _OwnLoop()
        if threading.current_thread() is threading.main_thread():
            atexit.register(own.close)
    return own.run(coroutine)


def _run_elsewhere(coroutine: Coroutine[object, object, T]) -> T:
    """Runs a coroutine on a loop that does not stand still, while the caller's does.

    The caller's loop cannot tell its helper that it is late, so this does.
    """
    with _loop_lock:
        _loop_threads[:] = [thread for thread in _loop_threads if thread.pid == os.getpid()]
        here = next((thread for thread in _loop_threads if thread.thread is threading.current_thread()), None)
        if here is not None:
            here.held = True
        free = next((thread for thread in _loop_threads if not thread.held), None)
        if free is None:
            _loop_threads.append(free := _LoopThread())
    future = asyncio.run_coroutine_threadsafe(coroutine, free.loop)
    try:
        return future.result(min(_limit.get().end() - time.monotonic(), threading.TIMEOUT_MAX))
    except BaseException:
        future.cancel()
        raise
    finally:
        if here is not None:
            here.held = False


def _in_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
