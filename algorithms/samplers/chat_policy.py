"""A policy behind a chat: text in, text out, for servers that tell no token ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from aipo_agents.backends.base import ChatBackend, ChatRole, ChatSampling, Message
from aipo_agents.thoughts import split_reasoning
from aipo_agents.untrusted import neutralise
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import TextAction, TurnRequest

_ROLES: Mapping[str, ChatRole] = {"system": "system", "assistant": "assistant"}
"""A tool's message is the user's here: servers take one only behind a call that they parsed themselves."""


class ChatPolicy:
    """A `TurnPolicy` whose turns are the assistant's messages of a chat; what it is told are the user's.

    The server applies the model's chat template and counts tokens, so `max_tokens` limits each turn, and a turn is only
    known to be over when it ends: nothing stops it behind a consult. What the model thinks is no part of the turn: servers
    tell it apart, and chat templates drop it from the turns before.

    Args:
        backend: the model. Who made it closes it.
        sampling: temperature, top_p and the most tokens of a turn; the seed comes with each request.
        name: of the policy.
    """

    def __init__(self, backend: ChatBackend, sampling: ChatSampling, *, name: str = "policy") -> None:
        self.backend, self.sampling, self.name = backend, sampling, name

    async def act(self, request: TurnRequest) -> TextAction:
        """Samples the next turn.

        Raises:
            ConfigurationError: where the policy is to write a helper's reply, which is no turn of a chat.
            ServiceError: when the backend fails.
        """
        if request.replying:
            raise ConfigurationError(
                "a chat cannot go on with a helper's message: self-help needs a completion backend."
            )
        messages: list[Message] = []
        for told in request.messages:
            role, text = _ROLES.get(told["role"], "user"), told["content"]
            # What helpers write is not to open a turn of the chat; the problem is sent word for word.
            text = neutralise(text) if role == "user" and any(m.role == "user" for m in messages) else text
            if messages and messages[-1].role == role:
                # Of two helpers: many templates want the user's turn and the assistant's in alternation.
                text = f"{messages.pop().content}\n{text}"
            messages.append(Message(role, text))
        limit = min(self.sampling.max_tokens, request.max_tokens or self.sampling.max_tokens)
        sampling = dataclasses.replace(self.sampling, max_tokens=limit, seed=request.seed)
        generation = await self.backend.chat(messages, sampling)
        said = split_reasoning(generation.text, generation.reasoning, generation.opened).reply
        return TextAction(said, generation.finish_reason)
