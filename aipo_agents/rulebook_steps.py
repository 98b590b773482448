"""Next steps for rulebook expressions: one place at a time, then one sum at a time.

The state is what follows the expression in the query: `473@128` gives `4+4+1`, `473@128:4+4+1` gives `7+7+2`,
and so on. A query without such a rest is answered by what the transcript shows as done since the expression
first stood there. When all places are there, the sums follow in the same way: `...;3+3+8` gives `4+4+1=09`.
"""

from __future__ import annotations

import re
from typing import Final

from aipo_agents.rulebook_queries import MAX_QUERY_CHARS, Application, find_application
from aipo_env.tasks.rulebook import COMPOUND, chain_step, evaluate_expansion

MAX_TRANSCRIPT_CHARS: Final = 20_000

_CHAIN: Final = re.compile(r"(?<![0-9|])[0-9]{2,64}(?:\|[0-9]{2,64}){2}(?![0-9|])")
_PLACE: Final = re.compile(r"(?<![0-9+])([0-9]\+[0-9]\+[0-9])(?![0-9+])(?:\s*=\s*([0-9]{2})(?![0-9]))?")


def rulebook_step(query: str, transcript: str) -> str | None:
    """The next step for the first application of an operator in the query, or None if there is none."""
    asked = query[:MAX_QUERY_CHARS].strip().rstrip("=?: ")
    # Amid words `12|24|48` is divisibility, but in an episode about the rulebook.
    chained = _CHAIN.search(asked) if "rulebook" in transcript else _CHAIN.fullmatch(asked)
    if chained is not None:
        return chain_step(chained[0]) or "a chain needs equally many digits in each of its operands"
    application = find_application(query)
    if application is None:
        return None
    if application.expansion is None:
        return "the operands need equally many digits: check how the expression was copied"
    if application.symbol in COMPOUND:
        return application.expansion
    rest = query[application.end :]
    # Brackets and outer operators behind an inner application are no progress.
    done = rest if _PLACE.search(rest) is not None or ":" in rest else _after(application.text, transcript)
    return _next(application, query, done)


def _after(expression: str, transcript: str) -> str:
    """What the transcript has after the first place where the expression stands."""
    _, found, rest = transcript[-MAX_TRANSCRIPT_CHARS:].partition(expression)
    return rest if found else ""


def _next(application: Application, query: str, done: str) -> str:
    assert application.expansion is not None
    places = application.expansion.split(";")
    matches = list(_PLACE.finditer(done))
    expanded = 0
    for match in matches:
        if expanded < len(places) and match[1] == places[expanded]:
            expanded += 1
    if expanded < len(places):
        return places[expanded]
    summed = 0
    for match in matches:
        if summed < len(places) and match[1] == places[summed] and match[2] == evaluate_expansion(places[summed]):
            summed += 1
    if summed < len(places):
        return f"{places[summed]}={evaluate_expansion(places[summed])}"
    before, after = query[: application.start].rstrip(), query[application.end :].lstrip()
    if before.endswith("(") and after.startswith(")"):
        tail = re.match(r"\)(\S[0-9]+)", after)
        return evaluate_expansion(application.expansion) + (tail[1] if tail is not None else "")
    return "join the sums in order"
