"""Next steps for problems in words: a product that the words spell out, with numbers of this problem.

Only forms that leave no choice of the numbers are read: "4 shirts at $15 each", "6 hours a day for 3 days", "$20 an hour and
works 8 hours". Which numbers belong together elsewhere depends on what the story means, which rules do not know.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from aipo_agents.render import format_decimal
from aipo_env.grading.vocabulary import NUMBER_WORDS, number_in_words

MAX_CHARS: Final = 2000
MAX_TRANSCRIPT_CHARS: Final = 20_000

_WORD: Final = "|".join(sorted(NUMBER_WORDS, key=len, reverse=True))
_IN_WORDS: Final = re.compile(rf"\b(?:{_WORD})(?:[ -](?:{_WORD}))*\b")
_COUNT: Final = r"(?<![\d.,/$x:-])(?<!\bof )(?<![\dx] )(?P<count>\d{1,12})"
_SIZE: Final = r"\$?(?P<size>\d{0,12}\.?\d{1,12})(?![\d./%])"
_NAME: Final = r"(?!(?:each|and|or|more|less|fewer)\b)[a-z'-]+"
_PERIOD: Final = r"(?:per|an?|each|every) (?P<unit>minute|hour|day|night|week|month|year)"
_FORMS: Final = (
    re.compile(
        rf"{_COUNT} (?:{_NAME} ){{1,3}}?(?:at|for|costing|worth|with|of|containing|holding|that (?:cost|hold|have|contain)) "
        rf"{_SIZE}(?: {_NAME}){{0,2}}? (?:each|apiece)\b(?= ?[.?!,]| and\b)"
    ),
    re.compile(rf"{_SIZE} {_NAME} {_PERIOD} for {_COUNT} (?P=unit)s\b"),
    re.compile(
        rf"{_SIZE} {_PERIOD}[^\d.?!]{{0,20}} works? (?:for )?{_COUNT} (?P=unit)s\b(?! (?:an?|per|each|every)\b)"
    ),
)


def word_step(problem: str, transcript: str = "") -> str | None:
    """A calculation for a problem in words that is not written down yet, or None."""
    text = normal_form(problem[:MAX_CHARS])
    seen = transcript[-MAX_TRANSCRIPT_CHARS:].replace(",", "")
    written = {Fraction(number) for number in re.findall(r"\d{0,12}\.?\d{1,12}", f"{text} {seen}")}
    for form in _FORMS:
        for match in form.finditer(text):
            value = Fraction(match["count"]) * Fraction(match["size"])
            if value and value not in written:
                return f"{match['count']}*{match['size']}={format_decimal(value)} ({match[0].strip()})"
    return None


def normal_form(problem: str) -> str:
    """The problem in lower case, with its numbers in digits."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", problem).lower()
    text = _IN_WORDS.sub(lambda match: str(number_in_words(match[0]) or match[0]), text)
    return re.sub(r"\s+", " ", text)
