"""Other readings of an answer than the usual one, tried where the usual one does not match."""

from __future__ import annotations

import re

from aipo_env.grading.lexer import Unreadable
from aipo_env.grading.nodes import Call, Node, Num, Quantity, Sequence, children, walk
from aipo_env.grading.parser import parse
from aipo_env.grading.trees import rebuilt
from aipo_env.grading.units import canonical_unit, unit_size

_TRAILING_UNIT = re.compile(r"(.*[\d)}])\s*([A-Za-z][A-Za-z/^\d{} ]{0,20})")
_UNIT_FRACTION = re.compile(r"\\frac\s*\{([A-Za-z]{1,20})\}\s*\{([A-Za-z]{1,20}(?:\^\{?[23]\}?)?)\}$")
_SPACED_UNIT = re.compile(r"(-?\d{1,30}(?:\.\d{1,30})?) (?:h|s|m|g|L|N|J|W|V|K)")
# With zeros alone behind the comma it is a list: of 5 and 0.
_DECIMAL_COMMA = re.compile(r"-?(?:0,(?!0*$)\d+|\d+,(?!0*$)(?:\d{1,2}|\d{4,}))")


def other_readings(gold_text: str, gold: Node, answer_text: str, answer: Node) -> list[tuple[Node, Node]]:
    """Other readings of ``0,5``, a decimal, of letters behind a number, a unit, and of a logarithm without a base."""
    readings: list[tuple[Node, Node]] = []
    for text, other, first in ((gold_text, answer, True), (answer_text, gold, False)):
        reading: Node | None = None
        if _DECIMAL_COMMA.fullmatch(text) and not isinstance(other, Sequence):
            reading = parse(text.replace(",", "."))
        elif isinstance(other, Quantity):
            reading = _with_unit(text, other.unit)
        elif isinstance(other, Num) and (spaced := _SPACED_UNIT.fullmatch(text)) is not None:
            reading = parse(spaced[1])  # "3 h" may be hours
        if reading is not None:
            readings.append((reading, answer) if first else (gold, reading))
    if any(isinstance(part, Call) and part.name == "log" for node in (gold, answer) for part in walk(node)):
        readings.append((_common(gold), _common(answer)))
    return readings


def _common(node: Node) -> Node:
    """Read a logarithm without a base as one to base 10; a logarithm to a base is a ratio, which stays as it is."""
    parts = [_common(part) for part in children(node)]
    return Call("log10", parts) if isinstance(node, Call) and node.name == "log" else rebuilt(node, parts)


def _with_unit(text: str, unit: str) -> Node | None:
    """Read "5 m" as five metres where the other side says so, not as five times m."""
    trailing = _TRAILING_UNIT.fullmatch(_UNIT_FRACTION.sub(r" \1/\2", text))
    if trailing is None:
        return None
    own, wanted = canonical_unit(trailing[2]), canonical_unit(unit)
    if own != wanted and (unit_size(own) is None or unit_size(wanted) is None):
        return None
    try:
        return Quantity(parse(trailing[1]), unit if own == wanted else own)
    except Unreadable:
        return None
