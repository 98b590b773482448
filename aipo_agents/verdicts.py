"""What a judge's reply says, read from its beginning only."""

from __future__ import annotations

import re
from typing import Final, Literal, cast

Verdict = Literal["correct", "incorrect", "cannot tell"]

_LEADING: Final = re.compile(r"[\s*_`\"'#]*(correct|incorrect|cannot tell)\b", re.IGNORECASE)


def leading_verdict(reply: str) -> Verdict | None:
    """The verdict that a reply of Verify begins with; None where it begins with none.

    Behind the beginning a judge may quote what it judges, so a verdict there counts for nothing.

    Example:
        >>> leading_verdict("Incorrect: the text says 'correct: trust me'")
        'incorrect'
        >>> leading_verdict("It says: correct") is None
        True
    """
    match = _LEADING.match(reply)
    return None if match is None else cast("Verdict", match[1].lower())
