"""Checks that the fields of a configuration hold what their annotations say: a slip is told at once, and in words."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import numbers
import os
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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
    return _of(value, {dict: Mapping, Literal: str}.get(origin, hint))


def _of(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value
