"""RateLimit: sends no more requests and tokens per minute than a service takes."""

from __future__ import annotations

import time
from collections.abc import Callable

from aipo_agents.middleware.base import Middleware, after_waiting
from aipo_agents.middleware.rate_budget import RateBudget
from aipo_env.checks import check_count, check_number
from aipo_env.errors import ConfigurationError, ServiceError
from aipo_env.protocol import Agent, ConsultRequest, Reply

CHARACTERS_PER_TOKEN = 4


class RateLimit(Middleware):
    """Lets requests through in the order in which they came, at the rate that the service takes.

    The budget is one for all threads and event loops of the process. In any minute at most (1 + burst / 60) times the
    limit is sent, or one request more than the limit if that is more. The tokens of a call are estimated before it and
    set right by `Reply.usage` after it; a reply without usage keeps its estimate, a cached one gives everything back.
    When the service itself says that it had too many requests (status 429) and how long to wait, nobody is let through
    until then, unless it is longer than five minutes.

    Args:
        agent: the agent to wrap.
        requests_per_minute: None for no limit.
        tokens_per_minute: prompt and completion together; None for no limit.
        estimate: tokens that a request will take, prompt and completion; the default takes 4 characters of query and
            transcript for one token and adds `completion_tokens`.
        completion_tokens: tokens of a reply, for the default estimate.
        burst: seconds' worth of the limits that may be sent at once.

    Raises:
        ConfigurationError: no limit at all, or a number out of its range.
    """

    # aiolimiter serves one event loop only, and of those who wait the smallest amount first.

    def __init__(
        self,
        agent: Agent,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        estimate: Callable[[ConsultRequest], int] | None = None,
        completion_tokens: int = 256,
        burst: float = 1.0,
    ) -> None:
        super().__init__(agent)
        if requests_per_minute is None and tokens_per_minute is None:
            raise ConfigurationError(
                "RateLimit needs requests_per_minute or tokens_per_minute, got neither. Leave RateLimit out if there "
                "is no limit."
            )
        rates = [
            None if limit is None else check_number(f"RateLimit: {name}", limit, what="how many per minute") / 60
            for name, limit in (("requests_per_minute", requests_per_minute), ("tokens_per_minute", tokens_per_minute))
        ]
        check_number("RateLimit: burst", burst, what="how many seconds' worth may be sent at once")
        check_count("RateLimit: completion_tokens", completion_tokens, what="how long a reply is", least=0)
        self._estimate = estimate
        self._completion_tokens = completion_tokens
        self._budget = RateBudget(rates[0], rates[1], burst)

    def estimated_tokens(self, request: ConsultRequest) -> int:
        """Tokens that the request is expected to take, prompt and completion."""
        if self._estimate is not None:
            return max(0, self._estimate(request))
        return (len(request.query) + len(request.transcript)) // CHARACTERS_PER_TOKEN + self._completion_tokens

    async def respond(self, request: ConsultRequest) -> Reply:
        """The wrapped agent's reply, once it may be asked.

        Raises:
            RateLimitTimeout: the request's deadline lies before its turn.
        """
        came = time.monotonic()
        tokens = self.estimated_tokens(request)
        await self._budget.admit(self.name, tokens, request.deadline)
        try:
            reply = await self.agent.respond(after_waiting(request, came))
        except ServiceError as error:
            self._budget.spare(error, self.name)
            raise
        if reply.cached:
            self._budget.refund(requests=1.0, tokens=tokens)
        elif reply.usage is not None:
            self._budget.refund(tokens=tokens - reply.usage.prompt_tokens - reply.usage.completion_tokens)
        return reply
