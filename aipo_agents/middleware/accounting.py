"""Accounting: counts what a helper was asked and what it cost."""

from __future__ import annotations

import asyncio
import dataclasses

from aipo_agents.middleware.base import Middleware
from aipo_agents.middleware.ledger import Ledger, Prices, RoleUsage
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import Agent, ConsultRequest, Reply


class Accounting(Middleware):
    """Enters every request in a ledger, under the agent's name.

    Put it outside of caches and retries: it then counts what the environment asked for and what that cost. Tokens of
    attempts that failed are not known to anybody and are not in it.

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
        except Exception:
            self.ledger.add(self.name, RoleUsage(calls=1, errors=1))
            raise
        if self.prices is not None and reply.usage is not None and not reply.cached:
            usage = dataclasses.replace(reply.usage, cost_usd=self.prices.cost(reply.usage))
            reply = dataclasses.replace(reply, usage=usage)
        self.ledger.add(self.name, _entry(reply))
        return reply


def _entry(reply: Reply) -> RoleUsage:
    if reply.cached:
        return RoleUsage(calls=1, cached=1, errors=int(reply.error is not None))
    entry = RoleUsage(calls=1, errors=int(reply.error is not None), unmetered=int(reply.usage is None))
    if reply.usage is not None:
        entry += RoleUsage(
            prompt_tokens=reply.usage.prompt_tokens,
            completion_tokens=reply.usage.completion_tokens,
            cost_usd=float(reply.usage.cost_usd),
        )
    return entry
