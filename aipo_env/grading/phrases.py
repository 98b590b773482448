"""Whole answers that are said in words but mean a set: all real numbers, no solution."""

from __future__ import annotations

import re

from aipo_env.grading.vocabulary import number_in_words

_WRAPPER = re.compile(r"\\text\{([^{}]*)\}")
_REALS = re.compile(
    r"(?:the )?(?:set of )?(?:all|any|every|the)? ?real(?:s| numbers?| values?|(?<=(?:all|any) real) [a-z])(?: [a-z])?"
    r"(?:,? (?:except|other than|excluding|but)(?: for)? (?P<without>[^A-Za-z]{1,80}(?:and [^A-Za-z]{1,40})?))?"
)
_NOTHING = re.compile(r"(?:there (?:is|are) )?no (?:real )?solutions?|(?:the )?empty set")
_LIMIT = re.compile(r"(?:the )?(?:limit )?does not exist|dne")
_LETTERS_ONLY = re.compile(r"[A-Za-z -]{3,120}|\\text\{[A-Za-z -]{3,120}\}")
_HINT = re.compile("real|olution|mpty|exist|dne", re.IGNORECASE)


def spell_out(text: str) -> str:
    r"""Return the notation for an answer given in words: "all real numbers" is ``\mathbb{R}``.

    Only a text that is such a phrase from end to end is touched.

    Args:
        text: a cleaned answer.
    """
    if len(text) > 200:
        return text
    if _LETTERS_ONLY.fullmatch(text):
        number = number_in_words(_WRAPPER.sub(r"\1", text))
        if number is not None:
            return str(number)
    if _HINT.search(text) is None:
        return text
    words = " ".join(_WRAPPER.sub(r"\1", text).lower().split()).rstrip(".")
    if _NOTHING.fullmatch(words):
        return "\\emptyset"
    if _LIMIT.fullmatch(words):
        return "\\text{does not exist}"
    match = _REALS.fullmatch(words)
    if match is None:
        return text
    without = match["without"]
    if without is None:
        return "\\mathbb{R}"
    listed = without.replace("and", ",").strip(" ,")
    return f"\\mathbb{{R}} \\setminus \\{{{listed}\\}}"
