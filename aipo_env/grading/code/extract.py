"""Finds the program in a text that the policy wrote."""

from __future__ import annotations

from aipo_env.fences import last_program

_LONGEST_TEXT = 1_000_000


def extract_code(text: str) -> str | None:
    """Returns the last fenced block marked as Python, or, when none is marked, the last fenced block.

    Fences are lines that begin with three or more backquotes; a block ends at a bare fence of at least that length.
    An unfinished last block counts only if it is marked as Python and no finished one is (a text that was cut off).
    Only ever pass text that the policy wrote. Linear in the length of the text, of which the last million
    characters are looked at.

    Args:
        text: what the policy wrote.
    """
    block = last_program(text[-_LONGEST_TEXT:])
    return None if block is None else block.code
