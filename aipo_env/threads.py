"""Functions of other people, called without holding up the event loop or the end of the process."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
import queue
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

_IDLE_SECONDS = 10.0


class OnDemandThreads(Executor):
    """Starts each call at once, in an idle thread or a new one; none of its threads holds up the end of the process.

    The standard library's pool lets a call wait while all threads are busy, which a time limit takes for lateness, and waits
    at the end of the process for calls that may never return.

    Args:
        limit: threads at most; further calls wait. None for as many as there are calls.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit, self._pid = limit, os.getpid()
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._num_threads = 0
        self._num_free = 0
        """Idle threads, less the calls that wait for one."""

    def __reduce__(self) -> tuple[type[OnDemandThreads], tuple[int | None]]:
        return OnDemandThreads, (self._limit,)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Starts a call, in a copy of the caller's context."""
        if self._pid != os.getpid():  # no thread survives a fork
            self.__init__(self._limit)  # type: ignore[misc]
        future: Future[T] = Future()
        with self._lock:
            self._calls.put((future, functools.partial(contextvars.copy_context().run, fn, *args, **kwargs)))
            self._num_free -= 1
            if self._num_free < 0 and self._num_threads != self._limit:
                try:
                    threading.Thread(target=self._work, name="aipo-call", daemon=True).start()
                    self._num_threads, self._num_free = self._num_threads + 1, self._num_free + 1
                except RuntimeError:  # the system lets no more start: the call waits for those there are
                    if not self._num_threads:
                        future.cancel()
                        raise
        return future

    def _work(self) -> None:
        while True:
            try:
                future, call = self._calls.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._num_free > 0:  # else a call has just come
                        self._num_threads, self._num_free = self._num_threads - 1, self._num_free - 1
                        return
                continue
            result: Any = None
            error: BaseException | None = None
            runs = future.set_running_or_notify_cancel()
            if runs:
                try:
                    result = call()
                except StopIteration as raised:  # no coroutine can raise it: who waits would wait for ever
                    error = RuntimeError(f"the function raised {raised!r}")
                except BaseException as raised:  # the caller's to handle
                    error = raised
            with self._lock:
                self._num_free += 1  # before the caller wakes, who may call again at once
            if error is not None:
                future.set_exception(error)
            elif runs:
                future.set_result(result)
            del future, call, result, error


_THREADS = OnDemandThreads()


async def call(function: Callable[P, T | Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function, and awaits what it returns if that can be awaited.

    A coroutine function runs on the event loop; any other in a thread, so that a slow one blocks nobody.
    """
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        result = function(*args, **kwargs)
    else:
        started = functools.partial(function, *args, **kwargs)
        result = await asyncio.get_running_loop().run_in_executor(_THREADS, started)
    return await result if inspect.isawaitable(result) else result
