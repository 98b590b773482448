"""Middleware: an agent around an agent."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Self

from aipo_agents.request_key import RequestKey, request_key
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import Agent, ConsultRequest, Reply


class Middleware:
    """Wraps an agent and does nothing else; subclasses override `respond`.

    It has the wrapped agent's name and description and hands on `request_key` and `aclose`, so that nobody can tell
    it from the agent itself. It may be called from several event loops and threads.

    Args:
        agent: the agent to wrap; it is `agent` of the middleware.

    Raises:
        ConfigurationError: `agent` is no agent.
    """

    def __init__(self, agent: Agent) -> None:
        given: object = agent
        if inspect.isclass(given) or not isinstance(given, Agent):
            got = f"the class {given.__name__}" if inspect.isclass(given) else type(given).__name__
            raise ConfigurationError(
                f"{type(self).__name__} wraps an agent (a name and an `async def respond`), got {got}. "
                "Pass an instance, not a class; wrap a function with aipo_env.as_agent first."
            )
        self.agent = agent
        self.name = agent.name
        self.uses_hints = bool(getattr(agent, "uses_hints", False))
        self.description = str(getattr(agent, "description", "") or "")

    async def respond(self, request: ConsultRequest) -> Reply:
        """The wrapped agent's reply."""
        return await self.agent.respond(request)

    def request_key(self, request: ConsultRequest) -> RequestKey:
        """The wrapped agent's key of a request."""
        return request_key(self.agent, request)

    async def aclose(self) -> None:
        """Closes the wrapped agent, where it can be closed."""
        close: Callable[[], Awaitable[None]] | None = getattr(self.agent, "aclose", None)
        if close is not None:
            await close()

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        # Gymnasium copies the options of an environment; a copied budget or breaker would be a second one of one service.
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.agent!r})"


def innermost(agent: Agent) -> Agent:
    """The agent under all middleware."""
    while isinstance(agent, Middleware):
        agent = agent.agent
    return agent


def shared(reply: Reply) -> Reply:
    """A reply that cost no call of its own: marked as cached, its tokens counted as they were, its cost 0, no thoughts."""
    usage = None if reply.usage is None else dataclasses.replace(reply.usage, cost_usd=0.0)
    return dataclasses.replace(reply, cached=True, usage=usage, reasoning=None)


def after_waiting(request: ConsultRequest, since: float) -> ConsultRequest:
    """The request as it stands now: its deadline counts from the call, so what was waited for is taken off.

    Args:
        request: as it came.
        since: `time.monotonic()` of when it came.
    """
    if request.deadline is None:
        return request
    return dataclasses.replace(request, deadline=max(0.0, request.deadline - (time.monotonic() - since)))
