"""The entries of a knowledge corpus, and how they are read from files.

A corpus is a folder (or one file) of

- `.md`: every heading of level two or deeper starts an entry; the heading is its title, a first line
  `keywords: a, b` gives further words to find it by, and the rest is its text. A file without such headings
  is one entry.
- `.txt`: one entry; its first line is the title.
- `.jsonl`: one JSON object a line, with `title`, `text` and, if wanted, `keywords` (a string or a list of
  strings).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from aipo_env.errors import DataFormatError, DataNotFoundError

SUFFIXES = (".md", ".txt", ".jsonl")

_HEADING = re.compile(r"^#{2,6}[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
_TOP_HEADING = re.compile(r"\A\s*#[ \t]+(.+?)[ \t]*$", re.MULTILINE)
_KEYWORDS = re.compile(r"\A\s*keywords:[ \t]*(.*)$", re.MULTILINE | re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One piece of knowledge."""

    title: str
    text: str
    keywords: str = ""
    """Further words to find it by; they are not shown."""
    origin: str = ""
    """File and line or number, for messages."""


def load_corpus(path: str | os.PathLike[str]) -> list[Entry]:
    """Reads all entries of a corpus folder (with its sub-folders, in the order of the names) or of one file.

    Raises:
        DataNotFoundError: there is no such path.
        DataFormatError: a file cannot be read as what its name says, or there is no entry at all.
    """
    root = Path(path)
    if not root.exists():
        raise DataNotFoundError(
            f"the knowledge corpus {str(root)!r} does not exist. Pass a folder with .md, .txt or .jsonl "
            f"files, or one such file."
        )
    if root.is_file() and root.suffix.lower() not in SUFFIXES:
        raise DataFormatError(
            f"the knowledge corpus {str(root)!r} is a {root.suffix or 'suffixless'} file; expected .md, "
            f".txt or .jsonl. "
            "Convert it, or pass the folder that holds such files."
        )
    files = (
        [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    )
    entries = [entry for file in files for entry in _read_file(file)]
    if not entries:
        found = f"{len(files)} such files, all of them empty" if files else "no such file"
        raise DataFormatError(
            f"the knowledge corpus {str(root)!r} has no entries: expected .md, .txt or .jsonl files, found {found}."
        )
    return entries


def _read_file(file: Path) -> Iterator[Entry]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataFormatError(
            f"{file} is not UTF-8 text (byte {error.start}). Save it as UTF-8, or take it out of the corpus."
        ) from error
    if file.suffix.lower() == ".jsonl":
        yield from _read_jsonl(file, text)
    elif file.suffix.lower() == ".md":
        yield from _read_markdown(file, text)
    elif text.strip():
        title, _, body = text.strip().partition("\n")
        yield Entry(title.strip(), body.strip() or title.strip(), origin=str(file))


def _read_markdown(file: Path, text: str) -> Iterator[Entry]:
    headings = list(_HEADING.finditer(text))
    if not headings:
        top = _TOP_HEADING.match(text)
        body = text[top.end() :] if top is not None else text
        if body.strip():
            yield _entry(top[1] if top is not None else file.stem, body, str(file))
        return
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        body = text[heading.end() : following.start() if following is not None else len(text)]
        origin = f"{file}:{text.count(chr(10), 0, heading.start()) + 1}"
        entry = _entry(heading[1], body, origin)
        if entry.text:  # a heading that only groups the headings below it is no entry
            yield entry


def _entry(title: str, body: str, origin: str) -> Entry:
    keywords = _KEYWORDS.match(body)
    if keywords is not None:
        body = body[keywords.end() :]
    return Entry(title.strip(), body.strip(), keywords[1].strip() if keywords is not None else "", origin)


def _read_jsonl(file: Path, text: str) -> Iterator[Entry]:
    # Not str.splitlines: it also breaks at characters that JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataFormatError(f"{where} is not JSON: {error}. Expected one object a line.") from error
        if not isinstance(row, dict):
            raise DataFormatError(f"{where} holds a {type(row).__name__}; expected an object with 'title' and 'text'.")
        title, body, keywords = row.get("title"), row.get("text"), row.get("keywords", "")
        if isinstance(keywords, list):
            keywords = ", ".join(str(word) for word in keywords)
        if not (isinstance(title, str) and isinstance(body, str) and title.strip() and body.strip()):
            raise DataFormatError(
                f"{where} needs the non-empty strings 'title' and 'text'; it has the keys {sorted(map(str, row))}."
            )
        if not isinstance(keywords, str):
            raise DataFormatError(f"{where}: 'keywords' must be a string or a list of strings.")
        yield Entry(title.strip(), body.strip(), keywords, where)
