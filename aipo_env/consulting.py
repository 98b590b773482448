"""Calling helpers: from synchronous code, with a time limit, and from plain functions."""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import inspect
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar, cast

from aipo_env.errors import ConfigurationError, ServiceError
from aipo_env.protocol import Agent, ConsultRequest, Reply

T = TypeVar("T")

log = logging.getLogger("aipo_env")


async def consult(agent: Agent, request: ConsultRequest, timeout: float | None = None) -> Reply:
    """Asks a helper; lateness, lost connections and failing services become `Reply.error`, any other exception propagates.

    Args:
        agent: the helper.
        request: what it is asked.
        timeout: seconds the helper has; None for no limit.
    """
    if timeout is not None and request.deadline is None:
        request = dataclasses.replace(request, deadline=timeout)
    if request.hints and not getattr(agent, "uses_hints", False):
        request = dataclasses.replace(request, hints=())
    try:
        async with asyncio.timeout(timeout):
            reply = await agent.respond(request)
    except TimeoutError:
        return Reply("", error=f"no reply within {timeout:g} s" if timeout is not None else "it timed out")
    except ServiceError as error:
        # The policy reads the short form: the same words for the same fault, and no address.
        # What a service says may quote what it was sent.
        log.warning("%s: %s", agent.name, f"{type(error).__name__}: (withheld)" if request.confidential else error)
        status = f" (HTTP {error.status})" if error.status is not None else ""
        return Reply("", error=f"its service failed{status}", usage=error.usage)
    except ConnectionError as error:
        return Reply("", error=f"connection failed ({type(error).__name__})")
    if not isinstance(reply, Reply):
        raise TypeError(
            f"{agent.name}.respond must return an aipo_env.Reply, got {type(reply).__name__}. A plain `str -> str` "
            "function becomes an agent with aipo_env.as_agent(fn)."
        )
    return reply


class FunctionAgent:
    """An agent made of a function; see `as_agent`."""

    def __init__(self, function: Callable[[str], str | Awaitable[str]], name: str) -> None:
        self.name = name
        self._function = function

    async def respond(self, request: ConsultRequest) -> Reply:
        """Calls the function with the query; a synchronous one runs in a thread, so that a slow one blocks nobody."""
        if inspect.iscoroutinefunction(self._function):
            text = await self._function(request.query)
        else:
            text = await asyncio.to_thread(cast("Callable[[str], str]", self._function), request.query)
        return Reply(text)


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
    """One event loop on a daemon thread, for callers whose own thread is running a loop already."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="aipo-consult", daemon=True).start()


_own = threading.local()
_loop_thread: _LoopThread | None = None
_loop_lock = threading.Lock()


def run_sync(coroutine: Coroutine[object, object, T]) -> T:
    """Runs a coroutine to its end from synchronous code, whether or not the caller's thread has a running loop.

    A thread without a running loop keeps one of its own for this, since waking another thread takes longer than a whole
    turn; a thread with one (a notebook) waits for a loop on a second thread.
    """
    global _loop_thread
    if not _in_running_loop():
        own: _OwnLoop | None = getattr(_own, "loop", None)
        # A loop does not survive a fork; the child makes its own.
        if own is None or own.pid != os.getpid():
            own = _own.loop = _OwnLoop()
            if threading.current_thread() is threading.main_thread():
                atexit.register(own.close)
        return own.run(coroutine)
    with _loop_lock:
        if _loop_thread is None or _loop_thread.pid != os.getpid():
            _loop_thread = _LoopThread()
        loop = _loop_thread.loop
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


def _in_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
