"""What can be run of a page: its Python blocks and its `aipo` commands.

A block that cannot run here has the comment `<!-- not run: REASON -->` on the line before it.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    if "results" not in path.relative_to(ROOT).parts
)
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>[a-z]*)[^\n]*\n(?P<code>.*?)^```$", re.M | re.S
)


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    code: str
    reason: str | None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start("code")) + 1, found["language"], found["code"], found["reason"])
        for found in FENCE.finditer(text)
    ]


def commands(page: Path) -> list[str]:
    """What stands behind `aipo` in the page's indented blocks and in its shell blocks."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    lines = re.findall(r"^    aipo (.*)$", text, re.M)
    for block in blocks(page):
        if block.language in ("bash", "sh", "console") and block.reason is None:
            lines += re.findall(r"^(?:\$ )?aipo (.*)$", block.code, re.M)
    return [re.split(r"\s[|>]", line.split("  #")[0].split(" ...")[0])[0] for line in lines]
