"""Helpers that misbehave as real ones do; named by import path, as a run names its own."""

from __future__ import annotations

import asyncio
import os

from aipo_env import ConsultRequest, Reply
from algorithms.codec import TransformersCodec
from algorithms.policies.embedded_model import build_tokenizer

PORT_VARIABLE = "AIPO_TEST_HELPER_PORT"


class RemoteHelper:
    """Asks a server on this machine over a plain socket; what the connection raises is raised."""

    name = "knowledge"

    async def respond(self, request: ConsultRequest) -> Reply:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ[PORT_VARIABLE]))
        writer.write(request.query.encode() + b"\n")
        line = await reader.readline()
        writer.close()
        if not line:
            raise ConnectionResetError("the server closed the connection")
        return Reply(line.decode().strip())


class LateHelper:
    """Never answers in time."""

    name = "knowledge"

    async def respond(self, request: ConsultRequest) -> Reply:
        await asyncio.sleep(60)
        return Reply("too late")


class ChattyHelper:
    """Answers with more than any test's context holds."""

    name = "knowledge"

    async def respond(self, request: ConsultRequest) -> Reply:
        return Reply("4" * 500)


class TokenHelper:
    """Reports token ids and log mu of the policy's own tokenizer."""

    name = "knowledge"
    fingerprint = ""

    def __init__(self) -> None:
        self._codec = TransformersCodec(build_tokenizer())

    async def respond(self, request: ConsultRequest) -> Reply:
        ids = tuple(self._codec.encode("4+4+1"))
        return Reply(
            "4+4+1",
            token_ids=ids,
            logprobs=(-0.5,) * len(ids),
            tokenizer=self.fingerprint or self._codec.fingerprint,
        )


class ForeignTokenHelper(TokenHelper):
    """The same under another tokenizer."""

    fingerprint = "another"


class SlowEcho:
    """Answers with the query when as many as are `expected` were asked, or half a minute later; notes how many there were at once."""

    name = "knowledge"
    running = 0
    most = 0
    expected = 1

    async def respond(self, request: ConsultRequest) -> Reply:
        SlowEcho.running += 1
        SlowEcho.most = max(SlowEcho.most, SlowEcho.running)
        for _ in range(3000):
            if SlowEcho.most >= SlowEcho.expected:
                break
            await asyncio.sleep(0.01)
        SlowEcho.running -= 1
        return Reply(request.query)
