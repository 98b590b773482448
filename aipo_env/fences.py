"""Fenced code blocks in a text, found in time linear in its length."""

from __future__ import annotations

import dataclasses

_PYTHON = frozenset({"python", "python3", "py", "py3"})


@dataclasses.dataclass(frozen=True, slots=True)
class FencedBlock:
    """A block between fences and where it stands."""

    code: str
    """What stands between the fences."""
    start: int
    """Position of the opening fence, in characters of the text."""
    end: int
    """Position behind the closing fence; the end of the text where the block is unfinished."""


def last_program(text: str) -> FencedBlock | None:
    """The last fenced block marked as Python, or, when none is marked, the last fenced block without a mark.

    Fences are lines that begin with three or more backquotes; a block ends at a bare fence of at least that length.
    An unfinished last block counts only if it is marked as Python and no finished one is (a text that was cut off).

    Args:
        text: what the policy wrote.
    """
    marked: FencedBlock | None = None
    plain: FencedBlock | None = None
    fence, language, start, block = "", "", 0, list[str]()
    position = 0
    for line in text.split("\n"):
        bare = line.strip()
        ticks = len(bare) - len(bare.lstrip("`"))
        if not fence:
            if ticks >= 3 and "`" not in bare[ticks:]:
                words = bare[ticks:].strip().lower().split()
                fence, language, block = bare[:ticks], words[0] if words else "", []
                start = position + len(line) - len(line.lstrip())
        elif ticks >= len(fence) and ticks == len(bare):
            found = FencedBlock("\n".join(block), start, position + len(line.rstrip()))
            if language in _PYTHON:
                marked = found
            elif not language:
                plain = found
            fence = ""
        else:
            block.append(line.removesuffix("\r"))
        position += len(line) + 1
    if marked is None and fence and language in _PYTHON:
        marked = FencedBlock("\n".join(block), start, len(text))
    return marked if marked is not None else plain
