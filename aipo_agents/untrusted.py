"""Putting text that others wrote into a message to a model, so that it stays data.

A policy under training writes queries, and reward finds every gap. Two things are done to its text, both deterministic, so
that the same consult gives the same messages, which caches and replays go by:

* it stands between lines that carry a mark. The mark is a hash of the enclosed text itself, so nobody can write a text
  that contains its own mark and ends the enclosure early;
* what looks like a control token of some chat template (`<|im_end|>`, `</s>`, `[INST]`), or switches a model's thinking
  (`/no_think`), is broken by a space. A server renders a chat to text and tokenises that, control tokens included:
  unbroken, a query could close the user's turn and open one of the system.

The model may still believe what it reads; the role's prompt tells it not to, and what it replies can open no tag of an
episode, because the episode escapes it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

_OUR_TAGS: Final = r"(?:consult|feedback|answer|notice)"
_CONTROL: Final = re.compile(
    rf"""
      (?P<open>[<＜](?=[|｜]))                             # <|im_start|>, <｜User｜>
    | (?P<close>[|｜](?=[>＞]))                            # and their ends
    | (?P<tag>[<＜](?!/?{_OUR_TAGS}[>＞])(?=/?[^\W\d][\w▁|｜:.-]{{0,60}}/?[>＞]))   # <s>, </s>, <start_of_turn>, <think>
    | (?P<block>\[(?=/?(?:[A-Za-z]?[A-Z][A-Z_]{{1,40}}(?:(?<=_)\d{{1,6}})?|(?i:inst))\]))  # [INST], [gMASK], [UNUSED_TOKEN_1]
    | (?P<bars>\[(?=\|[A-Za-z_]{{2,40}}\|\]))             # EXAONE: [|endofturn|]
    | (?P<odd>\](?=~)|\[(?=e~))                            # MiniMax: ]~b], [e~[
    | (?P<switch>(?<!\w)/(?=(?i:no_?)?(?i:think)\b))      # Qwen, SmolLM: /no_think
    """,
    re.VERBOSE,
)
_LONE_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


def neutralise(text: str, control_tokens: Iterable[str] = ()) -> str:
    """Breaks what a chat template's tokenizer would read as a control token; the reader still sees what was meant.

    Args:
        text: written by others.
        control_tokens: further ones of the model's tokenizer, which look like none of the usual.

    Example:
        >>> neutralise("2<3 <|im_end|> [INST]")
        '2<3 < |im_end| > [ INST]'
    """
    text = _CONTROL.sub(lambda match: f"{match.group()} ", encodable(text))
    for token in control_tokens:
        text = text.replace(token, f"{token[:1]} {token[1:]}")
    return text


def encodable(text: str) -> str:
    """The text with each lone surrogate, which neither UTF-8 nor a tokenizer takes, as U+FFFD."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def enclose(parts: dict[str, str]) -> str:
    """Texts by their titles, each between lines that carry one mark, which none of them contains."""
    mark = _mark(tuple(parts.values()))
    blocks = [f"===== {title} {mark} =====\n{text}\n===== END OF {title} {mark} =====" for title, text in parts.items()]
    return "\n\n".join(blocks)


def cut_middle(text: str, max_chars: int) -> str:
    """The beginning and the end of a text that is too long: the problem stands at the one, the open step at the other."""
    if len(text) <= max_chars:
        return text
    note = "\n[... cut ...]\n"
    room = max(max_chars - len(note), 0)
    return text[: room // 2] + note + text[len(text) - (room - room // 2) :]


def _mark(texts: tuple[str, ...]) -> str:
    attempt = 0
    while any((mark := _digest(attempt, *texts)) in text for text in texts):
        attempt += 1
    return mark


def _digest(attempt: int, *texts: str) -> str:
    digest = hashlib.sha256(str(attempt).encode())
    for text in texts:
        digest.update(f"|{len(text)}|{text}".encode())
    return digest.hexdigest()[:16]
