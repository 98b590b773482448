"""`aipo serve`: an environment for OpenEnv's clients."""

from __future__ import annotations

import dataclasses
import ipaddress
import sys
from contextlib import suppress
from typing import Annotated, Any

from aipo_env.checks import check_count, check_number
from aipo_env.console import command
from aipo_env.errors import MissingDependencyError
from aipo_env.installation import install_command
from aipo_env.make_options import Options
from aipo_env.parsing import FLAT, ConfigFile
from aipo_env.registry import make_game, parse_agents


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What the clients of a server may take."""

    sessions: int = 64
    """Clients at the same time; one more gets OpenEnv's error CAPACITY_REACHED."""
    message_bytes: int = 1 << 20
    """Length of a client's message."""
    idle_seconds: float = 600.0
    """A session ends after so long without a message."""
    session_seconds: float = 86_400.0
    """A session ends after so long in any case."""

    def __post_init__(self) -> None:
        for name in ("sessions", "message_bytes"):
            check_count(name, getattr(self, name), what="what clients may take")
        for name in ("idle_seconds", "session_seconds"):
            check_number(name, getattr(self, name), what="how long a session may last")


@command(
    "aipo serve rulebook-consult --port 8000",
    "aipo serve math-consult --sessions 256 --idle-seconds 3600 --env-options observation messages",
)
def serve(
    env: str,
    /,
    *,
    port: int = 8000,
    host: str = "127.0.0.1",
    agents: tuple[str, ...] = (),
    env_options: Options | None = None,
    limits: Annotated[Limits, FLAT] = Limits(),
    config_file: ConfigFile = None,
) -> int:
    """Serve an environment to OpenEnv's clients until Ctrl-C; each has a session of its own.

    Args:
        env: environment id; `aipo envs` lists them.
        port: 0 takes a free one.
        host: where to listen. Only this machine can connect to the default; nobody is asked for a password.
        agents: helpers, each "name", "name=package.module:Class" or "name=path/to/policy".
        env_options: options of the environment, as `--env-options level 3 style terse`.
        limits: what clients may take.
        config_file: is among the options already (`aipo_env.parsing`).
    """
    try:
        from algorithms.adapters.openenv import make_server
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"`aipo serve` needs openenv-core; {error.name!r} is not installed: {install_command('openenv')}"
        ) from error
    options: dict[str, Any] = dict(env_options or {})
    game = make_game(env, agents=parse_agents(agents), **options)
    game.require_agents(game.agent_names)
    server, listening = make_server(game, host, port, limits)
    if not _is_loopback(host):
        print(f"aipo: whoever reaches {host} can play, and ask the helpers: there is no password.", file=sys.stderr)
    shown = f"[{host}]" if ":" in host else host
    with listening:
        print(f"{env} at http://{shown}:{listening.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            pass  # the way to end it
        finally:
            game.close()
    return 0


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
