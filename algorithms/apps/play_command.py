"""`aipo play`: environment, role and policy for the terminal of `algorithms.apps.play`."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aipo_env
from aipo_env.console import INTERRUPTED
from aipo_env.episode import POLICY
from aipo_env.errors import ConfigurationError, MissingDependencyError
from aipo_env.game import describe
from aipo_env.installation import install_command
from aipo_env.registry import AgentLike, env_spec
from algorithms.apps.play.person import Person
from algorithms.apps.play.session import PlaySession, check_role
from algorithms.rollout_command import load_codec

if TYPE_CHECKING:
    from algorithms.samplers import BackendPolicy
    from algorithms.servers import Servers


def play(
    env_id: str,
    role: str,
    *,
    policy: str,
    servers: Servers,
    task: int | None,
    seed: int | None,
    agents: Sequence[str],
    env_options: dict[str, Any],
    max_tokens: int,
    temperature: float,
    out: Path | None,
) -> int:
    """Plays in this terminal until the person leaves; returns the exit code. See `algorithms.commands.play`.

    Raises:
        AipoError: before anything is shown, for what cannot work.
    """
    env_spec(env_id)
    check_terminal()
    if task is not None and task < 0:
        raise ConfigurationError(f"--task is the index of a task, 0 or more; got {task}.")
    if role == POLICY and servers.server is not None:
        raise ConfigurationError("--server is for a policy that plays beside you: add --as and a helper's name.")
    traces = None if out is None else out / "traces.jsonl"
    named = servers.agents(agents)
    if role == POLICY:
        session = PlaySession(
            aipo_env.make(env_id, agents=named, **env_options),
            Person(POLICY),
            task_index=task,
            seed=secrets.randbits(31) if seed is None else seed,
            traces=traces,
        )
        return _show(session, traces)
    # The roles are known before a policy is loaded, which may take long.
    plain = aipo_env.make(env_id, agents=named, **env_options)
    check_role(plain, role)
    person = Person(role, describe(role, plain.agents.get(role)))
    helpers: dict[str, AgentLike] = {**plain.agents, role: person}
    if policy == "embedded":
        # It reads bare problems and nothing else.
        env_options = {"prompt": "bare"} | ({"style": "terse"} if "rulebook" in env_id else {}) | env_options
    turns = _open(policy, servers, max_tokens, temperature)
    session = PlaySession(
        aipo_env.make(env_id, agents=helpers, codec=turns.codec, consult_timeout=None, **env_options),
        person,
        turns,
        task_index=task,
        seed=secrets.randbits(31) if seed is None else seed,
        max_tokens=max_tokens,
        traces=traces,
    )
    try:
        return _show(session, traces)
    finally:
        from aipo_env.consulting import run_sync

        run_sync(turns.backend.aclose())
        plain.close()


def check_terminal() -> None:
    """Raises where there is no terminal to play in, or nothing that draws in it.

    Raises:
        MissingDependencyError: without the package textual.
        ConfigurationError: without a terminal.
    """
    try:
        import textual  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"`aipo play` needs the package textual: {install_command('play')}") from error
    missing = [name for name, stream in (("input", sys.stdin), ("output", sys.stdout)) if not stream.isatty()]
    if missing or os.environ.get("TERM") == "dumb":
        what = (
            f"standard {' and standard '.join(missing)} {'are' if len(missing) > 1 else 'is'} none"
            if missing
            else "TERM=dumb says it can show no screen"
        )
        raise ConfigurationError(
            f"`aipo play` needs a terminal, and {what}. Start it by hand in one; scripts play with aipo_env.make or with "
            "`aipo rollout`."
        )


def _show(session: PlaySession, traces: Path | None) -> int:
    from algorithms.apps.play.app import PlayApp

    app = PlayApp(session)
    try:
        code = app.run()
    finally:
        session.close()
    if code is None:
        # A bug, of which a traceback was shown, or an interrupt that came as a signal and not as a key.
        code = app.return_code or INTERRUPTED
    played = session.finished
    if played:
        correct = sum(t.verdict == "correct" for t in played)
        print(
            f"{len(played)} episodes, {correct} correct" + (f"; traces are in {traces}" if traces is not None else "")
        )
    return code


def _open(policy: str, servers: Servers, max_tokens: int, temperature: float) -> BackendPolicy:
    from algorithms.samplers import BackendPolicy

    if servers.server is not None:
        from aipo_agents.backends.base import CompletionSampling

        sampling = CompletionSampling(temperature=temperature, max_tokens=max_tokens)
        return BackendPolicy(servers.policy(), load_codec(policy), sampling, name=str(servers.model))
    from algorithms.policies import load_policy
    from algorithms.rollout import local_policy
    from algorithms.train_config import SamplingConfig

    return local_policy(load_policy(policy), SamplingConfig(temperature, 1.0, max_tokens, 1))
