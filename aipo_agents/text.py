"""Cutting and cleaning the text of replies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from aipo_env.errors import ConfigurationError

_WHOLE = re.compile(r"[.!?](?=\s)|(?<!\d)[.!?]\Z|\n")  # "x = 3." may be half of a number
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


WORDS: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
"""Lists of words that rules go by."""
MIN_CHARS = 40
"""Shorter replies say nothing."""


def check_name(where: str, name: str) -> str:
    """Returns an agent's name; ConfigurationError, which says where it stands, unless it is one."""
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"{where}: name must be a non-empty string, got {name!r}.")
    return name


def shorten(text: str, max_chars: int) -> str:
    """Cuts a text to a length, after a whole sentence where there is one, else after a word."""
    if len(text) <= max_chars:
        return text
    head = text[:max_chars]
    ends = [match.end() for match in _SENTENCE_END.finditer(head)]
    if ends and ends[-1] >= max_chars // 3:
        return head[: ends[-1]]
    room = max(max_chars - 3, 0)
    words = text[:room].rsplit(None, 1)
    return (words[0] if words and len(words[0]) > room // 2 else text[:room]) + "..."[:max_chars]


def whole_sentences(text: str) -> str:
    """A text that was broken off, up to the end of its last whole sentence or line; empty where there is none."""
    return text[: max((match.end() for match in _WHOLE.finditer(text)), default=0)]


def quote(text: str, max_chars: int = 60) -> str:
    """A piece of someone's query for use in a message: one line, printable, short."""
    clean = "".join(char if char.isprintable() else " " for char in text[: 4 * max_chars])
    clean = re.sub(r"\s+", " ", clean).strip()
    return clean if len(clean) <= max_chars else clean[: max_chars - 3] + "..."


def words(text: str) -> tuple[str, ...]:
    """The words of a list that is written as one text."""
    return tuple(text.split())
