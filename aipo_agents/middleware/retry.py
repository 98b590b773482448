"""Retry: asks again when a service failed in a way that may pass."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from types import ModuleType
from typing import TYPE_CHECKING

from aipo_agents.middleware.base import Middleware
from aipo_agents.middleware.checks import check_count, check_number
from aipo_agents.middleware.deadlines import after_waiting
from aipo_agents.middleware.faults import is_service_failure
from aipo_env.errors import MissingDependencyError, ServiceError
from aipo_env.installation import install_command
from aipo_env.protocol import Agent, ConsultRequest, Reply

if TYPE_CHECKING:
    import tenacity

log = logging.getLogger("aipo_agents")


class Retry(Middleware):
    """Asks again after a transient `ServiceError`, a `ConnectionError` or a `TimeoutError`, waiting longer each time.

    The wait before attempt n+1 is drawn from [b/2, b] with b = min(max_wait, first_wait * 2^(n-1)), so that callers
    which failed together do not come back together. Where the service said how long to wait (`retry_after`), that is
    waited for instead, plus up to b/2, even beyond `max_wait`. A wait that would end behind the request's deadline or
    behind `max_total` is not begun: the last error is raised at once. Errors that will not pass, and bugs, are raised
    at once too, as they are.

    Args:
        agent: the agent to wrap.
        attempts: calls in all, the first included.
        first_wait: b of the first wait, in seconds.
        max_wait: the largest b, in seconds.
        max_total: seconds from the first call within which the last one has to begin.

    Raises:
        ConfigurationError: a number out of its range.
        MissingDependencyError: tenacity is not installed.
    """

    def __init__(
        self,
        agent: Agent,
        attempts: int = 5,
        *,
        first_wait: float = 0.5,
        max_wait: float = 20.0,
        max_total: float = 300.0,
    ) -> None:
        super().__init__(agent)
        self.attempts = check_count("Retry: attempts", attempts, what="how often a request is tried in all")
        self.first_wait = check_number("Retry: first_wait", first_wait, what="the first wait, in seconds")
        self.max_wait = check_number("Retry: max_wait", max_wait, what="the longest wait, in seconds")
        self.max_total = check_number(
            "Retry: max_total", max_total, what="the time for all attempts, in seconds", finite=False
        )
        self._tenacity = _import_tenacity()
        # Jitter is no part of a result, and must not move the state of the global generator.
        self._random = random.Random()

    async def respond(self, request: ConsultRequest) -> Reply:
        """The first reply that comes; the last error if none does."""
        started = time.monotonic()
        limit = self.max_total if request.deadline is None else min(self.max_total, request.deadline)

        async def attempt() -> Reply:
            return await self.agent.respond(after_waiting(request, started))

        retrying = self._tenacity.AsyncRetrying(
            retry=self._tenacity.retry_if_exception(is_service_failure),
            stop=self._tenacity.stop_after_attempt(self.attempts) | self._tenacity.stop_before_delay(limit),
            wait=self._wait,
            before_sleep=lambda state: self._log(state, request.confidential),
            sleep=asyncio.sleep,
            reraise=True,
        )
        reply: Reply = await retrying(attempt)
        return reply

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Seconds to wait after a failed attempt."""
        # Beyond 2^60 the largest wait has long been reached.
        bound = min(self.max_wait, self.first_wait * 2.0 ** min(state.attempt_number - 1, 60))
        error = _error(state)
        asked = error.retry_after if isinstance(error, ServiceError) else None
        # A service that talks nonsense may ask for less than nothing; NaN is not above 0 either.
        if asked is not None and asked > 0:
            return asked + self._random.uniform(0.0, bound / 2)
        return self._random.uniform(bound / 2, bound)

    def _log(self, state: tenacity.RetryCallState, confidential: bool) -> None:
        # What a service says may quote what it was sent.
        error = type(_error(state)).__name__ if confidential else _error(state)
        log.info(
            "%s: attempt %d failed, again in %.1f s: %s", self.name, state.attempt_number, state.upcoming_sleep, error
        )


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()


def _import_tenacity() -> ModuleType:
    try:
        import tenacity
    except ImportError as error:
        raise MissingDependencyError(f"Retry needs the package tenacity: {install_command('llm')}") from error
    return tenacity
