"""Finds rulebook operators in a query; what they mean stays in `aipo_env.tasks.rulebook`."""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from aipo_env.protocol import ConsultRequest
from aipo_env.tasks.rulebook import COMPOUND, EXPRESSION, OPERATORS, expand

MAX_QUERY_CHARS: Final = 4000
"""What the embedded helpers read of a query; it bounds their work."""

SYMBOLS: Final = (*OPERATORS, *COMPOUND)

ORDINARY: Final = frozenset("^!?%&$~*")
"""Symbols that mean something in ordinary text too."""

_FILLER: Final = re.compile(
    r"\b(?:what|which|is|are|does|do|mean|means|meaning|the|rulebook|operator|operators|define|definition|of|rule|for|"
    r"symbol|how|work|works|explain|please|tell|me|about)\b|[\"'`.:,]",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Application:
    """One application of an operator in a query: `473@128`."""

    symbol: str
    operands: tuple[str, ...]
    start: int
    end: int
    text: str
    expansion: str | None
    """`4+4+1;7+7+2;3+3+8`, or None when the operands differ in length."""


def is_rulebook_episode(request: ConsultRequest) -> bool:
    """Whether a request comes from an episode about the rulebook, as its task or its transcript says."""
    return request.task_id.startswith("rulebook") or "rulebook" in request.transcript


def find_application(query: str) -> Application | None:
    """The first application of an operator in a query, or None.

    Some symbols have a meaning in ordinary text as well (`2^3`, `5!`), so operands inside prose need two
    digits, as all rulebook problems have; `^` needs them everywhere.
    """
    text = query[:MAX_QUERY_CHARS]
    bare = text.strip().rstrip("=?: ")
    position = 0
    while (match := EXPRESSION.search(text, position)) is not None:
        position = match.start() + 1
        symbol = match["op"] or _unary_symbol(match)
        operands = (match["x"],) if match["x"] else (match["a"], match["b"])
        needed = 2 if symbol == "^" or (symbol != "@" and match[0] != bare) else 1
        before, after = text[max(match.start() - 1, 0) : match.start()], text[match.end() : match.end() + 1]
        part_of_more = before.isalnum() or after.isdigit() or before in (".", "\\") or (match["x"] and before == ")")
        if not part_of_more and min(map(len, operands)) >= needed:
            return Application(symbol, operands, match.start(), match.end(), match[0], expand(match[0]))
    return None


def find_symbol(query: str) -> str | None:
    """The operator that a query asks about in general: `@`, `a@b`, `what is the operator @?`; else None."""
    text = query.strip()
    if text in SYMBOLS:
        return text
    if len(text) > 100:
        return None
    rest = re.sub(r"\s+", " ", _FILLER.sub(" ", text)).strip()
    if rest[-1:] in ("?", "!") and len(rest) > 1:
        rest = rest[:-1].strip()
    elif rest in ("?", "!") and not re.search(r"\s[\"'`]?[?!]", text):
        return None  # the punctuation of a sentence, not the operator
    match = re.fullmatch(r"(?:a ?)?([^\w\s])(?: ?[ab])?", rest)
    return match[1] if match is not None and match[1] in SYMBOLS else None


def _unary_symbol(match: re.Match[str]) -> str:
    symbol = match["unary"]
    assert symbol is not None  # one of the two alternatives of EXPRESSION has matched
    return symbol
