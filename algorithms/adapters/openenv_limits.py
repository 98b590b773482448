"""What keeps the clients of an OpenEnv server within their limits: paths, times, connections, and what they do not read."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from starlette import websockets
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from algorithms.serve_command import Limits

_PATHS = {"http": {"/health", "/metadata", "/schema"}, "websocket": {"/ws"}}
"""OpenEnv's server has more: /reset and /step begin and drop an episode each, and /mcp has no tools to offer."""
REQUEST_SECONDS = 10.0
"""How long an HTTP connection lives, half a request included, and how long a session whose client does not read."""
_LEFT = (websockets.WebSocketDisconnect, getattr(websockets, "WebSocketDisconnected", websockets.WebSocketDisconnect))


class Guard:
    """Lets clients come to what sessions need, for as long as they may."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a connection, or refuses it."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._app(scope, receive, send)
            return
        # A page in a browser may open WebSockets to this machine, and cannot but say where it came from.
        foreign = any(name == b"origin" for name, _ in scope["headers"])
        if foreign or scope["path"] not in _PATHS[kind]:
            refusal: ASGIApp = PlainTextResponse("Episodes are played over the WebSocket /ws.\n", 404)
            await (refusal(scope, receive, send) if kind == "http" else send({"type": "websocket.close"}))
            return
        clock = asyncio.get_running_loop().time
        ends = clock() + self._limits.session_seconds

        async def receive_in_time() -> MutableMapping[str, Any]:
            left = min(self._limits.idle_seconds, ends - clock())
            message: MutableMapping[str, Any] = {"type": "websocket.disconnect", "code": 1001}
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    message = await receive() if left > 0 else message
            return message

        with suppress(*_LEFT):  # OpenEnv's server says goodbye to clients that have left
            await self._app(scope, receive if kind == "http" else receive_in_time, send)


class Connection(H11Protocol):  # type: ignore[misc]
    """Uvicorn waits for the rest of a request for ever, and counts connections only once it is there."""

    def connection_made(self, transport: Any) -> None:  # uvloop's is no asyncio.Transport
        """Closes what is too much, and what is no session in time."""
        super().connection_made(transport)
        crowded = len(self.connections) > self.limit_concurrency
        transport.abort() if crowded else self.loop.call_later(REQUEST_SECONDS, self._end)

    def _end(self) -> None:
        if self.transport.get_protocol() is self:  # else it has become a session
            self.transport.abort()


class SessionConnection(WebSocketsSansIOProtocol):  # type: ignore[misc]
    """Uvicorn waits for ever until a client reads, answers every ping, and joins any number of fragments."""

    _unread: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """The client does not read; it has this long to begin."""
        super().pause_writing()
        self._unread = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def on_task_complete(self, task: Any) -> None:
        """The session is over; what the client does not read by then is lost."""
        super().on_task_complete(task)
        self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def handle_ping(self) -> None:
        """Answers, while answers are read."""
        if self.transport.get_write_buffer_size() > 2**20:
            self.transport.abort()
        elif not self.transport.is_closing():
            super().handle_ping()

    def handle_cont(self, event: Any) -> None:
        """Takes the next fragment of a message."""
        super().handle_cont(event)
        if len(self.frames) >= 1024:
            self.transport.abort()
