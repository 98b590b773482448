"""What a run was made of, beside its traces: enough to play the traces again, and to refuse to mix two runs in one file."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from aipo_env.dialects.base import TokenCodec
from aipo_env.errors import ConfigurationError, DataFormatError
from aipo_env.game import ConsultGame, describe
from aipo_env.gym_env import ConsultEnv
from aipo_env.installation import DISTRIBUTION, versions
from aipo_env.protocol import ConsultRequest, Reply
from aipo_env.registry import env_spec, make_game

# What the face of the environment is told; the game does not know it.
_FACE_OPTIONS = frozenset({"env_id", "action_mode", "render_mode", "seed"})


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """One run: the environment and what filled its traces."""

    env_id: str
    options: dict[str, object]
    """The options of `aipo_env.make` as far as JSON holds them."""
    omitted: tuple[str, ...]
    """The names of the others. Playing the traces again needs them from the caller."""
    agents: dict[str, str]
    """The helpers' names and descriptions; both stand in the prompt."""
    policy: str = ""
    """The policy's name."""
    seed: int = 0
    max_tokens: int | None = None
    """Tokens behind the prompt."""
    tokenizer: str | None = None
    """Fingerprint of the tokenizer; None where traces are text."""
    tokenizer_name: str = ""
    """What it can be loaded by, where that is known; not compared."""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    started: str = ""
    """Date and time, with the offset to UTC."""

    @classmethod
    def of(
        cls,
        env: ConsultEnv | ConsultGame,
        options: Mapping[str, object] | None = None,
        *,
        policy: str = "",
        seed: int = 0,
        max_tokens: int | None = None,
        tokenizer_name: str = "",
    ) -> RunRecord:
        """The record of a run that starts now.

        Args:
            env: what is played.
            options: what it was made with; None takes them from an environment of `aipo_env.make`. A game by itself does
                not know them: its task family is then named in `omitted`.
            policy: the policy's name.
            seed: the run's seed.
            max_tokens: tokens behind the prompt.
            tokenizer_name: what the tokenizer can be loaded by.
        """
        game = env.game if isinstance(env, ConsultEnv) else env
        if options is None and isinstance(env, ConsultEnv) and env.spec is not None:
            options = env.spec.kwargs
        kept: dict[str, object] = {}
        omitted = [] if options is not None else ["tasks"]
        for name, value in (options or {}).items():
            # The helpers stand apart, and a tokenizer is known by its fingerprint.
            if name in _FACE_OPTIONS or name in ("agents", "codec") or value is None:
                continue
            try:
                kept[name] = json.loads(json.dumps(os.fspath(value) if isinstance(value, os.PathLike) else value))
            except (TypeError, ValueError):
                omitted.append(name)
        return cls(
            env_id=game.env_id,
            options=kept,
            omitted=tuple(sorted(omitted)),
            agents={name: describe(name, game.agents.get(name)) for name in game.agent_names},
            policy=policy,
            seed=seed,
            max_tokens=max_tokens,
            tokenizer=None if game.codec is None else game.codec.fingerprint,
            tokenizer_name=tokenizer_name,
            versions={**versions([DISTRIBUTION]), "python": platform.python_version()},
            started=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        )

    def game(self, codec: TokenCodec | None = None) -> ConsultGame:
        """The game that the traces were made with; its helpers have names and descriptions, and answer nothing.

        Raises:
            ConfigurationError: when options of the run could not be recorded.
        """
        if missing := ", ".join(self.omitted):
            raise ConfigurationError(
                f"this run of {self.env_id} had options that no file can hold: {missing}. Make the environment as it was made "
                "for the run, and play the traces again with aipo_env.replay(traces, env)."
            )
        agents = {name: _Described(name, description) for name, description in self.agents.items()}
        # A solo environment that asks nobody takes no helpers: it has those of its id.
        given = agents if env_spec(self.env_id).assisted or self.options.get("solo") == "self-help" else None
        return make_game(self.env_id, agents=given, codec=codec, **self.options)  # type: ignore[arg-type]

    def differences(self, other: RunRecord) -> list[str]:
        """What keeps the trajectories of two runs from standing in one file, in words."""
        names = ("env_id", "options", "agents", "policy", "seed", "max_tokens", "tokenizer")
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name} was {old!r} and is {new!r}" for name, old, new in pairs if old != new]

    def write(self, path: Path) -> None:
        """Writes the record in one piece."""
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """The inverse of `write`.

        Raises:
            DataFormatError: naming the file.
        """
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**row, "omitted": tuple(row["omitted"])})
        except (ValueError, TypeError, KeyError) as error:
            raise DataFormatError(
                f"{path} is not the record of a run ({error!r}). Remove it; the traces beside it can still be read, and be "
                "played again with --env and --env-options."
            ) from error


def record_path(traces: str | os.PathLike[str]) -> Path:
    """Where the record of a file of traces lies: `traces.run.json` beside `traces.jsonl`."""
    path = Path(traces)
    return path.with_name(f"{path.stem}.run.json")


class _Described:
    """A helper that is only talked about."""

    def __init__(self, name: str, description: str) -> None:
        self.name, self.description = name, description

    async def respond(self, request: ConsultRequest) -> Reply:
        return Reply("", error="it is not here")
