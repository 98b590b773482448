"""Options of a command from a TOML or YAML file; what stands on the command line comes first.

A file's keys are the command's options, nested ones (`--sampling.max-tokens`) as tables. Its entries are checked here, so that
a mistake is reported with the file and the key, and then put in front of the user's own arguments, of which the last counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro

from aipo_env.errors import ConfigurationError, DataNotFoundError, MissingDependencyError, unknown_id
from aipo_env.field_types import check_choice, read_value

ConfigFile = Annotated[
    Path | None,
    tyro.conf.arg(
        name="config",
        help="TOML or YAML file with any of these options; the command line comes first.",
        help_behavior_hint="(default: none)",
    ),
]
"""The type of a command's parameter `config_file`, by which the command's options can stand in a file."""


def takes_config(command: Callable[..., object]) -> bool:
    """Whether a command's options can stand in a file."""
    return "config_file" in inspect.signature(command).parameters


def expand_config(command: Callable[..., object], arguments: Sequence[str]) -> list[str]:
    """The arguments with what the file of `--config FILE` says in front; a dictionary (`--env-options`) is merged by key.

    Args:
        command: whose options they are.
        arguments: of the command line.

    Raises:
        DataNotFoundError: when there is no such file.
        ConfigurationError: for a file that cannot be read, or a value of another type than the option's.
        UnknownIdError: for a key that is no option, with the nearest.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="append", type=Path, default=[])
    try:
        found, own = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigurationError("--config is followed by a file, such as --config run.toml.") from error
    if len(found.config) > 1:
        files = ", ".join(map(str, found.config))
        raise ConfigurationError(f"--config names one file, got {files}. Put all options into one of them.")
    tokens: list[str] = []
    for path in found.config:
        for name, hint, value in _entries(_read(path.expanduser()), options_of(command), path):
            flag = f"--{name.replace('_', '-')}"
            at = next((i for i, token in enumerate(own) if token.replace("_", "-") == flag), None)
            if isinstance(value, Mapping) and at is not None:
                own[at + 1 : at + 1] = _pairs(value)
            elif hint is bool:
                table, dot, last = flag[2:].rpartition(".")
                tokens.append(flag if value else f"--{table}{dot}no-{last}")
            elif isinstance(value, Mapping | list):
                tokens += [flag, *(_pairs(value) if isinstance(value, Mapping) else map(str, value))]
            else:
                tokens.append(f"{flag}={value}")  # so that a text may begin with a hyphen
    return tokens + own


def options_of(command: Callable[..., object]) -> dict[str, Any]:
    """A command's options and their types; nested ones as "sampling.max_tokens"."""
    hints = typing.get_type_hints(command, include_extras=True)
    options: dict[str, Any] = {}
    for name, hint in hints.items():
        if name not in ("return", "config_file"):
            # `Annotated[..., tyro.conf.arg(name=...)]`: with "" the fields are options of the command itself.
            given = [m.name for m in getattr(hint, "__metadata__", ()) if getattr(m, "name", None) is not None]
            options |= _nested(given[0] if given else name, hint)
    return options


def with_flags(message: str, options: Iterable[str]) -> str:
    """A message that names options as the command line does: `samples_per_prompt` becomes `--samples-per-prompt`."""
    flags = {name.rpartition(".")[2]: f"--{name.replace('_', '-')}" for name in options if "_" in name}
    return re.sub(
        r"(?<![\w.'\"`/-])[a-z]+_[a-z_]+\b(?!\.\w|[('\"`])", lambda found: flags.get(found[0], found[0]), message
    )


def _nested(name: str, hint: Any) -> dict[str, Any]:
    hint = getattr(hint, "__origin__", hint) if get_origin(hint) is Annotated else hint
    if not (dataclasses.is_dataclass(hint) and isinstance(hint, type)):
        return {name: hint}
    options: dict[str, Any] = {}
    for inner, own in typing.get_type_hints(hint, include_extras=True).items():
        options |= _nested(f"{name}.{inner}" if name else inner, own)
    return options


def _read(path: Path) -> Mapping[str, object]:
    suffix = path.suffix.lower()
    if suffix not in (".toml", ".yaml", ".yml"):
        raise ConfigurationError(f"a config file ends in .toml, .yaml or .yml; got {path}.")
    try:
        text = path.read_text(encoding="utf-8")
        values: object = tomllib.loads(text) if suffix == ".toml" else _read_yaml(path, text)
    except OSError as error:
        raise DataNotFoundError(
            f"the config file {path} cannot be read: {error.strerror}. Correct --config."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}.") from error
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ConfigurationError(f"{path} must hold options as `name: value`, got {type(values).__name__}.")
    return values


def _read_yaml(path: Path, text: str) -> object:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{path} is YAML, which needs the package PyYAML: pip install pyyaml. TOML needs nothing."
        ) from error
    try:
        return {} if (values := yaml.safe_load(text)) is None else values
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not YAML: {error}.") from error


def _entries(
    values: Mapping[str, object], options: Mapping[str, Any], path: Path, prefix: str = ""
) -> Iterator[tuple[str, Any, object]]:
    """The file's entries: an option's full name, its type, and the value, which is checked."""
    inside = {name.removeprefix(prefix).partition(".")[0] for name in options if name.startswith(prefix)}
    for key, value in values.items():
        name = prefix + key.replace("-", "_")
        if name in options:
            _check(f"{path}: {name}", value, options[name])
            yield name, options[name], value
        elif name not in {prefix + table for table in inside}:
            table = f" in the table {prefix[:-1]}" if prefix else ""
            raise unknown_id(f"key{table}", key, inside, f"It stands in {path}; --help tells every option.")
        elif isinstance(value, Mapping):
            yield from _entries(value, options, path, f"{name}.")
        else:
            raise ConfigurationError(f"{path}: {name} is a table of options, got {value!r}.")


def _pairs(values: Mapping[str, object], prefix: str = "") -> list[str]:
    """A dictionary as the command line has it: keys and values in turn; a table inside it as dotted keys."""
    pairs: list[str] = []
    for key, item in values.items():
        pairs += _pairs(item, f"{prefix}{key}.") if isinstance(item, Mapping) else [f"{prefix}{key}", str(item)]
    return pairs


def _check(where: str, value: object, hint: Any) -> None:
    """Refuses a value that is none of the option's type."""
    if isinstance(value, Mapping) and dict in (kinds := {get_origin(kind): kind for kind in (hint, *get_args(hint))}):
        for key, item in value.items():
            _check(f"{where}.{key}", item, hint if isinstance(item, Mapping) else get_args(kinds[dict])[1])
    elif get_origin(hint) is Literal and isinstance(value, str):
        check_choice(where, value, get_args(hint))
    else:
        try:
            read_value(value, hint)
        except TypeError:
            raise ConfigurationError(f"{where} is {_describe(hint)}, got {value!r}.") from None


def _describe(hint: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_describe, arguments))
    if origin is tuple:
        return f"a list ({', '.join('...' if kind is Ellipsis else _describe(kind) for kind in arguments)})"
    words: dict[object, str] = {
        str: "a text",
        Path: "a path (a text)",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
    }
    words |= {dict: "a table of values", Literal: "one of " + ", ".join(map(repr, arguments)), type(None): "nothing"}
    return words[origin or hint]
