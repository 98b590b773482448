"""What the pages of the viewer and of the report share: each is one HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from algorithms.run_folder import replace

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def escape(text: str) -> str:
    """The text for an element or a quoted attribute; what HTML cannot hold becomes the replacement character."""
    return html.escape(_UNSEEN.sub("\ufffd", text), quote=True)


def content_policy(sources: Mapping[str, str]) -> str:
    """A Content-Security-Policy that allows these sources and nothing else."""
    parts = {"default-src": "'none'", **sources, "base-uri": "'none'", "form-action": "'none'"}
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def source_hash(text: str) -> str:
    """A script or a style as a policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def page_head(title: str, policy: str, style: str) -> str:
    """The page up to its body."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
"""


def write_page(path: Path, parts: Iterable[str]) -> None:
    """Writes a page in parts, so that a large one is never whole in memory; half of one is never there."""

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(parts)

    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, write)
