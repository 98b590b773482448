"""Options of a command from a TOML or YAML file; what stands on the command line comes first.

A file's keys are the command's options, nested ones (`--sampling.max-tokens`) as tables. Its entries are checked here, so that
a mistake is reported with the file and the key, and then put behind the user's own arguments.
"""

from __future__ import annotations

import dataclasses
import inspect
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from aipo_env.errors import ConfigurationError, DataNotFoundError, MissingDependencyError, unknown_id

FLAG = "--config"


def takes_config(command: Callable[..., object]) -> bool:
    """Whether a command's options can stand in a file: see `aipo_env.console.command`."""
    return bool(getattr(command, "takes_config", False))


def expand_config(command: Callable[..., object], arguments: Sequence[str]) -> list[str]:
    """The arguments with `--config FILE` replaced by what the file says, less what the arguments say themselves.

    A dictionary (`--env-options`) is merged by key.

    Args:
        command: whose options they are.
        arguments: of the command line.

    Raises:
        DataNotFoundError: when there is no such file.
        ConfigurationError: for a file that cannot be read, or a value of another type than the option's.
        UnknownIdError: for a key that is no option, with the nearest.
    """
    rest, path = _split(arguments)
    if path is None:
        return rest
    values = _flatten(_read(path), options_of(command), path)
    given = _given(rest)
    for name, (option, value) in values.items():
        tokens = _tokens(value, option, f"{path}: {name}")
        flag = name.replace("_", "-")
        if isinstance(value, Mapping) and flag in given:
            rest = _merge(rest, flag, value)
        elif flag not in given and _negated(flag) not in given:
            if isinstance(value, bool) and _is_flag(option):
                rest.append(f"--{flag if value else _negated(flag)}")
            elif len(tokens) == 1 and not _is_list(option):
                # So that a text may begin with a hyphen.
                rest.append(f"--{flag}={tokens[0]}")
            else:
                rest += [f"--{flag}", *tokens]
    return rest


def options_of(command: Callable[..., object]) -> dict[str, Any]:
    """A command's options and their types; nested ones as "sampling.max_tokens"."""
    hints = typing.get_type_hints(command, include_extras=True)
    options: dict[str, Any] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        hint, marks = _bare(hints[name])
        if parameter.kind is parameter.POSITIONAL_ONLY or "Positional" in str(marks):
            continue
        # `Annotated[..., tyro.conf.arg(name=...)]`: with "" the fields are options of the command itself.
        renamed = [own for mark in marks if (own := getattr(mark, "name", None)) is not None]
        options |= dict(_nested(renamed[0] if renamed else name, hint))
    return options


def _nested(name: str, hint: Any) -> Iterator[tuple[str, Any]]:
    if not (dataclasses.is_dataclass(hint) and isinstance(hint, type)):
        yield name, hint
        return
    hints = typing.get_type_hints(hint, include_extras=True)
    for field in dataclasses.fields(hint):
        if field.init:
            yield from _nested(f"{name}.{field.name}" if name else field.name, _bare(hints[field.name])[0])


def _bare(hint: Any) -> tuple[Any, tuple[object, ...]]:
    """A type without its annotations, and those."""
    if get_origin(hint) is typing.Annotated:
        return hint.__origin__, hint.__metadata__
    return hint, ()


def _split(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without `--config`, and its value."""
    rest: list[str] = []
    found: list[str] = []
    tokens = iter(arguments)
    for token in tokens:
        if token == FLAG or token.startswith(f"{FLAG}="):
            value = token[len(FLAG) + 1 :] or next(tokens, "")
            if not value or value.startswith("--"):
                raise ConfigurationError(f"{FLAG} is followed by a file, such as {FLAG} run.toml; got {value!r}.")
            found.append(value)
        else:
            rest.append(token)
    if len(found) > 1:
        raise ConfigurationError(f"{FLAG} names one file, got {', '.join(found)}. Put all options into one of them.")
    return rest, Path(found[0]).expanduser() if found else None


def _read(path: Path) -> Mapping[str, object]:
    suffix = path.suffix.lower()
    if suffix not in (".toml", ".yaml", ".yml"):
        raise ConfigurationError(f"a config file ends in .toml, .yaml or .yml; got {path}.")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataNotFoundError(f"the config file {path} cannot be read: {error.strerror}. Correct {FLAG}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    values: object
    if suffix == ".toml":
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{path} is not TOML: {error}.") from error
    else:
        values = _read_yaml(path, text)
    if values is None:
        return {}
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
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not YAML: {error}.") from error


def _flatten(
    values: Mapping[str, object], options: Mapping[str, Any], path: Path, prefix: str = ""
) -> dict[str, tuple[Any, object]]:
    """The file's entries by the full names of their options, with the options' types."""
    flat: dict[str, tuple[Any, object]] = {}
    tables = {name.rpartition(".")[0] for name in options}
    for key, value in values.items():
        name = prefix + key.replace("-", "_")
        if name in tables:
            if not isinstance(value, Mapping):
                raise ConfigurationError(f"{path}: {name} is a table of options, got {value!r}.")
            flat |= _flatten(value, options, path, f"{name}.")
        elif name in options:
            flat[name] = options[name], value
        else:
            inside = [n.removeprefix(prefix).split(".")[0] for n in options if n.startswith(prefix)]
            table = f" in the table {prefix[:-1]}" if prefix else ""
            raise unknown_id(f"key{table}", key, set(inside), f"It stands in {path}; --help tells every option.")
    return flat


def _given(arguments: Sequence[str]) -> set[str]:
    """The names of the options on a command line."""
    return {token[2:].partition("=")[0].replace("_", "-") for token in arguments if token.startswith("--")}


def _negated(flag: str) -> str:
    table, dot, name = flag.rpartition(".")
    return f"{table}{dot}no-{name}"


def _merge(arguments: list[str], flag: str, value: Mapping[str, object]) -> list[str]:
    """Adds to a dictionary of the command line what the file has more."""
    start = next(i for i, t in enumerate(arguments) if t.startswith("--") and t[2:].replace("_", "-") == flag) + 1
    end = next((i for i in range(start, len(arguments)) if arguments[i].startswith("--")), len(arguments))
    keys = {key.replace("-", "_") for key in arguments[start:end:2]}
    more = [token for key, item in _pairs(value) if key.replace("-", "_") not in keys for token in (key, item)]
    return [*arguments[:end], *more, *arguments[end:]]


def _pairs(value: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _pairs(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(item)


def _tokens(value: object, hint: Any, where: str) -> list[str]:
    """A value as the command line has it; ConfigurationError where it does not fit the option."""
    if not _fits(value, hint):
        raise ConfigurationError(f"{where} is {_describe(hint)}, got {value!r}.")
    if isinstance(value, Mapping):
        return [token for pair in _pairs(value) for token in pair]
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _is_flag(hint: Any) -> bool:
    return hint is bool


def _is_list(hint: Any) -> bool:
    return any(get_origin(part) in (tuple, dict) for part in (get_args(hint) if _is_union(hint) else (hint,)))


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (typing.Union, types.UnionType)


def _fits(value: object, hint: Any) -> bool:
    hint, _ = _bare(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if _is_union(hint):
        return any(_fits(value, part) for part in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, list):
            return False
        every = arguments[-1] is Ellipsis
        parts = [arguments[0]] * len(value) if every else list(arguments)
        return len(parts) == len(value) and all(map(_fits, value, parts))
    if origin is dict:
        return isinstance(value, Mapping) and all(
            _fits(item, arguments[1]) or (isinstance(item, Mapping) and _fits(item, hint)) for item in value.values()
        )
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, str)
    return value is None if hint is type(None) else isinstance(value, hint)


def _describe(hint: Any) -> str:
    """A type in words."""
    hint, _ = _bare(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if _is_union(hint):
        return " or ".join(map(_describe, arguments))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is tuple:
        return f"a list of {_describe(arguments[0])}"
    if origin is dict:
        return f"a table of values that are {_describe(arguments[1])}"
    names = {str: "a text", Path: "a path (a text)", int: "a whole number", float: "a number", bool: "true or false"}
    return "nothing" if hint is type(None) else names.get(hint, getattr(hint, "__name__", str(hint)))
