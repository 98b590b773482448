"""How actions and replies look in text."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

from aipo_env.dialects.base import Dialect, Helpers, TokenCodec
from aipo_env.errors import ConfigurationError, unknown_id
from aipo_env.markup import AnswerForm

DIALECT_GROUP = "aipo.dialects"
DialectLike = str | Dialect | Callable[[TokenCodec | None, Helpers, AnswerForm], Dialect]
"""A dialect's name, a dialect, or what makes one of a tokenizer, the helpers' descriptions and the form of answers."""


def make_dialect(like: DialectLike, codec: TokenCodec | None, helpers: Helpers, answers: AnswerForm) -> Dialect:
    """A dialect for a tokenizer and helpers.

    Args:
        like: "tags", "tools", "auto" for tools where the tokenizer's chat template allows them, the name of an entry point
            of `aipo.dialects`, or what makes a dialect.
        codec: makes episodes token-exact.
        helpers: what each does, by name.
        answers: what an answer is.

    Raises:
        UnknownIdError: for an unknown name.
        ConfigurationError: where the tokenizer does not fit, or something else came.
    """
    from aipo_env.dialects.tags import Tags
    from aipo_env.dialects.tools import Tools

    if like == "auto":
        try:
            return Tags(codec, helpers, answers) if codec is None else Tools(codec, helpers, answers)
        except ConfigurationError:
            return Tags(codec, helpers, answers)
    if isinstance(like, str):
        known: dict[str, DialectLike] = {"tags": Tags, "tools": Tools}
        for entry in importlib.metadata.entry_points(group=DIALECT_GROUP) if like not in known else ():
            known[entry.name] = entry.load()
        if like not in known:
            raise unknown_id("dialect", like, ["auto", *known])
        like = known[like]
    if callable(like):
        like = like(codec, helpers, answers)
    if not isinstance(like, Dialect):
        raise ConfigurationError(
            f"dialect is a name, a dialect, or what makes one of (codec, helpers, answers); got {type(like).__name__}."
        )
    return like
