"""Finds the program in a text that the policy wrote."""

from __future__ import annotations

_LONGEST_TEXT = 1_000_000
_PYTHON = frozenset({"python", "python3", "py", "py3"})


def extract_code(text: str) -> str | None:
    """Returns the last fenced block marked as Python, or, when none is marked, the last fenced block.

    Fences are lines that begin with three or more backquotes; a block ends at a bare fence of at least that length.
    An unfinished last block counts only if it is marked as Python and no finished one is (a text that was cut off).
    Only ever pass text that the policy wrote. Linear in the length of the text, of which the last million
    characters are looked at.

    Args:
        text: what the policy wrote.
    """
    marked: str | None = None
    plain: str | None = None
    fence, language, block = "", "", list[str]()
    for line in text[-_LONGEST_TEXT:].split("\n"):
        bare = line.strip()
        ticks = len(bare) - len(bare.lstrip("`"))
        if not fence:
            if ticks >= 3 and "`" not in bare[ticks:]:
                words = bare[ticks:].strip().lower().split()
                fence, language, block = bare[:ticks], words[0] if words else "", []
        elif ticks >= len(fence) and ticks == len(bare):
            if language in _PYTHON:
                marked = "\n".join(block)
            elif not language:
                plain = "\n".join(block)
            fence = ""
        else:
            block.append(line.removesuffix("\r"))
    if marked is None and fence and language in _PYTHON:
        marked = "\n".join(block)
    return marked if marked is not None else plain
