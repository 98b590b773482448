"""Puts the page together: one HTML file with its style, its program and its data in it.

Nothing in it comes from anywhere else, and nothing of a trace is ever read as HTML: the data lies compressed in inert
elements, the program writes text nodes alone, and the page's own policy (CSP, Trusted Types) forbids anything else.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from importlib import resources
from typing import Literal

from algorithms.apps.html_pages import content_policy, page_head, source_hash
from algorithms.apps.viewer.store import TraceStore

_SCRIPTS = ("dom", "data", "filter", "list", "tokens", "conversation", "views", "keys", "app")
_STYLES = ("base", "conversation")

Mode = Literal["file", "served"]


def policy(mode: Mode) -> str:
    """The Content-Security-Policy of the page: its own script and style by their hashes, and no other source of anything."""
    return content_policy(
        {
            "script-src": source_hash(_script()),
            "style-src": source_hash(_style()),
            "connect-src": "'self'" if mode == "served" else "'none'",
            "require-trusted-types-for": "'script'",
            "trusted-types": "'none'",
        }
    )


def build_page(store: TraceStore, title: str) -> Iterator[str]:
    """The page with all that the store holds, in parts, so that a large one is never whole in memory.

    Args:
        store: what is shown.
        title: of the page.
    """
    yield _head(title, "file", _block("index", store.index()))
    # Behind the program: the list is on the screen before these are read.
    for name, texts, tokens in store.chunks():
        yield _block(f"texts-{name}", texts)
        yield _block(f"tokens-{name}", tokens)
    yield "</body>\n</html>\n"


def served_page(title: str) -> str:
    """The page that fetches its data from where it came from.

    Args:
        title: of the page.
    """
    return _head(title, "served", "") + "</body>\n</html>\n"


def _head(title: str, mode: Mode, index: str) -> str:
    head = page_head(title, policy(mode), _style())
    return f'{head}<body data-mode="{mode}">\n{_part("body.html")}\n{index}<script>{_script()}</script>\n'


def _block(name: str, value: object) -> str:
    """Data as an element that no browser reads as anything: base64 holds no markup."""
    return f'<script type="text/plain" id="{name}">{base64.b64encode(pack(value)).decode()}</script>\n'


def pack(value: object) -> bytes:
    """JSON, compressed; the same bytes for the same value."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return gzip.compress(text.encode(), compresslevel=6, mtime=0)


def _script() -> str:
    return '"use strict";\n' + "\n".join(_part(f"{name}.js") for name in _SCRIPTS)


def _style() -> str:
    return "\n".join(_part(f"{name}.css") for name in _STYLES)


def _part(name: str) -> str:
    return (resources.files("algorithms.apps.viewer") / "page_parts" / name).read_text(encoding="utf-8")
