"""Accounting: counts what a helper was asked and what it cost."""

from __future__ import annotations

import asyncio
import dataclasses

from aipo_agents.middleware.base import Middleware
from aipo_agents.middleware.ledger import Ledger, Prices, RoleUsage
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


def _spent(usage: Usage | None) -> RoleUsage:
    if usage is None:
        return RoleUsage()
    return RoleUsage(
        unpriced=int(usage.cost_usd is None),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cost_usd=usage.cost_usd or 0.0,
    )
