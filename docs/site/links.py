"""A hook of the site: links that leave docs/ lead to the source's address, or become text where none is set.

Pages link into the tree by relative path (`../algorithms/config.py`), which works where the repository is browsed. The
site does not hold these files. A link to a file that does not exist is an error in either case.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")
log = logging.getLogger("mkdocs.plugins.links")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Rewrites the links of one page; a missing target is a warning, which `strict` turns into an error."""
    docs = Path(config["docs_dir"]).resolve()
    source_url = str(config["extra"].get("source_url") or "").rstrip("/")
    return rewrite(markdown, page.file.src_uri, docs, source_url, warn=log.warning)


def rewrite(markdown: str, page: str, docs: Path, source_url: str, warn: Any) -> str:
    """The page's text with links out of `docs` rewritten.

    Args:
        markdown: the page.
        page: its path below `docs`, with forward slashes.
        docs: the folder of the pages; its parent is the root of the tree.
        source_url: where the tree is browsed; empty where nowhere.
        warn: called with a message for each target that does not exist.
    """

    def one(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(docs.name, posixpath.dirname(page), target))
        inside = path.startswith(docs.name + "/") and path.endswith((".md", ".svg", ".png"))
        if inside:
            return match[0]
        if path.startswith("..") or not (docs.parent / path).exists():
            warn(f"{page}: the link {target!r} leads to no file; expected {path} in the tree")
            return match[0]
        return f"[{text}]({source_url}/{path}{anchor})" if source_url else text

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(one, part) for part in parts)
