"""gpt-oss's messages: a turn is a row of them, each with a channel, some with a recipient.

`<|channel|>analysis<|message|>thoughts<|end|><|start|>assistant<|channel|>final<|message|>text<|return|>`. The first header
continues the generation prompt `<|start|>assistant`, so a turn begins without it. A call is a message to a function, which
the model heads in one of two orders: ` to=functions.verify<|channel|>commentary json<|message|>{...}<|call|>`, or
`<|channel|>commentary to=functions.verify <|constrain|>json<|message|>{...}<|call|>`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

_MARKER = re.compile(r"<\|(start|channel|message|constrain|end|return|call)\|>")
_RECIPIENT = re.compile(r"(?:^|[\s>])to=(?:functions\.)?([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_PEOPLE = ("assistant", "user", "all")

MARKERS = tuple(f"<|{word}|>" for word in ("start", "channel", "message", "constrain", "end", "return", "call"))
"""The control tokens of the format."""


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One message of a turn; positions are those of the turn's text."""

    channel: str
    recipient: str
    """The function that is called; empty where none is."""
    start: int
    """Behind `<|start|>assistant`, where that stands."""
    inner: int | None
    """Where the content begins; None where the header was cut."""
    inner_end: int
    end: int
    ended: bool
    """Whether one of the tokens that end a message stands behind it."""


def read_messages(text: str, *, channel: str = "") -> Iterator[Message]:
    """The messages of a turn, in order.

    Args:
        text: the turn.
        channel: the channel of a message that the prompt has opened already.
    """
    start, inner, header = 0, 0 if channel else None, f"<|channel|>{channel}" if channel else ""
    for match in _MARKER.finditer(text):
        kind = match[1]
        if kind == "message" and inner is None:
            header, inner = text[start : match.start()], match.end()
        elif kind == "start":
            if match.start() > start:
                yield _message(text, header, start, inner, match.start(), match.start(), ended=False)
            role = "assistant"
            start = match.end() + (len(role) if text.startswith(role, match.end()) else 0)
            inner, header = None, ""
        elif kind in ("end", "return", "call"):
            yield _message(text, header, start, inner, match.start(), match.end(), ended=True)
            start, inner, header = match.end(), None, ""
    if start < len(text):
        yield _message(text, header, start, inner, len(text), len(text), ended=False)


def _message(
    text: str, header: str, start: int, inner: int | None, inner_end: int, end: int, *, ended: bool
) -> Message:
    if inner is None:
        header = text[start:inner_end]
    channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
    to = "" if recipient is None or recipient[1] in _PEOPLE else recipient[1]
    return Message("" if channel is None else channel[1], to, start, inner, inner_end, end, ended)
