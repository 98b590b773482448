"""Units: which words are units, and when two spellings are the same unit."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

_SPELLINGS = {
    "cm": "cm centimeter centimetre", "mm": "mm millimeter millimetre", "m": "m meter metre",
    "km": "km kilometer kilometre", "in": "in inch inches inche", "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile",
    "kg": "kg kilogram", "g": "g gram", "mg": "mg milligram", "lb": "lb pound", "oz": "oz ounce",
    "s": "s sec second", "min": "min minute", "h": "h hr hour", "d": "day", "week": "week", "month": "month",
    "year": "yr year", "l": "l liter litre", "ml": "ml milliliter millilitre",
    "$": "$ dollar usd", "cent": "cent", "mi/h": "mph", "km/h": "kph kmh kmph",
    "deg": "deg degree", "rad": "rad radian", "%": "% percent pct",
    "celsius": "celsius", "fahrenheit": "fahrenheit", "unit": "unit",
    "n": "newton", "j": "joule", "w": "watt", "v": "volt", "hz": "hz hertz",
}  # fmt: skip
# Size in the smallest unit of each dimension; all exact.
_SIZES = {
    "time": {"s": 1, "min": 60, "h": 3600, "day": 86400, "week": 604800},
    "length": {"mm": 10, "cm": 100, "m": 10_000, "km": 10_000_000, "in": 254, "ft": 3048, "yd": 9144, "mi": 16_093_440},
    "mass": {"mg": 1, "g": 1000, "kg": 1_000_000},
    "weight": {"oz": 1, "lb": 16},
    "volume": {"ml": 1, "l": 1000},
    "money": {"cent": 1, "$": 100},
}
_DIMENSIONS = {unit: (name, size) for name, sizes in _SIZES.items() for unit, size in sizes.items()}
_CANONICAL = {word: name for name, words in _SPELLINGS.items() for word in words.split()}
_COUNTED = (
    "units unit people students apples books games points ways times cents coins marbles feet inches square cubic "
    "meters miles hours minutes seconds days weeks months years dollars yuan euros pounds"
)

UNIT_WORDS = frozenset(
    {w for w in _CANONICAL if w.isalpha()} | {w + "s" for w in _CANONICAL if w.isalpha()} | set(_COUNTED.split())
)
"""Words that are read as a unit when they stand behind a number."""

_SQUARE = re.compile(r"\b(?:square|sq\.?)\s+(\w+)")
_CUBIC = re.compile(r"\b(?:cubic|cu\.?)\s+(\w+)")


# Words that hedge or deny; digits hide another answer, but cm2 and m^2 are units.
_HEDGE = re.compile(
    r"(?<![A-Za-z^{])\d|\b(?:not|no|or|nor|wrong|but|maybe|perhaps|except|without|never|neither|either|than)\b|n't\b",
    re.IGNORECASE,
)
_VERB = re.compile(r"\b(?:is|are|was|isn|be)\b", re.IGNORECASE)


def hedges(words: str) -> bool:
    """Whether words beside a formula may change what it says, as in "not 4" and "3 or 4"."""
    return _HEDGE.search(words) is not None


_LEADS = """
is are was be equals equal to of about approximately exactly roughly answer therefore thus so hence get has have gives
costs value values result solution solutions total when where at
"""
_INTRODUCTION = re.compile(rf"(?:.*\s)?(?:{'|'.join(_LEADS.split())})[\s:,]*|\([A-Z]\)", re.IGNORECASE)


def introduces(words: str) -> bool:
    """Whether words before a formula only introduce it: "the area is" and a label "(A)" do, "June" does not."""
    return _INTRODUCTION.fullmatch(words) is not None and not hedges(words)


def can_be_unit(words: str) -> bool:
    """Whether words behind a number can be a unit or the things counted: a few words, no sentence."""
    return len(words) <= 40 and words.count(" ") < 5 and not hedges(words) and _VERB.search(words) is None


@lru_cache(maxsize=1024)
def canonical_unit(unit: str) -> str:
    """Return one spelling for all spellings of a unit: ``square metres`` and ``m^{2}`` give ``m^2``."""
    unit = unit.lower().replace("{", "").replace("}", "").replace(".", "").strip()
    unit = _SQUARE.sub(r"\1^2", unit)
    unit = _CUBIC.sub(r"\1^3", unit)
    unit = unit.replace(" per ", "/")
    parts = re.split(r"([/^*]|\s+)", unit)
    return "".join(_canonical_word(part.strip()) for part in parts if part.strip())


def _canonical_word(word: str) -> str:
    if word in _CANONICAL:
        return _CANONICAL[word]
    if len(word) > 2 and word.endswith("s"):
        return _CANONICAL.get(word[:-1], word[:-1])
    return word


_FACTOR = re.compile(r"([/*]?)([a-z$]+)(?:\^([1-4]))?")


@lru_cache(maxsize=1024)
def unit_size(unit: str) -> tuple[Fraction, tuple[tuple[str, int], ...]] | None:
    """Return the size and the dimensions of a canonical unit such as ``km/h`` or ``cm^2``; None if unknown.

    Two units with the same dimensions measure the same thing, and their sizes compare.
    """
    size, powers, position = Fraction(1), dict[str, int](), 0
    while position < len(unit):
        match = _FACTOR.match(unit, position)
        if match is None or match[2] not in _DIMENSIONS or (position > 0 and not match[1]):
            return None
        position = match.end()
        dimension, one = _DIMENSIONS[match[2]]
        power = int(match[3] or 1) * (-1 if match[1] == "/" else 1)
        size *= Fraction(one) ** power
        powers[dimension] = powers.get(dimension, 0) + power
    return (size, tuple(sorted(powers.items()))) if powers else None
