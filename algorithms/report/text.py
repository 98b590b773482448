"""Text on its way into the page."""

from __future__ import annotations

import html
import re

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def escape(text: str) -> str:
    """The text for an element or a quoted attribute; what HTML cannot hold becomes the replacement character."""
    return html.escape(_UNSEEN.sub("\ufffd", text), quote=True)
