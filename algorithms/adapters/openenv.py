"""Any environment id as an OpenEnv server (openenv-core 0.3.0): `aipo serve rulebook-consult`.

OpenEnv's own server keeps the sessions, one for each WebSocket, and its own client plays them. What stands here: the
environment behind a session, and what keeps clients within their limits. What does not cross the wire: docs/guides/openenv.md.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import socket
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from fastapi import FastAPI
from openenv.core.env_server import HTTPEnvServer
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, ConcurrencyConfig, EnvironmentMetadata, Observation, State
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from aipo_env.checks import check_count
from aipo_env.consulting import run_sync
from aipo_env.errors import ConfigurationError, EpisodeStateError, InvalidActionError, TaskIndexError
from aipo_env.game import ConsultGame
from aipo_env.gym_env import ConsultEnv
from algorithms.serve_command import Limits

_log = logging.getLogger(__name__)
_TOLD = (ConfigurationError, EpisodeStateError, InvalidActionError, TaskIndexError)
"""What a client did wrong. The message of any other error may state a gold answer, and stays here."""
_PATHS = {"http": {"/health", "/metadata", "/schema"}, "websocket": {"/ws"}}
"""OpenEnv's server has more: /reset and /step begin and drop an episode each, and /mcp has no tools to offer."""
REQUEST_SECONDS = 10.0
"""How long an HTTP connection lives, half a request included; the three paths answer at once."""


class ConsultAction(Action):  # type: ignore[misc]
    """One turn of the policy."""

    text: str
    """What the policy wrote, its consult or answer included."""


class ConsultObservation(Observation):  # type: ignore[misc]
    """What the policy sees, and what `ConsultEnv` tells of it in `info`; `reward` and `done` travel beside it."""

    prompt: str
    messages: tuple[dict[str, str], ...] = ()
    task_id: str
    turn: int
    action_kind: str
    parse_error: str
    consult_mask: list[int]
    num_consults: int
    reward_parts: dict[str, float]
    stop_reason: str
    verdict: str
    truncated: bool = False
    segments: list[dict[str, Any]]
    """What is new: texts and who wrote them, as in a trace (`Segment.from_json`)."""


class ConsultSession(Environment[ConsultAction, ConsultObservation, State]):  # type: ignore[misc]
    """One client's episodes; tasks and helpers are those of the game, which all sessions share."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, game: ConsultGame) -> None:
        super().__init__()
        self._env, self._name = ConsultEnv(game), ""

    async def reset_async(self, seed: int | None = None, episode_id: str = "", **options: Any) -> ConsultObservation:
        """Starts an episode, as `ConsultEnv.reset` does; `task_index` chooses the task."""
        if seed is not None:
            check_count("seed", seed, what="the seed of the choice of tasks and of the helpers", least=0)
        with _told():
            observation, info = await self._env.areset(seed=seed, options=options)
        self._name = str(episode_id or "")
        return ConsultObservation(**observation | info)

    async def step_async(self, action: ConsultAction, timeout_s: float | None = None) -> ConsultObservation:
        """The policy takes a turn; helpers have the time that the environment gives them."""
        with _told():
            observation, reward, terminated, truncated, info = await self._env.astep(action.text)
        done = terminated or truncated
        return ConsultObservation(**observation | info, truncated=truncated, done=done, reward=reward)

    def reset(self, seed: int | None = None, episode_id: str = "", **options: Any) -> ConsultObservation:
        """`reset_async` for callers without an event loop."""
        return run_sync(self.reset_async(seed, episode_id, **options))

    def step(self, action: ConsultAction, timeout_s: float | None = None) -> ConsultObservation:
        """`step_async` for callers without an event loop."""
        return run_sync(self.step_async(action))

    @property
    def state(self) -> State:
        """The name that the client gave the episode, and how many turns it has taken."""
        begun = self._env._episode
        return State(episode_id=self._name, step_count=begun.num_acts if begun else 0)

    def get_metadata(self) -> EnvironmentMetadata:
        """The environment's id and its helpers."""
        asks = ", ".join(self._env.agent_names) if self._env.config.asks else "nobody"
        return EnvironmentMetadata(name=self._env.game.env_id, description=f"The policy may ask {asks}.")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except _TOLD:
        raise
    except Exception:
        _log.exception("an episode failed; its client is told that it did")
        raise RuntimeError("the environment failed; the log of its server says why. Reset it.") from None


class _Guard:
    """Lets clients come to what sessions need, for as long as they may."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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

        with suppress(WebSocketDisconnect):  # OpenEnv's server says goodbye to clients that have left
            await self._app(scope, receive if kind == "http" else receive_in_time, send)


class _Connection(H11Protocol):  # type: ignore[misc]
    """Uvicorn waits for the rest of a request for ever, and counts connections only once it is there."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limit_concurrency:
            return transport.abort()
        self.loop.call_later(REQUEST_SECONDS, self._end)

    def _end(self) -> None:
        if self.transport.get_protocol() is self:  # else it has become a session
            self.transport.abort()


def make_server(game: ConsultGame, host: str, port: int, limits: Limits) -> tuple[uvicorn.Server, socket.socket]:
    """A server of the game; `server.run(sockets=[listening])` runs it, and Ctrl-C ends it.

    Raises:
        ConfigurationError: nobody can listen at this port (0 takes a free one).
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    sessions = ConcurrencyConfig(max_concurrent_envs=limits.sessions)
    factory = functools.partial(ConsultSession, game)
    HTTPEnvServer(factory, ConsultAction, ConsultObservation, concurrency_config=sessions).register_routes(app)
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = "another program has it" if getattr(error, "errno", 0) == errno.EADDRINUSE else str(error)
        raise ConfigurationError(
            f"port {port} of {host} cannot be had: {reason}. Take another one with --port; 0 finds a free one."
        ) from error
    config = uvicorn.Config(
        _Guard(app, limits),
        http=_Connection,
        ws_max_size=limits.message_bytes,
        ws_per_message_deflate=False,  # a message is as long as it looks
        limit_concurrency=limits.sessions + 128,  # connections, those that are no sessions yet among them
        log_level="error",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config), listening
