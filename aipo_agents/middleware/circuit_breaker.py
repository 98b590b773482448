"""CircuitBreaker: leaves a service that keeps failing alone for a while."""

from __future__ import annotations

import logging
import threading
import time
from typing import Literal

from aipo_agents.faults import is_service_failure
from aipo_agents.middleware.base import Middleware
from aipo_env.checks import check_count, check_number
from aipo_env.errors import ServiceError
from aipo_env.protocol import Agent, ConsultRequest, Reply

log = logging.getLogger("aipo_agents")

Outcome = Literal["answered", "failed", "unknown"]
"""What a call says of the service; a bug, a cancelled call, an error that is the request's fault say nothing."""


class CircuitBreaker(Middleware):
    """Opens after so many failures in a row: for the cooldown every call fails at once, then one is let through.

    If that one is answered, all are let through again; if it fails, the cooldown starts anew. Failures are transient
    `ServiceError`s, `ConnectionError`s and `TimeoutError`s. A call that the caller gives up (cancels) is none, so put a
    `Timeout` inside. One state serves all threads and event loops of the process.

    Args:
        agent: the agent to wrap.
        failures: failures in a row after which it opens.
        cooldown: seconds for which it stays open.

    Raises:
        ConfigurationError: a number out of its range.
    """

    # purgatory lets every call through once the cooldown is over, and pybreaker's asynchronous calls need tornado.

    def __init__(self, agent: Agent, failures: int = 10, cooldown: float = 10.0) -> None:
        super().__init__(agent)
        self.failures = check_count("CircuitBreaker: failures", failures, what="how many failures in a row open it")
        self.cooldown = check_number("CircuitBreaker: cooldown", cooldown, what="how long it stays open, in seconds")
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        self._opened_at: float | None = None
        self._trying = False
        # Counts openings and closings: a call that began before the last one has nothing to say any more.
        self._epoch = 0

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        """Closed: calls go through. Open: they fail at once. Half-open: the next one is let through."""
        with self._lock:
            if self._opened_at is None:
                return "closed"
            return "open" if self._rest(self._opened_at) > 0 else "half-open"

    async def respond(self, request: ConsultRequest) -> Reply:
        """The wrapped agent's reply; a transient ServiceError at once while it is open."""
        epoch = self._enter()
        outcome: Outcome = "unknown"
        try:
            reply = await self.agent.respond(request)
            outcome = "answered" if reply.error is None else "unknown"
            return reply
        except Exception as error:
            outcome = "failed" if is_service_failure(error) else "unknown"
            raise
        finally:
            self._leave(epoch, outcome)

    def _rest(self, opened_at: float) -> float:
        return opened_at + self.cooldown - time.monotonic()

    def _enter(self) -> int:
        with self._lock:
            if self._opened_at is None:
                return self._epoch
            rest = self._rest(self._opened_at)
            if rest > 0 or self._trying:
                what = f"is left alone for another {rest:.1f} s" if rest > 0 else "is being tried by another request"
                raise ServiceError(
                    f"{self.name} failed {self._failed_in_a_row} times in a row and {what}. See what ails its service.",
                    transient=True,
                    retry_after=rest if rest > 0 else None,
                )
            self._trying = True
            return self._epoch

    def _leave(self, epoch: int, outcome: Outcome) -> None:
        with self._lock:
            if epoch != self._epoch:
                return
            was_open = self._opened_at is not None
            self._trying = False
            if outcome == "answered":
                self._failed_in_a_row = 0
                if was_open:
                    self._opened_at = None
                    self._epoch += 1
                    log.info("%s: its service answers again.", self.name)
            elif outcome == "failed":
                self._failed_in_a_row += 1
                # The count stands while it is open, so one more failure when it is half-open is enough.
                if self._failed_in_a_row >= self.failures:
                    self._opened_at = time.monotonic()
                    self._epoch += 1
                    log.warning(
                        "%s: failed %d times in a row; left alone for %g s.",
                        self.name,
                        self._failed_in_a_row,
                        self.cooldown,
                    )
