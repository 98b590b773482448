"""The closed lists of words that an answer may have beside its mathematics; any other word is not read."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

TABLES: dict[str, Any] = json.loads(Path(__file__).with_name("tables.json").read_text(encoding="utf-8"))
"""Words, characters and commands that are data rather than rules."""


def _plural(noun: str) -> str:
    if noun in TABLES["plurals"]:
        return str(TABLES["plurals"][noun])
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh", "ato", "ango")) else "s")


COUNTED = frozenset(word for noun in TABLES["counted things"] for word in (noun, _plural(noun)))
"""Nouns that may stand behind a number as what is counted."""
DESCRIBING = frozenset[str](TABLES["describing"])
"""Adjectives that may stand before such a noun."""

# -- numbers in words
# ------------------------------------------------------------------------------------------------------

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)
_SMALL = {word: value for value, word in enumerate((_ONES + " eighteen nineteen").split())}
_TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * value for value, word in enumerate(_TENS_WORDS.split(), 2)}
SCALES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
}  # fmt: skip
"""Words that multiply the number before them."""
_PARTS_OF = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100,
}  # fmt: skip
NUMBER_WORDS = frozenset([*_SMALL, *_TENS, *SCALES])


def number_in_words(words: str) -> Fraction | None:
    """Return the number that words say ("twenty-five", "two hundred and six", "two thirds"); None for anything else."""
    parts = words.casefold().replace("-", " ").split()
    if parts == ["half"]:
        return Fraction(1, 2)
    if len(parts) > 1 and parts[-1].removesuffix("s") in _PARTS_OF:
        top = Fraction(1) if parts[0] in ("a", "an") else number_in_words(" ".join(parts[:-1]))
        return top / _PARTS_OF[parts[-1].removesuffix("s")] if top is not None and top < 20 else None
    if not parts or len(parts) > 24 or not any(part in NUMBER_WORDS for part in parts):
        return None
    total, group, last, previous = 0, 0, 10**15, ""
    for index, part in enumerate(parts):
        if part in ("a", "an") and index == 0 and len(parts) > 1 and parts[1] in SCALES:
            group = 1
        elif part == "and" and previous in SCALES and index + 1 < len(parts):
            pass
        elif part in _SMALL and (
            previous in SCALES or previous in ("", "and") or (previous in _TENS and 0 < _SMALL[part] < 10)
        ):
            group += _SMALL[part]
        elif part in _TENS and (previous in SCALES or previous in ("", "and")):
            group += _TENS[part]
        elif part in ("hundred", "dozen") and 0 < group < 100:
            group *= SCALES[part]
        elif part in SCALES and SCALES[part] < last and 0 < group < 1000:
            total, group, last = total + group * SCALES[part], 0, SCALES[part]
        else:
            return None
        previous = part
    return Fraction(total + group)


# -- what introduces an answer
# ------------------------------------------------------------------------------------------------------

_STARTERS = "so thus hence therefore then and we have get obtain find finally"
_SUBJECTS = " ".join({*TABLES["subjects"], *(COUNTED - {*TABLES["fractional words"]})})
_JOINTS = "the a an our its this that these of for in to which there it all such his her their"
_VERBS = "is are was equals equal be has have gets makes costs gives get"
_DEGREE = "approximately exactly about roughly to simply just therefore thus also then"


def _any_of(words: str) -> str:
    return "|".join(sorted(set(words.split()), key=len, reverse=True))


_INTRODUCTION = re.compile(
    rf"(?:(?:{_any_of(_STARTERS)})[\s,:]+)*"
    rf"(?:(?:(?:{_any_of(_JOINTS)}|of (?:the|a) square|{_any_of(_SUBJECTS)})\s+){{1,14}}(?:{_any_of(_VERBS)})"
    rf"(?:\s+(?:{_any_of(_DEGREE)}))*"
    rf"|(?:{_any_of(_DEGREE)})|(?:the\s+)?(?:final\s+)?(?:answer|result|solution|total|value|area|volume)"
    rf"|(?:{_any_of(_VERBS)})(?:\s+(?:{_any_of(_DEGREE)}))*|(?:{_any_of(_STARTERS)}))?\s*[:,=]?",
    re.IGNORECASE,
)
_LABEL = re.compile(r"\([A-Z]\)")


def introduces(words: str) -> bool:
    """Whether words before a formula only introduce it: "the area is" and a label "(A)" do, "half of" does not."""
    words = words.strip()
    if _LABEL.fullmatch(words):
        return True
    return len(words) <= 200 and _INTRODUCTION.fullmatch(words) is not None
