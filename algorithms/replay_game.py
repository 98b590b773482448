"""The environment in which `aipo replay` plays a file of traces again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aipo_env.errors import ConfigurationError, DataNotFoundError
from aipo_env.game import ConsultGame
from aipo_env.make_options import Options
from aipo_env.registry import make_game, parse_agents
from aipo_env.run_record import RunRecord, record_path
from aipo_env.trajectory import read_traces
from algorithms.rollout_command import load_codec


def game_of(
    traces: Path,
    env: str | None,
    env_options: Options | None,
    agents: Sequence[str],
    policy: str | None,
) -> ConsultGame:
    """Makes the environment of a run: from the arguments if `env` is given, else from what lies beside its traces.

    Args:
        traces: the file of traces.
        env: environment id.
        env_options: its options.
        agents: its helpers, as on a command line.
        policy: the name of the tokenizer.

    Raises:
        ConfigurationError: when nothing tells how the environment was made.
        DataNotFoundError: when there is no such file, or no such tokenizer.
    """
    if not traces.is_file():
        raise DataNotFoundError(f"there is no file {traces}.")
    if env is not None:
        options: dict[str, Any] = {"agents": parse_agents(agents), **(env_options or {})}
        return make_game(env, codec=None if policy is None else load_codec(policy), **options)
    if env_options or agents:
        raise ConfigurationError("--env-options and --agents are options of the environment: name it with --env.")
    config = traces.with_name("config.json")
    if record_path(traces).exists():
        record = RunRecord.read(record_path(traces))
        name = policy or record.tokenizer_name
        if record.tokenizer is not None and not name:
            raise ConfigurationError(f"{traces} is token-exact: name its tokenizer with --policy.")
        codec = None if record.tokenizer is None else load_codec(name)
        if codec is not None and codec.fingerprint != record.tokenizer:
            raise ConfigurationError(
                f"the tokenizer of {name!r} (fingerprint {codec.fingerprint}) is not the one of the run "
                f"({record.tokenizer}). Name that one with --policy."
            )
        return record.game(codec)
    if config.exists() and "env" in (run := json.loads(config.read_text(encoding="utf-8"))):
        # A training run: its configuration says the same.
        options = {"agents": parse_agents(run["agents"]), **run["env_options"]}
        return make_game(run["env"], codec=load_codec(policy or run["policy"]), **options)
    first = next(read_traces(traces), None)
    hint = "" if first is None else f" The first one is of {first.env_id!r}."
    raise ConfigurationError(
        f"nothing beside {traces} says how its environment was made ({record_path(traces).name}, or the config.json of a "
        f"training run): pass --env, --env-options and, for token-exact traces, --policy.{hint}"
    )
