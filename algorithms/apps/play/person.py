"""A person as a policy and as a helper: whoever asks waits for what is typed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aipo_env.protocol import Action, ConsultRequest, Reply, TurnRequest

NO_ANSWER = "no answer came from this helper"


class Person:
    """Somebody at a keyboard. One request is open at a time; `say` answers it.

    Both a `TurnPolicy` and an `Agent`, so that an episode cannot tell a person from a model.

    Args:
        name: the role's name.
        description: what the role does, for the prompt; for a helper.
    """

    def __init__(self, name: str, description: str = "") -> None:
        self.name, self.description = name, description
        self.asked: TurnRequest | ConsultRequest | None = None
        """What waits for an answer."""
        self.notify: Callable[[], None] = lambda: None
        """Called when a request comes."""
        self._said: asyncio.Future[str | None] | None = None
        self._turn = asyncio.Lock()

    async def act(self, request: TurnRequest) -> Action:
        """Waits for the text of a turn."""
        return await self._wait(request) or ""

    async def respond(self, request: ConsultRequest) -> Reply:
        """Waits for the text of a reply; a person who has none gives an error, which the policy sees as a notice."""
        said = await self._wait(request)
        return Reply("", error=NO_ANSWER) if said is None else Reply(said)

    def say(self, text: str | None) -> bool:
        """Answers what waits; None declines. False where nothing waits (any more)."""
        if self._said is None or self._said.done():
            return False
        self._said.set_result(text)
        return True

    async def _wait(self, request: TurnRequest | ConsultRequest) -> str | None:
        async with self._turn:
            self.asked, self._said = request, asyncio.get_running_loop().create_future()
            self.notify()
            try:
                return await self._said
            finally:
                self.asked = self._said = None
