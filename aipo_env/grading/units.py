"""Units: which words are units, and when two spellings are the same unit."""

from __future__ import annotations

import re

_SPELLINGS = {
    "cm": "cm centimeter centimetre", "mm": "mm millimeter millimetre", "m": "m meter metre",
    "km": "km kilometer kilometre", "in": "in inch inches inche", "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile",
    "kg": "kg kilogram", "g": "g gram", "mg": "mg milligram", "lb": "lb pound", "oz": "oz ounce",
    "s": "s sec second", "min": "min minute", "h": "h hr hour", "d": "day", "week": "week", "month": "month",
    "year": "yr year", "l": "l liter litre", "ml": "ml milliliter millilitre",
    "$": "$ dollar usd", "cent": "cent", "mi/h": "mph", "deg": "deg degree", "rad": "rad radian", "%": "% percent pct",
    "unit": "unit", "n": "newton", "j": "joule", "w": "watt", "v": "volt", "hz": "hz hertz",
}  # fmt: skip
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
