"""Cache: a reply that was given once is not asked for again."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from aipo_agents.middleware.base import Middleware, innermost, shared
from aipo_agents.middleware.reply_store import ReplyStore
from aipo_agents.request_key import KeyedAgent, key_digest
from aipo_env.checks import check_count
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import Agent, ConsultRequest, Reply

FORMAT = 1
"""Changes with the form of the files, so that older ones are not read."""


class Cache(Middleware):
    """Keeps replies on disk, by what they depend on: `request_key`, so model, prompt, sampling parameters and seed.

    A kept reply is the one that was given: text, token ids, log-probabilities to the last bit, tokenizer and the token
    counts of its usage. Only `cached` is True and its cost 0, since it cost nothing now. Replies with an error are not
    kept, nor those that may quote a confidential task. Sampled replies are: another seed is another request. Threads and
    processes may share a folder; a crash, a damaged file or a full disk costs cached replies and nothing else.

    Args:
        agent: the agent to wrap.
        folder: where replies are kept; made if need be.
        size_limit: bytes of all replies together; beyond it the oldest make room.
        namespace: told apart from every other one. An agent without a `request_key` of its own needs it: its key does
            not say how it was set up, so give each setting a namespace of its own.

    Raises:
        ConfigurationError: `folder` is a file, a number is out of its range, or a namespace is needed.
    """

    def __init__(
        self, agent: Agent, folder: str | os.PathLike[str], size_limit: int = 2**30, *, namespace: str = ""
    ) -> None:
        super().__init__(agent)
        check_count("Cache: size_limit", size_limit, what="how many bytes of replies are kept", least=1)
        self.folder = Path(folder).expanduser()
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigurationError(f"Cache: folder is where replies are kept, got the file {self.folder}.")
        inner = innermost(agent)
        if not namespace and not isinstance(inner, KeyedAgent):
            raise ConfigurationError(
                f"Cache needs to know what the replies of {self.name!r} depend on: {type(inner).__name__} has no method "
                "`request_key`. Give it one, or pass namespace=... with a text that changes with its settings."
            )
        self.namespace = namespace
        self._store = ReplyStore(self.folder, size_limit)

    async def respond(self, request: ConsultRequest) -> Reply:
        """The reply that was kept, or the wrapped agent's."""
        if request.confidential:
            return await self.agent.respond(request)
        digest = key_digest(FORMAT, self.namespace, self.request_key(request).digest)
        kept = await asyncio.to_thread(self._store.get, digest)
        if kept is not None:
            return shared(kept)
        reply = await self.agent.respond(request)
        if reply.error is None:
            await asyncio.to_thread(self._store.put, digest, reply)
        return reply
