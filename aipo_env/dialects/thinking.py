"""Where a model thinks in a text: what stands there is a draft, no answer and no reply.

Only what opens a turn is a thought: the chat template's prompt opened it, or the model's first word does. The first closing
marker closes it; a later opener is text. gpt-oss thinks in messages of a channel of their own, see `harmony`.
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from aipo_env.dialects.harmony import read_messages

HARMONY: Final = "harmony"
THOUGHTS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "think": ("<think>", "</think>"),
        "mistral": ("[THINK]", "[/THINK]"),
        "gemma": ("<|channel>thought", "<channel|>"),
        "cohere": ("<|START_THINKING|>", "<|END_THINKING|>"),
        HARMONY: ("<|channel|>analysis<|message|>", "<|end|>"),
    }
)
"""The styles: what opens a thought and what closes it."""

# What openers begin and end with: most turns, and most prompts, are none at a glance.
_FIRST = {opener[0] for opener, _ in THOUGHTS.values()}
FIRST_LETTERS: Final = frozenset(_FIRST | set(string.whitespace))
"""What a text begins with that opens with a thought."""
_LAST = {opener[-1] for opener, _ in THOUGHTS.values()}
_NO_BREAK = re.compile(r"[^\n]")


@dataclasses.dataclass(frozen=True, slots=True)
class Thought:
    """Where a turn's thought stands, its markers included."""

    start: int
    end: int
    closed: bool
    """False where it runs to the turn's end, or to what ended it: it was cut there, or the model forgot to close it."""
    style: str = "think"


def opened_by(prompt: str) -> str | None:
    """The style of the thought that a prompt leaves open at its end; None where it opens none."""
    tail = prompt[-200:].rstrip()
    if tail[-1:] not in _LAST:
        return None
    return next((style for style, (opener, _) in THOUGHTS.items() if tail.endswith(opener)), None)


def find_thought(
    text: str, opened: bool | str = False, *, styles: Iterable[str] = tuple(THOUGHTS), until: Iterable[str] = ()
) -> Thought | None:
    """Where the thought of a turn stands; None where it has none.

    Args:
        text: the turn, control tokens as their texts.
        opened: the style of the thought that the prompt opened (`opened_by`); True for `<think>`.
        styles: the styles that the model may open.
        until: markers that end a thought which nothing closes, such as a family's opener of a call.
    """
    style = "think" if opened is True else opened or ""
    start = 0
    if not style:
        start = len(text) - len(text.lstrip())
        if text[start : start + 1] not in _FIRST:
            return None
        style = next((name for name in styles if text.startswith(THOUGHTS[name][0], start)), "")
        if not style:
            return None
    if style == HARMONY:
        return _harmony_thought(text, opened=bool(opened))
    opener, closer = THOUGHTS[style]
    found = text.find(closer, start if opened else start + len(opener))
    if found >= 0:
        return Thought(start, found + len(closer), True, style)
    return Thought(start, min((at for at in map(text.find, until) if at >= start), default=len(text)), False, style)


def hide_thought(text: str, thought: Thought | None) -> str:
    """The turn with blanks for its thought, and all of gpt-oss's; line breaks and all positions stay."""
    analysis = "<|channel|>analysis" in text
    if thought is None and not analysis:
        return text
    spans = [] if thought is None else [(thought.start, thought.end)]
    if analysis:
        found = read_messages(text)
        spans += [(one.start, one.end) for one in found if one.channel == "analysis" and not one.recipient]
    for start, end in spans:
        text = text[:start] + _NO_BREAK.sub(" ", text[start:end]) + text[end:]
    return text


def _harmony_thought(text: str, *, opened: bool) -> Thought | None:
    """From the first message of thoughts to the last before a call or the final message."""
    thoughts = []
    for message in read_messages(text, channel="analysis" if opened else ""):
        if message.recipient or message.channel == "final":
            break
        if message.channel == "analysis":
            thoughts.append(message)
    if not thoughts:
        return None
    return Thought(thoughts[0].start, thoughts[-1].end, thoughts[-1].ended, HARMONY)
