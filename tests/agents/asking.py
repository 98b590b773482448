"""Asks an agent one question, from a test that is not async."""

from __future__ import annotations

import asyncio

from aipo_env.protocol import Agent, ConsultRequest, Reply


def reply_to(agent: Agent, query: str, *, transcript: str = "", task_id: str = "", seed: int = 0) -> Reply:
    request = ConsultRequest(query, transcript=transcript, task_id=task_id, seed=seed)
    return asyncio.run(agent.respond(request))


def ask(agent: Agent, query: str, *, transcript: str = "", task_id: str = "", seed: int = 0) -> str:
    reply = reply_to(agent, query, transcript=transcript, task_id=task_id, seed=seed)
    assert reply.error is None
    return reply.text
