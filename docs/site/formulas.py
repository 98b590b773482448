"""A hook of the site: fences of TeX (```math) become MathML, which browsers set without a script and without another host."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

FENCE = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Sets the formulas of one page."""
    return FENCE.sub(lambda match: f'<div class="formula">{convert(match[1].strip(), display="block")}</div>', markdown)
