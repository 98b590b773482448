"""Retry: asks again when a service failed in a way that may pass."""

from __future__ import annotations

import time

from aipo_agents.middleware.base import Middleware, after_waiting
from aipo_agents.retrying import Retries
from aipo_env.checks import check_count, check_number
from aipo_env.protocol import Agent, ConsultRequest, Reply


class Retry(Middleware):
    """Asks again after a transient `ServiceError`, a `ConnectionError` or a `TimeoutError`, waiting longer each time.

    `aipo_agents.retrying.Retries` says how long; the request's deadline is a limit beside `max_total`. Errors that will
    not pass, and bugs, are raised at once, as they are.

    Args:
        agent: the agent to wrap.
        attempts: calls in all, the first included.
        first_wait: the first wait, in seconds, at most; it doubles from there.
        max_wait: the longest wait that the service did not ask for, in seconds.
        max_total: seconds from the first call within which the last one has to begin.

    Raises:
        ConfigurationError: a number out of its range.
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
        self.retries = Retries(
            check_count("Retry: attempts", attempts, what="how often a request is tried in all"),
            check_number("Retry: first_wait", first_wait, what="the first wait, in seconds"),
            check_number("Retry: max_wait", max_wait, what="the longest wait, in seconds"),
            check_number("Retry: max_total", max_total, what="the time for all attempts, in seconds", finite=False),
        )

    async def respond(self, request: ConsultRequest) -> Reply:
        """The first reply that comes; the last error if none does."""
        started = time.monotonic()

        async def attempt() -> Reply:
            return await self.agent.respond(after_waiting(request, started))

        return await self.retries.run(attempt, self.name, limit=request.deadline, confidential=request.confidential)
