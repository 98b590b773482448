"""Finds claims in a query: chains of expressions with relations between them, amid prose or LaTeX."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Final

from aipo_agents.lexer import Token, normalize, tokenize

MAX_CLAIMS: Final = 20

_BEFORE: Final = frozenset(
    {
        "of", "plus", "minus", "times", "by", "over", "between", "from", "twice", "half", "double", "thrice",
        "than", "square", "cube", "squared",
    }
)  # fmt: skip
_AFTER: Final = frozenset(
    {
        "plus", "minus", "times", "divided", "percent", "hundred", "thousand", "million", "billion", "dozen",
        "squared", "cubed", "over", "more", "less", "mod", "modulo", "to",
    }
)  # fmt: skip
"""Words that carry on a calculation, so that the piece beside them is no whole claim: `half of 10 = 5`."""

_PLACES: Final = re.compile(
    r"(?<![0-9+;.])([0-9]\+[0-9]\+[0-9](?:;[0-9]\+[0-9]\+[0-9])+)\s*=\s*([0-9]{2,200})(?![0-9.+*/^-])"
)
_TEXT: Final = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{[^{}]*\}")
_PMOD: Final = re.compile(r"\(\s*\\?b?mod\b\s*([0-9]{1,30})\s*\)|\\pmod\s*\{?\s*([0-9]{1,30})\s*\}?")
_EQUALS_WORD: Final = re.compile(r"(?<=[0-9)\]}a-z!])\s+(?:is equal to|equals|is)\s+(?=[0-9(\\.-])")
_WORD_OPERATOR: Final = re.compile(r"(?<=[0-9)\]}])\s+(plus|minus|times|divided by)\s+(?=[0-9(\\.-])")
_OPERATOR_WORDS: Final = {"plus": "+", "minus": "-", "times": "*", "divided by": "/"}
_PERCENT_OF: Final = re.compile(r"(\\?%)\s+of\s+(?=[0-9(\\])")


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """`a = b = c` or `a < b`: one more side than relations; each side is a list of tokens."""

    sides: tuple[tuple[Token, ...], ...]
    relations: tuple[str, ...]
    modulus: int | None = None
    """Of a congruence."""
    texts: tuple[str, ...] = ()
    """The sides as they were written."""


@dataclasses.dataclass(frozen=True, slots=True)
class PlaceSums:
    """A rulebook expansion and the digits that it is said to make: `4+4+1;7+7+2=0916`."""

    places: tuple[str, ...]
    digits: str


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a query holds."""

    claims: list[Claim]
    place_sums: list[PlaceSums]
    incomplete: bool = False
    """There is a relation with nothing on one side: a question rather than a claim."""
    too_many: bool = False


def find_claims(query: str) -> Found:
    r"""All claims of a query, in order; work is linear in its length.

    A `\x00` in the query stands for something that is no arithmetic; the side that holds it cannot be
    parsed.
    """
    place_sums: list[PlaceSums] = []

    def take(match: re.Match[str]) -> str:
        places = tuple(match[1].split(";"))
        if len(match[2]) == 2:  # `4+4+1;7+7+2=16` states the last sum only
            return match[0]
        place_sums.append(PlaceSums(places, match[2]))
        return " ; "

    text = _prepare(_PLACES.sub(take, query))
    claims: list[Claim] = []
    incomplete = False
    for run in _runs(tokenize(text)):
        claim = _claim(run, text)
        if claim is None:
            incomplete = True
        elif claim.relations:
            claims.append(claim)
    return Found(claims[:MAX_CLAIMS], place_sums[:MAX_CLAIMS], incomplete, len(claims) > MAX_CLAIMS)


def find_statements(query: str) -> list[Claim]:
    """The pieces of mathematics of a query, in order, with or without a relation: `47*12=?`, `2x+3=7`."""
    text = _prepare(query)
    statements: list[Claim] = []
    for run in _runs(tokenize(text)):
        while run and run[-1].kind == "relation":
            run = run[:-1]
        claim = _claim(run, text) if run else None
        if claim is not None:
            statements.append(claim)
    return statements[-MAX_CLAIMS:]


def _prepare(query: str) -> str:
    text = _TEXT.sub(" word ", normalize(query))
    text = _PMOD.sub(lambda m: f" \\pmod {m[1] or m[2]} ", text)
    text = _WORD_OPERATOR.sub(lambda m: f" {_OPERATOR_WORDS[m[1]]} ", text)
    return _EQUALS_WORD.sub(" = ", _PERCENT_OF.sub(r"\1 * ", text))


def _runs(tokens: Sequence[Token]) -> list[list[Token]]:
    """Splits at words, at punctuation outside of brackets, and at brackets that hold a whole relation."""
    runs: list[list[Token]] = [[]]
    depth = 0
    prose = _prose_brackets(tokens)
    for position, token in enumerate(tokens):
        comma = token.text == "," and depth > 0
        if position in prose or (token.kind == "word" and not comma):
            if runs[-1] and token.text in _AFTER:
                runs[-1].append(dataclasses.replace(token, kind="unknown"))
            runs.append([])
            depth = 0
            following = tokens[position + 1] if position + 1 < len(tokens) else token
            if _carries_on(token, following, runs[-2]):
                runs[-1].append(dataclasses.replace(token, kind="unknown"))
            continue
        depth = max(depth + {"open": 1, "close": -1}.get(token.kind, 0), 0)
        runs[-1].append(token)
    return [trimmed for run in runs if (trimmed := _trim(run))]


def _carries_on(word: Token, following: Token, before: Sequence[Token]) -> bool:
    """Whether the piece behind a word is only the rest of what the word began."""
    if word.text.lower() in _BEFORE or (word.text == "and" and _lone_number(before)):
        return True
    if following.kind == "operator":
        return following.text != "-" or bool(before and word.text.isalpha())
    # `eval(1)=1`: a word glued to a bracket is a function that we do not know.
    return following.kind == "open" and following.start == word.end and word.text.isalpha()


def _prose_brackets(tokens: Sequence[Token]) -> set[int]:
    """Positions of the brackets around a relation, as in `(since 1+1=2)`: they are punctuation."""
    stack: list[int] = []
    found: set[int] = set()
    for position, token in enumerate(tokens):
        if token.kind == "open":
            stack.append(position)
        elif token.kind == "close" and stack:
            opening = stack.pop()
            if opening in found:
                found.add(position)
        elif token.kind == "relation":
            found.update(stack)
    return found


def _lone_number(run: Sequence[Token]) -> bool:
    """A piece that ends with a number and claims nothing: `3` in `3 and 4 = 7`."""
    return bool(run) and run[-1].kind == "number" and not any(token.kind == "relation" for token in run)


def _trim(run: list[Token]) -> list[Token]:
    """Without a bracket that opens or closes around prose: `(since 1+1=2)` leaves `1+1=2)`."""
    stack: list[int] = []
    unmatched: set[int] = set()
    for position, token in enumerate(run):
        if token.kind == "open":
            stack.append(position)
        elif token.kind == "close":
            if stack:
                stack.pop()
            else:
                unmatched.add(position)
    # Only at the ends: one in the middle is an error in the claim itself.
    first, last = 0, len(run)
    while last > first and (last - 1 in unmatched or last - 1 in stack):
        last -= 1
    while first < last and (first in unmatched or first in stack):
        first += 1
    return run[first:last]


def _claim(run: list[Token], text: str) -> Claim | None:
    """The claim of a run; None when a side is empty."""
    sides: list[list[Token]] = [[]]
    relations: list[str] = []
    modulus: int | None = None
    position = 0
    while position < len(run):
        token = run[position]
        if token.kind == "relation":
            relations.append(token.text)
            sides.append([])
        elif token.text == "pmod" and position + 1 < len(run) and _is_modulus(run[position + 1]):
            modulus = int(run[position + 1].text)
            position += 1
        elif token.text == "mod" and "==" in relations and position + 2 == len(run) and _is_modulus(run[-1]):
            modulus = int(run[-1].text)
            position += 1
        else:
            sides[-1].append(token)
        position += 1
    if relations and not all(sides):
        return None
    texts = tuple(text[side[0].start : side[-1].end].strip() if side else "" for side in sides)
    return Claim(tuple(map(tuple, sides)), tuple(relations), modulus, texts)


def _is_modulus(token: Token) -> bool:
    return token.kind == "number" and token.text.isdigit() and len(token.text) <= 30
