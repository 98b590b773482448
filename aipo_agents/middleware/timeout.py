"""Timeout: a helper has so long, and no longer."""

from __future__ import annotations

import asyncio
import dataclasses

from aipo_agents.middleware.base import Middleware
from aipo_env.checks import check_number
from aipo_env.protocol import Agent, ConsultRequest, Reply


class Timeout(Middleware):
    """Cancels a call that takes longer than `seconds`, or than the request's own deadline where that is nearer.

    The wrapped agent reads the nearer of the two in `request.deadline`.

    Args:
        agent: the agent to wrap.
        seconds: how long one call may take.

    Raises:
        ConfigurationError: `seconds` is not above 0.
    """

    def __init__(self, agent: Agent, seconds: float) -> None:
        super().__init__(agent)
        self.seconds = check_number("Timeout: seconds", seconds, what="how long one call may take, in seconds")

    async def respond(self, request: ConsultRequest) -> Reply:
        """The wrapped agent's reply; TimeoutError if it is late."""
        seconds = self.seconds if request.deadline is None else min(self.seconds, request.deadline)
        try:
            async with asyncio.timeout(seconds) as limit:
                return await self.agent.respond(dataclasses.replace(request, deadline=seconds))
        except TimeoutError as error:
            if not limit.expired():
                raise  # the agent's own
            raise TimeoutError(
                f"{self.name} was to reply within {seconds:g} s and did not. Give it longer, or ask for less."
            ) from error
