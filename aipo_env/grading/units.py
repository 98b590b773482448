"""Units: which words are units, and when two spellings are the same unit."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from aipo_env.grading.vocabulary import COUNTED, DESCRIBING, SCALES, TABLES

# Sizes are in the smallest unit of each dimension; all exact.
_DIMENSIONS: dict[str, tuple[str, int]] = {
    unit: (name, size) for name, sizes in TABLES["unit sizes"].items() for unit, size in sizes.items()
}
_CANONICAL: dict[str, str] = {word: name for name, words in TABLES["unit spellings"].items() for word in words.split()}
UNIT_WORDS = frozenset(
    {word for name in _CANONICAL if name.isalpha() for word in (name, name + "s")}
    | {"square", "cubic", "times", "yuan", "euro", "euros", "inches", "feet"}
    | COUNTED
)
"""Words that are read as a unit when they stand behind a number."""

_SQUARE = re.compile(r"\b(?:square|sq\.?)\s+(\w+)")
_CUBIC = re.compile(r"\b(?:cubic|cu\.?)\s+(\w+)")


_BESIDE = DESCRIBING | frozenset(
    ("sq", "cu", "per", "an", "a", "of", "old", "each", "total", "altogether", "celsius", "fahrenheit", "percentage")
)
_PARTS = re.compile(r"\^-?[1-4]|[A-Za-z]+2?|[$%/*.()]|\s+")
_WORD = re.compile(r"[A-Za-z]+")


def unit_words(text: str) -> frozenset[str]:
    """Return the words of a gold, in lower case: an answer may use them as its unit."""
    return frozenset(word.casefold() for word in _WORD.findall(text) if len(word) > 1) - frozenset(SCALES)


def is_unit(words: str, own: frozenset[str] | None) -> bool:
    """Whether words behind a number are a unit or the things counted.

    Args:
        words: what stands behind the number.
        own: words that the gold uses, and so an answer may; None for a gold itself, whose words are trusted.
    """
    words = words.replace("{", "").replace("}", "")
    if own is None:
        return len(words) <= 40 and words.count(" ") < 5 and not _DOUBT.search(words)
    position, last, measures = 0, "", False
    while position < len(words):
        match = _PARTS.match(words, position)
        if match is None or len(words) > 80:
            return False
        position, part = match.end(), match.group()
        if part[0].isalpha():
            word = part.rstrip("2").casefold()
            if word in ("squared", "cubed"):
                if not measures:
                    return False
            elif word not in UNIT_WORDS and word not in _BESIDE and word not in own and part not in _LETTERS:
                return False
            last = word
            measures = word in _CANONICAL or word.removesuffix("s") in _CANONICAL or word in own
        elif part[0] == "^" and not measures:
            return False  # the power of a number, or of things that are counted
    return last not in _INCOMPLETE


_INCOMPLETE = frozenset(("square", "cubic", "sq", "cu", "per", "a", "an", "of"))
_LETTERS = frozenset("NJWVKCFLm")
_DOUBT = re.compile(
    r"(?<![A-Za-z^{])\d|\b(?:not|no|or|nor|wrong|but|maybe|perhaps|except|without|never|neither|either|than|is|are)\b|n't\b",
    re.IGNORECASE,
)


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
