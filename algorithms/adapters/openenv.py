"""Any environment id as an OpenEnv server (openenv-core 0.3.0): `aipo serve rulebook-consult`.

OpenEnv's own server keeps the sessions, one for each WebSocket, and its own client plays them. What stands here: the
environment behind a session, and what keeps clients within their limits. What does not cross the wire: docs/guides/openenv.md.
"""

from __future__ import annotations

import errno
import functools
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from openenv.core.env_server import HTTPEnvServer
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, ConcurrencyConfig, EnvironmentMetadata, Observation, State

from aipo_env.checks import check_count
from aipo_env.consulting import run_sync
from aipo_env.episode import POLICY
from aipo_env.errors import ConfigurationError, EpisodeStateError, InvalidActionError
from aipo_env.game import ConsultGame
from aipo_env.gym_env import ConsultEnv
from aipo_env.tasks.base import is_confidential
from algorithms.adapters.openenv_limits import Connection, Guard, SessionConnection
from algorithms.serve_command import Limits

_log = logging.getLogger(__name__)


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
        self._env.game.check_reset(options)
        with self._withheld():
            observation, info = await self._env.areset(seed=seed, options=options)
        self._name = str(episode_id or "")
        return ConsultObservation(**observation | info)

    async def step_async(self, action: ConsultAction, timeout_s: float | None = None) -> ConsultObservation:
        """The policy takes a turn; helpers have the time that the environment gives them."""
        if self._env.episode.turn_of != POLICY:
            raise EpisodeStateError("the episode is over, or a fault ended it; reset it.")
        if re.search("[\ud800-\udfff]", action.text):
            raise InvalidActionError("the text has half of a surrogate pair, which no message can carry; leave it out.")
        with self._withheld():
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
    def _withheld(self) -> Iterator[None]:
        """What fails inside is no fault of the client's: the message, which may state a gold answer, stays here."""
        try:
            yield
        except Exception as error:
            game, begun = self._env.game, self._env._episode
            known = [*game.tasks_at_hand, *([begun.task] if begun else [])]
            secret = is_confidential(game.tasks) or any(task.confidential for task in known)
            _log.error("an episode failed: %s%s", type(error).__name__, ": (withheld)" * secret, exc_info=not secret)
            raise RuntimeError("the environment failed; the log of its server says why. Reset it.") from None


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
        Guard(app, limits),
        http=Connection,
        ws=SessionConnection,
        ws_max_size=limits.message_bytes,
        ws_per_message_deflate=False,  # a message is as long as it looks
        limit_concurrency=limits.sessions + 128,  # connections, those that are no sessions yet among them
        log_level="error",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config), listening
