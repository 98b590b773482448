"""Plain integers, compared exactly and in microseconds."""

from __future__ import annotations

import re

# ASCII digits only, and few enough that int() stays cheap. A final period belongs to the sentence.
_INTEGER = re.compile(r"\s{0,20}\$?\s?(-?)0{0,60}([0-9]{1,60})(?:\.0{0,20})?\s?\$?\.?\s{0,20}", re.ASCII)


def compare_integers(gold: str, answer: str) -> bool | None:
    """Return whether two plain integers are equal; None if either is anything else."""
    right = _INTEGER.fullmatch(answer)
    if right is None:
        return None
    left = _INTEGER.fullmatch(gold)
    if left is None:
        return None
    if left[2] != right[2]:
        return False
    # Minus zero is zero.
    return left[1] == right[1] or left[2] == "0"
