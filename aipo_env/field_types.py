"""Checks that the fields of a configuration hold what their annotations say: a slip is told at once, and in words."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import json
import numbers
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from aipo_env.errors import ConfigurationError

_hints: Any = functools.cache(get_type_hints)


def check_fields(config: Any) -> None:
    """Refuses values of other types; what has a plain meaning is taken as what it means (a text as a path, a list as a tuple).

    Args:
        config: a dataclass of numbers, texts, paths, tuples, dictionaries and further dataclasses, in its __post_init__.

    Raises:
        ConfigurationError: with the field, what it needs, what came, and how to write it.
    """
    for field in dataclasses.fields(config):
        name, value, hint = field.name, getattr(config, field.name), _hints(type(config))[field.name]
        if is_typeddict(hint):
            object.__setattr__(config, name, read_table(name, value, hint))
            continue
        try:
            object.__setattr__(config, name, read_value(value, hint))
        except TypeError:
            written = f"({value!r},)" if get_origin(hint) is tuple else value
            written = f"{field.type}(...)" if dataclasses.is_dataclass(hint) else written
            advice = f"Write {name}={written}." if isinstance(value, str | Mapping) else "Pass one, or leave it out."
            raise ConfigurationError(
                f"{name} must be of the type {field.type}, got {value!r} ({type(value).__name__}). {advice}"
            ) from None
        for kind in (hint, *get_args(hint)):
            if get_origin(kind) is Literal and value is not None:
                check_choice(name, value, get_args(kind))


def read_table(name: str, values: object, table: type) -> dict[str, Any]:
    """Reads options by the types that a TypedDict has for them; those that it does not name may be anything.

    Args:
        name: of the table, for messages.
        values: the options; 0 and 1 stand for False and True where those alone are meant.
        table: the TypedDict.

    Raises:
        ConfigurationError: with the option, what it needs, what came.
    """
    if not isinstance(values, Mapping):
        raise ConfigurationError(
            f"{name} is a table of options, got {values!r}. Give it names and values, as {{'level': 2}}."
        )
    read = dict(values)
    for key in read.keys() & _hints(table).keys():
        hint, value = _hints(table)[key], read[key]
        kinds = get_args(hint) or (hint,)
        try:
            read[key] = bool(value) if bool in kinds and value in (0, 1) else read_value(value, hint)
        except TypeError:
            wanted = getattr(table.__annotations__[key], "__forward_arg__", table.__annotations__[key])
            raise ConfigurationError(
                f"{name}.{key} must be of the type {wanted}, got {value!r} ({type(value).__name__})."
            ) from None
        for kind in (hint, *kinds):
            if get_origin(kind) is Literal and value is not None:
                check_choice(f"{name}.{key}", value, get_args(kind))
    return read


def read_text(text: str, hint: Any = Any) -> Any:
    """What a text of a command line stands for where a type is wanted: a number, a JSON value, True or False, or itself."""
    if str in (hint, *get_args(hint)) and text[:1] not in ("[", "{"):
        return text
    if text in ("True", "False"):
        return text == "True"
    for read in (int, float, json.loads):
        with contextlib.suppress(ValueError):
            return read(text)
    return text


def type_of(table: type, path: Sequence[str]) -> Any:
    """The type of an option by its path in a TypedDict; `Any` where it says nothing about it."""
    kinds = _hints(table) if is_typeddict(table) else {}
    if path[0] in kinds:
        return kinds[path[0]] if len(path) == 1 else Any
    return kinds.get(path[-1], Any)


def check_choice(name: str, value: str, choices: Iterable[str], hint: str = "") -> None:
    """Refuses what is none of the choices, with the nearest one; `hint` says how there could be others."""
    known = list(choices)
    if value not in known:
        nearest = difflib.get_close_matches(value, known, n=1)
        suggestion = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ConfigurationError(
            f"{name} must be one of {', '.join(known)}, but it is {value!r}{suggestion}"
            + (f" ({hint})" if hint else "")
        )


def read_value(value: Any, hint: Any) -> Any:
    """The value as the hint's type; a TypeError when it is of another kind. What a dictionary holds is not looked at."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for kind in arguments:
            with contextlib.suppress(TypeError):
                return read_value(value, kind)
        raise TypeError
    if hint is Any:
        return value
    if origin is Sequence and not all(isinstance(item, arguments) for item in _of(value, Sequence)):
        raise TypeError
    if origin is tuple:
        items = _of(value, list | tuple)
        kinds = arguments[:1] * len(items) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(items):
            raise TypeError
        return tuple(read_value(item, kind) for item, kind in zip(items, kinds, strict=True))
    if hint is Path:
        return Path(_of(value, str | os.PathLike))
    if hint in (int, float):
        number = _of(value, numbers.Integral if hint is int else numbers.Real)
        if isinstance(value, bool):
            raise TypeError
        return number if type(number) in (int, float) else hint(number)
    return _of(value, {dict: Mapping, Literal: str}.get(origin, origin or hint))


def _of(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value
