"""Things that belong to one event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One thing for each running event loop, made on first use; an agent is called from several loops over its life.

    Args:
        make: makes the thing of a loop.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._things: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """The thing of the running loop; RuntimeError where none runs."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._things:
                # Weak keys would not do: an asyncio.Lock holds its loop, which would live as long as this.
                self._things = {other: thing for other, thing in self._things.items() if not other.is_closed()}
                self._things[loop] = self._make()
            return self._things[loop]
