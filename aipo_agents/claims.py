"""Finds claims in a query: chains of expressions with relations between them, amid prose or LaTeX.

The words between are sorted here: a unit belongs to the number before it, a word that calculates makes a side
unreadable, any other ends a piece of mathematics. What a piece means is read by the grader's parser.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Final

from aipo_agents.prose import IS, rewrite
from aipo_agents.text import WORDS
from aipo_agents.text import words as word_list
from aipo_env.grading.units import canonical_unit, unit_size

MAX_CLAIMS: Final = 20
MAX_UNIT_WORDS: Final = 6

_BEFORE: Final = frozenset[str](WORDS["carry on before a piece"])
_AFTER: Final = frozenset[str](WORDS["carry on behind a piece"])
_SCALES: Final = frozenset[str](WORDS["scales"])
"""Words that carry on a calculation, so that the piece beside them is no whole claim: `the root of 16 = 4`."""

_NAMING: Final = frozenset(("of", "by", "from", "to"))
_CALCULATING: Final = frozenset[str](WORDS["calculate before of"])
"""`a total of 3+4 = 7` names what is calculated, unless one of these stands before "of"."""

_LEADING: Final = frozenset[str](WORDS["before a negative number"])
"""Behind these a minus sign begins a negative number; behind other words it subtracts from what they name."""

_CONNECTIVES: Final = frozenset[str](WORDS["connectives"])

_CLAUSE: Final = frozenset[str](WORDS["of a sentence"])
"""Words of a sentence, as opposed to those of a unit."""

_SHORT_WORDS: Final = frozenset[str](WORDS["short words"])
_FUNCTIONS: Final = frozenset[str](WORDS["functions"])
_ENGLISH: Final = frozenset(word_list("sec floor ceil max min root exp mod abs factorial"))
"""Functions that are words as well: read as functions before a bracket only."""

_RELATIONS: Final = {
    "=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", IS: "=",
    "\\le": "<=", "\\leq": "<=", "\\leqslant": "<=", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=", "\\lt": "<",
    "\\gt": ">", "\\ne": "!=", "\\neq": "!=", "\\approx": "~=", "\\equiv": "==", "\\mid": "|", "~=": "~=",
}  # fmt: skip
_OPERATORS: Final = {"\\cdot": "*", "\\times": "*", "\\ast": "*", "\\div": "/", "**": "^"}
_BREAKS: Final = frozenset(word_list(r"\item \par \label \tag \section \newline \[ \] \( \) \$ \{ \} \# \land \lor"))
_PIECE: Final = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<unknown>\.\.\.+|…|\\(?:l|c|d)?dots\b|\.(?=\\(?:overline|bar|dot))|\x00|\\matrix\b)"
    r"|(?P<money>\\?\$(?=\s?\.?[0-9]))"
    r"|(?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<relation><=|>=|~=|==|(?<![0-9A-Za-z)\]}!])!=|[=<>\x01])"  # 5!=120 is about a factorial
    r"|(?P<command>\\[A-Za-z]+|\\.)"
    r"|(?P<letters>[A-Za-z]+(?:'[A-Za-z]+)?)"
    r"|(?P<operator>\*\*|[-+*/^!%_'])"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<bar>\|)"
    r"|(?P<other>.)",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A token of the segmentation: its kind, what the reader of mathematics gets, and its place in the text."""

    kind: str
    text: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """One side of a claim."""

    pieces: tuple[Piece, ...]
    text: str
    """As it was written, units included."""

    @property
    def units(self) -> tuple[str, ...]:
        """The words behind its numbers, and `$`."""
        return tuple(piece.text for piece in self.pieces if piece.kind == "unit")

    @property
    def is_number(self) -> bool:
        """Whether it is one number, with a sign or a unit perhaps: nothing is calculated."""
        kinds = [piece.kind for piece in self.pieces if piece.kind != "unit" and piece.text not in ("-", "%", "{", "}")]
        return kinds == ["number"]


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """`a = b = c` or `a < b`: one more side than relations."""

    sides: tuple[Side, ...]
    relations: tuple[str, ...]
    modulus: int | None = None
    """Of a congruence."""
    prose: bool = False
    """Whether words stand before it, so that its first number may belong to them."""

    @property
    def text(self) -> str:
        """The claim as it was written."""
        return "".join(side.text + relation for side, relation in zip(self.sides, (*self.relations, ""), strict=True))


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a text holds."""

    claims: list[Claim]
    incomplete: bool = False
    """There is a relation with nothing on one side: a question rather than a claim."""
    words: bool = False
    """Whether there is more in it than claims and words such as "so" between them."""


def find_claims(query: str) -> Found:
    r"""All claims of a query, in order; work is linear in its length.

    A `\x00` in the query stands for something that is no arithmetic; the side that holds it cannot be read.
    """
    text, marks = rewrite(query)
    claims, incomplete = list[Claim](), False
    runs = [(mark, run) for mark in marks for run in _runs(_pieces(mark))] + [
        (text, run) for run in _runs(_pieces(text))
    ]
    for source, run in runs:
        claim, whole = _claim(run, source)
        incomplete = incomplete or not whole
        if claim is not None and claim.relations:
            claims.append(claim)
    words = any(piece.kind == "word" and piece.text.lower() not in _CONNECTIVES for piece in _pieces(text))
    return Found(claims, incomplete, words)


def find_statements(query: str) -> list[Claim]:
    """The pieces of mathematics of a query, in order, with or without a relation: `47*12=?`, `2x+3=7`."""
    text, _ = rewrite(query)
    statements: list[Claim] = []
    for run in _runs(_pieces(text)):
        claim, _ = _claim(run, text)
        if claim is not None:
            statements.append(claim)
    return statements[-MAX_CLAIMS:]


def _pieces(text: str) -> list[Piece]:
    pieces: list[Piece] = []
    for match in _PIECE.finditer(text):
        kind, value, start, end = match.lastgroup or "other", match[0], *match.span()
        if kind == "space" or (value in ("~", "&", "$") and kind != "money"):
            continue
        if (
            kind == "number"
            and "," in value
            and [p.text.strip("\\") in _FUNCTIONS for p in pieces[-2:]] == [True, False]
        ):
            for part in re.finditer("[0-9.]+|,", value):  # gcd(378,315)
                pieces.append(
                    Piece("break" if part[0] == "," else kind, part[0], start + part.start(), start + part.end())
                )
        elif kind == "number":
            pieces.append(Piece(kind, value.replace(",", ""), start, end))
        elif kind == "relation" or (kind == "command" and value in _RELATIONS):
            pieces.append(Piece("is" if value == IS else "relation", _RELATIONS[value], start, end))
        elif value in _OPERATORS:
            pieces.append(Piece("operator", _OPERATORS[value], start, end))
        elif kind == "command":
            pieces.append(Piece("word" if value in _BREAKS else "symbol", value, start, end))
        elif kind == "money":
            pieces.append(Piece("unit", "$", start, end))
        elif kind == "letters":
            pieces.append(Piece("symbol" if _is_symbol(value, start, end, text) else "word", value, start, end))
        elif kind == "other":
            # A sign that nobody explained makes what it stands in unreadable; punctuation ends it.
            pieces.append(Piece("break" if value in ".,;:?\"'" else "unknown", value, start, end))
        else:
            pieces.append(Piece(kind, value, start, end))
    return pieces


def _is_symbol(word: str, start: int, end: int, text: str) -> bool:
    if word in _ENGLISH:
        return text[end : end + 2].lstrip()[:1] in ("(", "{", "_")
    if word in _FUNCTIONS or word in ("xyz", "abc") or text[max(start - 1, 0) : start] in ("_", "{"):
        return True
    if word in ("a", "A", "I") and text[:start][-1:].isspace() and text[end : end + 1].isspace():
        # An article or a pronoun, unless an operator stands beside it.
        before, after = text[max(start - 20, 0) : start].rstrip()[-1:], text[end : end + 20].lstrip()[:1]
        return before in tuple("+-*/^=<>(") or after in tuple("+-*/^=<>!)")
    return len(word) <= 2 and word.lower() not in _SHORT_WORDS


def _runs(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Cuts at words and punctuation; words that are units join what stands on both sides of them."""
    breaks, asides = _brackets(pieces)
    runs: list[list[Piece]] = [[]]
    position, depth = 0, 0
    while position < len(pieces):
        piece = pieces[position]
        if position in asides:
            position = asides[position]
            continue
        if piece.kind == "word":
            end = position
            while end < len(pieces) and pieces[end].kind == "word":
                end += 1
            words = pieces[position:end]
            while end in asides:
                end = asides[end]
            following = pieces[end] if end < len(pieces) and end not in breaks else None
            _add_words(runs, words, following)
            position = end
            continue
        if position in breaks or (piece.kind == "break" and not (piece.text in ",:" and depth)):
            if piece.text == ":" and runs[-1] and _is_ratio(pieces, position):
                runs[-1].append(dataclasses.replace(piece, kind="operator"))
            else:
                runs.append([])
                depth = 0
        else:
            depth = max(depth + {"open": 1, "close": -1}.get(piece.kind, 0), 0)
            runs[-1].append(piece)
        position += 1
    return [trimmed for run in runs if (trimmed := _trim(_join_powers(run)))]


def _is_ratio(pieces: Sequence[Piece], position: int) -> bool:
    around = pieces[position - 1 : position + 2]
    if len(around) < 3 or not around[0].kind == around[2].kind == "number":
        return False
    return around[1].start - around[0].end == around[2].start - around[1].end <= 1  # not "by 2: 16 feet"


def _add_words(runs: list[list[Piece]], words: Sequence[Piece], following: Piece | None) -> None:
    """Decides what a row of words is: a unit, the rest of a calculation, or an end."""
    run, texts = runs[-1], [word.text.lower() for word in words]
    while len(texts) > 1 and texts[-1] in ("the", "his", "her", "their", "its"):
        texts.pop()  # `half of the 3+5` carries on as `half of 3+5` does
    after_value = bool(run) and (run[-1].kind in ("number", "symbol", "close") or run[-1].text in ("%", "!"))
    after_operator = bool(run) and run[-1].kind == "operator" and run[-1].text in "+-*/"
    unit = Piece("unit", " ".join(texts), words[0].start, words[-1].end)
    value_follows = following is not None and following.kind in ("number", "symbol", "open", "unit")
    sentence = len(words) > MAX_UNIT_WORDS or not _CLAUSE.isdisjoint(texts)
    if (
        after_value
        and not sentence
        and following is not None
        and following.kind in ("operator", "relation", "is", "close")
    ):
        carries = texts[-1] in _AFTER or not _SCALES.isdisjoint(texts)
        run.append(dataclasses.replace(unit, kind="unknown") if carries and texts[-1] != "times" else unit)
        return
    if after_operator and value_follows and len(words) <= 3 and not sentence and texts[-1] not in _BEFORE:
        return  # `12 + the 3 others`
    if after_value:
        carries = texts[0] in _SCALES or (texts[0] in _AFTER and value_follows and len(words) <= 3)
        run.append(dataclasses.replace(unit, kind="unknown" if carries else "unit", text=" ".join(texts[:3])))
    elif after_operator and run[-1].text != "-":
        run.append(dataclasses.replace(unit, kind="unknown"))  # `12 + interest`
    begin: list[Piece] = []
    compound = after_value and len(words) == 1 and following is not None and following.kind == "number"
    naming = texts[-1] in _NAMING and (
        texts[-2] not in _CALCULATING if len(texts) > 1 else texts == ["from"] and not run
    )
    glued = following is not None and following.start == words[-1].end
    if (
        texts[-1] in _BEFORE
        or (compound and unit_size(canonical_unit(texts[0])) is not None)  # `2 hours 30 minutes`
        or (
            following is not None
            and following.kind == "operator"
            and (following.text != "-" or texts[-1] not in _LEADING)
        )
        or (glued and following is not None and following.kind == "open")  # a function that we do not know
    ):
        kind = "naming" if naming and value_follows else "unknown"
        begin.append(dataclasses.replace(unit, kind=kind, text=words[-1].text, start=words[-1].start))
    elif following is not None:
        begin.append(Piece("prose", "", following.start, following.start))
    runs.append(begin)


def _brackets(pieces: Sequence[Piece]) -> tuple[set[int], dict[int, int]]:
    """Brackets that are punctuation: those around a relation, and asides such as `8 hours (60 minutes each)`.

    Returns:
        The positions of the first kind, and where each of the second kind begins and what follows it.
    """
    stack: list[int] = []
    breaks: set[int] = set()
    asides: dict[int, int] = {}
    worded: set[int] = set()
    scripts: set[int] = set()  # `\\sum_{k=1}`: no claim
    for position, piece in enumerate(pieces):
        if piece.kind == "open":
            stack.append(position)
            if position and pieces[position - 1].text in ("_", "^"):
                scripts.add(position)
        elif piece.kind == "close" and stack:
            opening = stack.pop()
            before = pieces[opening - 1] if opening else None
            if opening in breaks:
                breaks.add(position)
            elif (
                opening in worded
                and before is not None
                and (before.kind == "number" or (before.kind == "word" and before.text.lower() not in _CLAUSE))
            ):
                asides[opening] = position + 1
            elif (
                opening in worded and (before is None or before.kind == "break") and _begins_with_word(pieces, opening)
            ):
                breaks |= {opening, position}
        elif piece.kind in ("relation", "is") and scripts.isdisjoint(stack):
            breaks.update(stack)
        elif piece.kind == "word":
            worded.update(stack)
    return breaks, asides


def _begins_with_word(pieces: Sequence[Piece], opening: int) -> bool:
    return opening + 1 < len(pieces) and pieces[opening + 1].kind == "word"


def _join_powers(run: list[Piece]) -> list[Piece]:
    """The power of a unit belongs to the unit: `15 cm^2`."""
    joined: list[Piece] = []
    position = 0
    while position < len(run):
        piece = run[position]
        texts = [part.text for part in run[position : position + 4]]
        size = 2 if texts[1:2] in (["2"], ["3"]) else 4 if texts[1:2] == ["{"] and texts[3:] == ["}"] else 0
        if piece.text == "^" and joined and joined[-1].kind == "unit" and size:
            joined[-1] = dataclasses.replace(
                joined[-1], text=f"{joined[-1].text}^{texts[size // 2]}", end=run[position + size - 1].end
            )
            position += size
        else:
            joined.append(piece)
            position += 1
    return joined


def _trim(run: list[Piece]) -> list[Piece]:
    """Without a bracket at its ends that has no partner in it: `(since 1+1=2)` leaves `1+1=2)`."""
    stack: list[int] = []
    unmatched: set[int] = set()
    for position, piece in enumerate(run):
        if piece.kind == "open":
            stack.append(position)
        elif piece.kind == "close":
            if stack:
                stack.pop()
            else:
                unmatched.add(position)
    # Only at the ends: one in the middle is an error in the claim itself.
    unmatched.update(stack)
    first, last = 0, len(run)
    while last > first and (last - 1 in unmatched or run[last - 1].text in ("-", "_", "'")):
        last -= 1
    while first < last and first in unmatched:
        first += 1
    return run[first:last] if any(piece.kind != "prose" for piece in run[first:last]) else []


def _claim(run: list[Piece], text: str) -> tuple[Claim | None, bool]:
    """The claim of a run, and whether no side of it is missing."""
    prose = bool(run) and run[0].kind == "prose"
    sides: list[list[Piece]] = [[]]
    relations: list[str] = []
    modulus: int | None = None
    pieces = [piece for piece in run if piece.kind != "prose"]
    whole, position, depth = True, 0, 0
    while position < len(pieces):
        piece = pieces[position]
        depth += {"open": 1, "close": -1}.get(piece.kind, 0)
        following = pieces[position + 1] if position + 1 < len(pieces) else None
        if piece.kind == "is" and depth <= 0 and (relations or not _calculates(sides[-1])):
            if relations:
                break  # "x^2=1 is a circle"
            sides[-1], prose = [], True  # "the side is 5": the words before are what is 5
        elif piece.kind in ("relation", "is") and depth <= 0:
            relations.append(piece.text)
            sides.append([])
        elif (
            piece.text in ("\\pmod", "\\bmod")
            and following is not None
            and _is_modulus(following)
            and (piece.text == "\\pmod" or (relations and position + 2 == len(pieces)))
        ):
            modulus = int(following.text)
            if piece.text == "\\pmod" or "==" in relations:
                position += 1
            else:  # "2 = 17 mod 5" may be meant as a remainder too
                sides[-1].append(piece)
        else:
            sides[-1].append(piece)
        position += 1
    if sides[0] and sides[0][0].kind == "naming":
        named = sides[0].pop(0)
        prose = True
        if not any(piece.kind == "operator" for piece in sides[0]):
            sides[0].insert(0, dataclasses.replace(named, kind="unknown"))
    if relations and not sides[0]:  # "the total = 5+3 = 8"
        sides, relations, whole, prose = sides[1:], relations[1:], prose, True
    if relations and not sides[-1]:
        sides, relations, whole = sides[:-1], relations[:-1], False
    if not all(sides):
        return None, False
    made = tuple(Side(tuple(side), _written(side, text)) for side in sides)
    return Claim(made, tuple(relations), modulus, prose), whole


def _written(side: Sequence[Piece], text: str) -> str:
    return re.sub(r"\s+", " ", text[side[0].start : side[-1].end].replace("\x00", "?")).strip()


def _calculates(side: Sequence[Piece]) -> bool:
    """Whether a side before the word "is" calculates; `a 30-60-90 triangle` does not."""
    operators = {piece.text for piece in side if piece.kind == "operator"}
    return bool(operators) and side[0].kind != "naming" and not (operators == {"-"} and side[-1].kind == "unit")


def _is_modulus(piece: Piece) -> bool:
    return piece.kind == "number" and piece.text.isdigit() and len(piece.text) <= 30
