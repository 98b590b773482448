"""Whether what a submission produced is what was expected; runs in the parent, on text and plain JSON types.

Rules:
    standard output: both texts are stripped and split into lines, each line is stripped. There must be as many
        lines, and each pair must be equal as text or, split at blanks, equal number by number as exact decimals
        (``1.50`` equals ``1.5``; ``0.1`` does not equal ``0.1000001``). These are LiveCodeBench's rules, but for
        numbers that are not written in ASCII digits.
    values: equal as JSON; a tuple arrives as a list. Two numbers are equal by value (``3`` equals ``3.0``, and
        ``true`` equals ``1`` as in Python). Where the expected number is written as a float, a difference of at
        most 1e-5, or of 1e-9 of its size, is accepted: answers of LeetCode are written with five decimals.
"""

from __future__ import annotations

import decimal
import json
import math
import re
from typing import Any

ABSOLUTE_TOLERANCE = 1e-5
RELATIVE_TOLERANCE = 1e-9
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?", re.ASCII)
_LONGEST_INT = 4000
# No equal text is longer than this many times the expected one ("1e300" may be returned as an integer).
_LONGEST_RATIO = 64
_LONGEST_EXTRA = 1024


def difference_in_text(got: str, expected: str) -> str | None:
    """Returns how a program's output differs from the expected one, without quoting either; None if it does not."""
    got, expected = got.strip(), expected.strip()
    if got == expected:
        return None
    if got.count("\n") != expected.count("\n"):
        return "no output" if not got else "the output has another number of lines"
    got_lines, expected_lines = got.split("\n"), expected.split("\n")
    for number, (mine, theirs) in enumerate(zip(got_lines, expected_lines, strict=True), start=1):
        if mine.strip() != theirs.strip() and (too_long(mine, theirs) or not _equal_decimals(mine, theirs)):
            return f"line {number} of the output differs" if got else "no output"
    return None


def too_long(got: str | bytes, expected: str) -> bool:
    """Whether ``got`` is too long to be equal, so that comparing it would be wasted time and memory."""
    return len(got) > _LONGEST_RATIO * len(expected) + _LONGEST_EXTRA


def difference_in_value(got: Any, expected: Any) -> str | None:
    """Returns how two JSON values differ, without quoting either; None if they do not."""
    pending = [(got, expected)]
    while pending:
        mine, theirs = pending.pop()
        if isinstance(theirs, list) and isinstance(mine, list):
            if len(mine) != len(theirs):
                return "a list has another length"
            pending += zip(mine, theirs, strict=True)
        elif isinstance(theirs, dict) and isinstance(mine, dict):
            if mine.keys() != theirs.keys():
                return "an object has other keys"
            pending += [(mine[key], theirs[key]) for key in theirs]
        elif isinstance(theirs, float) and isinstance(mine, int | float):
            if not _close(mine, theirs):
                return "a number differs"
        elif isinstance(theirs, int) and isinstance(mine, int | float):
            if mine != theirs:
                return "a number differs"
        elif type(mine) is not type(theirs):
            return "a value has another type"
        elif mine != theirs:
            return "a value differs"
    return None


def parse_json(text: str | bytes) -> Any:
    """Parses JSON; integers too long to be converted in linear time stay tagged text, which is as exact.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_int=_parse_int)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _parse_int(digits: str) -> int | str:
    return int(digits) if len(digits) <= _LONGEST_INT else f"integer {digits}"


def _equal_decimals(mine: str, theirs: str) -> bool:
    my_words, their_words = mine.split(), theirs.split()
    return len(my_words) == len(their_words) and all(
        mine == theirs or _same_number(mine, theirs) for mine, theirs in zip(my_words, their_words, strict=True)
    )


def _same_number(mine: str, theirs: str) -> bool:
    if not (_NUMBER.fullmatch(mine) and _NUMBER.fullmatch(theirs)):
        return False
    return decimal.Decimal(mine) == decimal.Decimal(theirs)


def _close(mine: float, theirs: float) -> bool:
    try:
        return mine == theirs or math.isclose(mine, theirs, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    except OverflowError:  # an integer beyond every float
        return False
