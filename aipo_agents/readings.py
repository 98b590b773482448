"""How a side of a claim is read: what the engine gets of it, and the other ways in which people may have meant it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from aipo_agents.claims import Side
from aipo_env.grading.units import canonical_unit, unit_size

_LOG: Final = re.compile(r"\\?log(?![_a-z0-9])")
_CONVENTIONS: Final[dict[tuple[str, str], tuple[int, ...]]] = {
    ("year", "month"): (12,), ("year", "week"): (52,), ("year", "day"): (365, 366, 360), ("month", "day"): (30, 31, 28),
    ("month", "week"): (4,), ("decade", "year"): (10,), ("century", "year"): (100,), ("dozen", ""): (12,),
    ("pair", ""): (2,), ("gallon", "quart"): (4,), ("gallon", "pint"): (8,), ("gallon", "cup"): (16,), ("quart", "pint"): (2,),
    ("quart", "cup"): (4,), ("pint", "cup"): (2,), ("quarter", "cent"): (25,), ("dime", "cent"): (10,),
    ("nickel", "cent"): (5,), ("$", "quarter"): (4,), ("$", "dime"): (10,), ("ton", "lb"): (2000,), ("gallon", "oz"): (128,),
    ("cup", "oz"): (8,), ("quart", "oz"): (32,), ("score", "year"): (20,),
}  # fmt: skip
"""Units of common life, larger and smaller, and how many of the second people count in the first."""


def compose(side: Side, *, percent: bool = True, sizes: bool = False) -> str:
    """A side as the engine reads it, units left out.

    Args:
        side: the side.
        percent: whether a percent sign divides by 100; otherwise it is a unit.
        sizes: whether a number with a unit of known size is multiplied by that.
    """
    parts: list[str] = []
    end = side.pieces[0].start
    for index, piece in enumerate(side.pieces):
        if piece.kind == "unit":
            continue
        if index and side.pieces[index - 1].kind == "unit" and parts and piece.kind in ("number", "symbol", "open"):
            # `6 feet \frac{144}{1}` is a product, not a mixed number.
            last = (parts[-1] or " ")[-1]
            parts.append(" * " if last.isalnum() or last in ")}" else " ")
        elif piece.start > end:
            parts.append(" ")
        end = piece.end
        before = side.pieces[index - 1].text if index else ""
        following = side.pieces[index + 1] if index + 1 < len(side.pieces) else None
        if piece.text == "%":
            parts.append("/100" if percent and before in (")", "}") else "")
        elif piece.kind != "number":
            parts.append(piece.text)
        elif percent and following is not None and following.text == "%":
            parts.append(f"({piece.text}/100)")
        else:
            words = (
                "$" if before == "$" else following.text if following is not None and following.kind == "unit" else ""
            )
            size = _size(words) if sizes and words else None
            parts.append(piece.text if size is None else f"({piece.text}*{size})")
    return "".join(parts)


def other_readings(left: Side, right: Side) -> Iterator[tuple[str, str]]:
    """The other ways to read an equation of two sides, best first."""
    plain = compose(left), compose(right)
    if "log" in left.text + right.text:
        yield _LOG.sub(r"\\lg ", plain[0]), _LOG.sub(r"\\lg ", plain[1])
    if "%" in left.text or "%" in right.text:
        bare = tuple(compose(side, percent=not _all_percent(side)) for side in (left, right))
        if "%" in left.text and "%" in right.text:
            yield bare[0], bare[1]
        if not (left.is_number and right.is_number):
            # `5/20*100 = 25%`; but 1/2 is not 0.5%
            for side, texts in ((left, (bare[0], plain[1])), (right, (plain[0], bare[1]))):
                if not side.is_number or float(next(p.text for p in side.pieces if p.kind == "number")) >= 1:
                    yield texts
        for swapped in ((left, right), (right, left)):
            based = _percent_of_the_rest(swapped[0])
            if based is not None:
                yield based, compose(swapped[1])
    if left.units or right.units:
        if left.units and right.units:
            yield compose(left, sizes=True), compose(right, sizes=True)
        for ratio in ratios(left, right):
            yield f"({plain[0]})*({ratio})", plain[1]


def _all_percent(side: Side) -> bool:
    """Whether percent may be its unit: `100% - 20%`, but not `50 + 10%`."""
    texts = [piece.text for piece in side.pieces]
    return texts.count("%") == sum(piece.kind == "number" for piece in side.pieces) or {"+", "-"}.isdisjoint(texts)


def _percent_of_the_rest(side: Side) -> str | None:
    """`50 + 10%` as people mean it: 10% of the 50 are added."""
    pieces = [piece for piece in side.pieces if piece.kind != "unit"]
    if len(pieces) < 4 or pieces[-1].text != "%" or pieces[-2].kind != "number" or pieces[-3].text not in ("+", "-"):
        return None
    rest = Side(tuple(pieces[:-3]), "")
    return f"({compose(rest)})*(1{pieces[-3].text}{pieces[-2].text}/100)"


def ratios(left: Side, right: Side) -> list[Fraction]:
    """How many of a unit on the right make one of a unit on the left, for all pairs where that is known."""
    found: list[Fraction] = []
    for first in left.units or ("",):
        for second in right.units or ("",):
            found += _ratio(first, second)
    return list(dict.fromkeys(found))


def same_unit(left: Side, right: Side) -> bool:
    """Whether the two sides do not count different things."""
    names = [{name for words in side.units for name in _names(words)} for side in (left, right)]
    return not all(names) or not names[0].isdisjoint(names[1])


def _ratio(first: str, second: str) -> list[Fraction]:
    sizes = unit_size(_known(first)), unit_size(_known(second))
    if sizes[0] is not None and sizes[1] is not None and sizes[0][1] == sizes[1][1]:
        return [sizes[0][0] / sizes[1][0]]
    for a in [*_names(first), ""]:
        for b in [*_names(second), ""]:
            for pair, inverse in (((a, b), False), ((b, a), True)):
                if pair in _CONVENTIONS:
                    return [Fraction(1, count) if inverse else Fraction(count) for count in _CONVENTIONS[pair]]
    return []


def _size(words: str) -> Fraction | None:
    known = unit_size(_known(words))
    return None if known is None else known[0]


def _known(words: str) -> str:
    """The unit among some words, canonical; the first of them where none is known."""
    names = _names(words)
    return next((name for name in names if unit_size(name) is not None), names[0] if names else "")


def _names(words: str) -> list[str]:
    return [canonical_unit(word) for word in words.split() if word not in ("of", "a", "an", "the", "per", "each")]
