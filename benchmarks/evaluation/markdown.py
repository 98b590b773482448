"""Small pieces of Markdown: tables, percentages, quoted text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], cells: Iterable[Sequence[str]], *, num_left: int = 1) -> list[str]:
    """The lines of a table.

    Args:
        columns: the headings.
        cells: of each row.
        num_left: how many columns are left-aligned, from the left; the others are numbers.
    """
    lines = [list(row) for row in cells]
    assert all(len(line) == len(columns) for line in lines)
    rule = "|" + "---|" * num_left + "---:|" * (len(columns) - num_left)
    return [_row(columns), rule, *map(_row, lines)]


def percent(share: float | None) -> str:
    """A share as a percentage without its sign: 0.4123 -> "41.2"; empty for None."""
    return "" if share is None else f"{100 * share:.1f}"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign: 0.021 -> "+2.1"; never "-0.0"."""
    rounded = f"{100 * difference:+.1f}"
    return "0.0" if rounded in ("+0.0", "-0.0") else rounded.replace("-", "−")


def interval(estimate: float | None, low: float | None, high: float | None) -> str:
    """An estimate with the ends of its interval, in percent: "41.2 (37.0 to 45.4)"; empty where there is none."""
    return "" if estimate is None else f"{percent(estimate)} ({percent(low)} to {percent(high)})"


# An underscore within a word is an underscore; at its edge it would open or close emphasis.
_SPECIAL = re.compile(r"[\\|`*<>\[\]#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def escape(value: object) -> str:
    """Foreign text in a table or a line: it can open no cell, tag, link or code."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(str(value).split()))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
