"""How much may be sent now: token buckets, one for requests and one for tokens."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Final

from aipo_agents.faults import RateLimitTimeout
from aipo_agents.middleware.per_loop import PerLoop
from aipo_env.errors import ServiceError

log = logging.getLogger("aipo_agents")

LONGEST_HOLD: Final = 300.0
"""A crowded service that asks for a longer wait than this, in seconds, holds nobody up: each request fails by itself."""


class Bucket:
    """A token bucket: it fills at a rate, up to a capacity; what is taken ahead of time makes it negative.

    Args:
        rate: units that come in per second.
        capacity: units that it holds; it starts full.
    """

    def __init__(self, rate: float, capacity: float) -> None:
        self.rate, self.capacity = rate, capacity
        self._level, self._time = capacity, time.monotonic()

    def add(self, amount: float) -> None:
        """Puts units in, or takes them out where `amount` is negative."""
        now = time.monotonic()
        self._level = min(self.capacity, self._level + (now - self._time) * self.rate)
        self._level = min(self.capacity, self._level + amount)
        self._time = now

    def wait_for(self, amount: float) -> float:
        """Seconds until `amount` units are there; more than the capacity counts as a full bucket."""
        self.add(0.0)
        return max(0.0, (min(amount, self.capacity) - self._level) / self.rate)


class RateBudget:
    """Requests and tokens of one service, shared by all threads and event loops of this process.

    Args:
        requests_per_second: None for no limit.
        tokens_per_second: None for no limit.
        burst: seconds' worth that may be sent at once.
    """

    def __init__(self, requests_per_second: float | None, tokens_per_second: float | None, burst: float) -> None:
        self._lock = threading.Lock()
        self._requests = _bucket(requests_per_second, burst)
        self._tokens = _bucket(tokens_per_second, burst)
        self._held_until = 0.0
        # Only who is first in line has a timer; the others stand in an asyncio.Lock, which is first come, first served.
        self._line = PerLoop(asyncio.Lock)

    async def admit(self, name: str, tokens: float = 0.0, deadline: float | None = None) -> None:
        """Returns when a request may be sent; a cancelled one has taken nothing.

        Args:
            name: of who is asked, for messages.
            tokens: that the request will take.
            deadline: seconds that it can wait.

        Raises:
            RateLimitTimeout: its turn comes later than that.
        """
        came = time.monotonic()
        late = RateLimitTimeout(
            f"{name} was to reply within {deadline or 0:g} s, but the rate limit leaves it no turn in that time. Give requests "
            "longer, send fewer at once, or raise the limit."
        )
        try:
            async with asyncio.timeout(deadline) as limit, self._line.get():
                wait = self.reserve(tokens)
                try:
                    if deadline is not None and wait > deadline - (time.monotonic() - came):
                        raise late
                    if wait > 0:
                        await asyncio.sleep(wait)
                except BaseException:
                    self.refund(requests=1.0, tokens=tokens)
                    raise
        except TimeoutError as error:
            if limit.expired():
                raise late from error
            raise

    def reserve(self, tokens: float) -> float:
        """Takes one request and its tokens; returns the seconds after which they may be sent."""
        with self._lock:
            waits = [self._held_until - time.monotonic(), 0.0]
            if self._requests is not None:
                waits.append(self._requests.wait_for(1.0))
                self._requests.add(-1.0)
            if self._tokens is not None:
                waits.append(self._tokens.wait_for(tokens))
                self._tokens.add(-tokens)
            return max(waits)

    def refund(self, *, requests: float = 0.0, tokens: float = 0.0) -> None:
        """Gives back what was not used; negative tokens take what was used beyond the estimate."""
        with self._lock:
            if self._requests is not None:
                self._requests.add(requests)
            if self._tokens is not None:
                self._tokens.add(tokens)

    def spare(self, error: ServiceError, name: str) -> None:
        """Sends nothing more for a while where a service, `name` in the log, says that it had too many requests, and how long.

        One answer must not silence a service for a day: see `LONGEST_HOLD`.
        """
        wait = (error.retry_after or 0.0) if error.status == 429 else 0.0
        if wait > LONGEST_HOLD:
            log.warning("%s asks for no requests within %.0f s, which is not waited for.", name, wait)
        elif wait > 0:
            with self._lock:
                self._held_until = max(self._held_until, time.monotonic() + wait)


def _bucket(rate: float | None, burst: float) -> Bucket | None:
    # One that holds less than a unit would never let a request through.
    return None if rate is None else Bucket(rate, max(1.0, rate * burst))
