"""Helpers that fail as services do, in the middle of a run; named by import path on the command line."""

from __future__ import annotations

import asyncio
import dataclasses

from aipo_agents.knowledge import KnowledgeAgent
from aipo_env import ConsultRequest, Reply
from aipo_env.errors import ServiceError

DOWN = range(4, 8)
"""The requests, counted in the engine's process, that find it down."""


class FlakyKnowledge(KnowledgeAgent):
    """The Knowledge agent behind such a service."""

    requests = 0

    async def respond(self, request: ConsultRequest) -> Reply:
        number, FlakyKnowledge.requests = FlakyKnowledge.requests, FlakyKnowledge.requests + 1
        if number in DOWN:
            raise ServiceError("the helper's server is down", status=503)
        return await super().respond(request)


class FaultyKnowledge(KnowledgeAgent):
    """Of four requests one is answered, one late, one with more than the context holds, one in another tokenizer's tokens."""

    requests = 0

    async def respond(self, request: ConsultRequest) -> Reply:
        number, FaultyKnowledge.requests = FaultyKnowledge.requests, FaultyKnowledge.requests + 1
        if number % 4 == 1:
            await asyncio.sleep(30)
        reply = await super().respond(request)
        if number % 4 == 2:
            return Reply(reply.text + "4" * 500)
        if number % 4 == 3:
            return dataclasses.replace(reply, token_ids=(5, 6, 7), logprobs=(-1.0,) * 3, tokenizer="another")
        return reply
