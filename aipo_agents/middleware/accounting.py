"""Accounting: counts what a helper was asked and what it cost. CostLimit: stops asking when it is enough."""

from __future__ import annotations

import asyncio
import dataclasses

from aipo_agents.middleware.base import Middleware
from aipo_agents.middleware.ledger import Ledger, Prices, RoleUsage
from aipo_env.checks import check_number
from aipo_env.errors import ConfigurationError, ServiceError
from aipo_env.protocol import Agent, ConsultRequest, Reply, Usage


class Accounting(Middleware):
    """Enters every request in a ledger, under the agent's name.

    Put it outside of caches and retries: it then counts what the environment asked for and what that cost, attempts that
    failed and were billed all the same included.

    Args:
        agent: the agent to wrap.
        prices: of its model. Where given, they replace what replies say of their cost, in the reply too; a cached
            reply costs nothing.
        ledger: one to share with other agents; a new one by default.

    Raises:
        ConfigurationError: `prices` or `ledger` are something else.
    """

    def __init__(self, agent: Agent, prices: Prices | None = None, *, ledger: Ledger | None = None) -> None:
        super().__init__(agent)
        if prices is not None and not isinstance(prices, Prices):
            raise ConfigurationError(
                f"Accounting: prices are a Prices(prompt=..., completion=...) in US dollars per million tokens, got "
                f"{type(prices).__name__}."
            )
        if ledger is not None and not isinstance(ledger, Ledger):
            raise ConfigurationError(f"Accounting: ledger is a Ledger, got {type(ledger).__name__}.")
        self.prices = prices
        self.ledger = Ledger() if ledger is None else ledger

    def usage(self) -> RoleUsage:
        """What this agent's role took so far, in the whole ledger."""
        return self.ledger.usage(self.name)

    async def respond(self, request: ConsultRequest) -> Reply:
        """The wrapped agent's reply, with its cost where prices were given."""
        try:
            reply = await self.agent.respond(request)
        except asyncio.CancelledError:
            self.ledger.add(self.name, RoleUsage(calls=1, cancelled=1))
            raise
        except Exception as error:
            usage = error.usage if isinstance(error, ServiceError) else None
            self.ledger.add(self.name, RoleUsage(calls=1, errors=1) + _spent(self._priced(usage)))
            raise
        failed = int(reply.error is not None)
        if reply.cached:
            self.ledger.add(self.name, RoleUsage(calls=1, cached=1, errors=failed))
            return reply
        reply = dataclasses.replace(reply, usage=self._priced(reply.usage))
        entry = RoleUsage(calls=1, errors=failed, unmetered=int(reply.usage is None))
        self.ledger.add(self.name, entry + _spent(reply.usage))
        return reply

    def _priced(self, usage: Usage | None) -> Usage | None:
        if usage is None or self.prices is None:
            return usage
        return dataclasses.replace(usage, cost_usd=self.prices.cost(usage))


class CostLimit(Middleware):
    """Asks no more once a ledger's cost has reached a limit: each request is then a `ServiceError` that will not pass.

    Put it inside of caches, whose replies cost nothing. What is on its way when the limit is reached still costs. An evaluation
    counts such episodes as faults, and the same command with a higher limit plays them.

    Args:
        agent: the agent to wrap.
        max_usd: US dollars, of the whole ledger; of this process, like the ledger.
        ledger: where an `Accounting` with prices enters the cost.

    Raises:
        ConfigurationError: `max_usd` is not above 0.
    """

    def __init__(self, agent: Agent, max_usd: float, ledger: Ledger) -> None:
        super().__init__(agent)
        self.max_usd = check_number("CostLimit: max_usd", max_usd, what="US dollars that helpers may cost")
        self.ledger = ledger

    async def respond(self, request: ConsultRequest) -> Reply:
        """The wrapped agent's reply, as long as there is money."""
        if (spent := self.ledger.total().cost_usd) >= self.max_usd:
            raise ServiceError(
                f"{self.name} is not asked: helpers have cost {spent:.4f} of {self.max_usd:g} US dollars. Raise the limit, or "
                "go on without.",
                transient=False,
            )
        return await self.agent.respond(request)


def _spent(usage: Usage | None) -> RoleUsage:
    if usage is None:
        return RoleUsage()
    return RoleUsage(
        unpriced=int(usage.cost_usd is None),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_usd=usage.cost_usd or 0.0,
    )
