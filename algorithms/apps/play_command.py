"""`aipo play`: environment, role and policy for the terminal of `algorithms.apps.play`."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import aipo_env
from aipo_env.console import INTERRUPTED, command
from aipo_env.episode import POLICY
from aipo_env.errors import ConfigurationError, MissingDependencyError
from aipo_env.game import describe
from aipo_env.installation import install_command
from aipo_env.make_options import AgentLike, Options
from aipo_env.parsing import FLAT
from aipo_env.registry import env_spec
from algorithms.apps.play.person import Person
from algorithms.apps.play.session import PlaySession, check_role
from algorithms.rollout_command import load_codec
from algorithms.servers import Servers

if TYPE_CHECKING:
    from algorithms.samplers import BackendPolicy


@command(
    "aipo play",
    "aipo play math500-consult --task 17 --out runs/play  # keeps the episodes",
    "aipo play --as knowledge --policy runs/mine/policy  # a policy asks you",
)
def play(
    env: str = "rulebook-consult",
    /,
    *,
    role: Annotated[str, Parameter(name="as")] = "policy",
    policy: str = "embedded",
    servers: Annotated[Servers, FLAT] = Servers(),  # noqa: B008 - frozen
    task: int | None = None,
    seed: int | None = None,
    agents: tuple[str, ...] = (),
    env_options: Options | None = None,
    max_tokens: int = 512,
    temperature: float = 0.6,
    out: Path | None = None,
) -> int:
    """Play an environment yourself, in the terminal: solve its tasks with the helpers, or be a helper of a policy.

    `aipo play math500-consult` makes you the policy; `aipo play --as knowledge` lets the embedded policy ask you. F1 explains
    the keys. Needs the package textual (the extra "play").

    Args:
        env: environment id; `aipo envs` lists them.
        role: "policy", or the name of a helper; a policy then plays, and asks you.
        policy: with --as, who that is: "embedded", "smollm2", or a directory or hub id that transformers loads.
        servers: of that policy, and of helpers.
        task: index of the first task, later ones count on; without it each is drawn.
        seed: decides the tasks that are drawn, the helpers and the policy; without it each start is another one.
        agents: helpers, each "name", "name=package.module:Class" or "name=path/to/policy".
        env_options: options of the environment, as `--env-options level 3 max_consults 2`.
        max_tokens: with --as, tokens behind the prompt.
        temperature: with --as, of the policy's sampling; 0 is greedy.
        out: folder; finished episodes are appended to traces.jsonl there, for `aipo replay` and all that reads traces.
    """
    options: dict[str, Any] = dict(env_options or {})
    env_spec(env)
    check_terminal()
    if task is not None and task < 0:
        raise ConfigurationError(f"--task is the index of a task, 0 or more; got {task}.")
    if role == POLICY and servers.server is not None:
        raise ConfigurationError("--server is for a policy that plays beside you: add --as and a helper's name.")
    traces = None if out is None else out / "traces.jsonl"
    named = servers.agents(agents)
    if role == POLICY:
        session = PlaySession(
            aipo_env.make(env, agents=named, **options),
            Person(POLICY),
            task_index=task,
            seed=secrets.randbits(31) if seed is None else seed,
            traces=traces,
        )
        return _show(session, traces)
    # The roles are known before a policy is loaded, which may take long.
    plain = aipo_env.make(env, agents=named, **options)
    check_role(plain, role)
    person = Person(role, describe(role, plain.agents.get(role)))
    helpers: dict[str, AgentLike] = {**plain.agents, role: person}
    if policy == "embedded":
        # It reads bare problems and nothing else.
        options = {"prompt": "bare"} | ({"style": "terse"} if "rulebook" in env else {}) | options
    turns = _open(policy, servers, max_tokens, temperature)
    session = PlaySession(
        aipo_env.make(env, agents=helpers, codec=turns.codec, consult_timeout=None, **options),
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
