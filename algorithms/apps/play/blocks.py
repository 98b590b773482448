"""Segments -> blocks on the screen, in their source's colour."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.text import Text

from aipo_env import markup
from aipo_env.trajectory import Segment, Source

HELPER_COLORS = {"verify": "#e5c07b", "knowledge": "#61afef", "reasoning": "#c678dd"}
OTHER_COLORS = ("#56b6c2", "#d19a66", "#f07fb0", "#a3be8c")
"""For helpers of other names, in the order in which the environment has them."""
PROMPT_COLOR, POLICY_COLOR, NOTICE_COLOR = "#9aa5b1", "#7ec699", "#e06c75"

_CONSULT = re.compile(r"<consult agent=\"([\w-]+)\">(.*?)</consult>", re.DOTALL)
_ANSWER = re.compile(r"\\boxed|</?answer>")


def helper_color(name: str, helpers: Sequence[str]) -> str:
    """A helper's colour: of its role, else one of its own."""
    others = [helper for helper in helpers if helper not in HELPER_COLORS]
    if name in HELPER_COLORS or name not in others:
        return HELPER_COLORS.get(name, NOTICE_COLOR)
    return OTHER_COLORS[others.index(name) % len(OTHER_COLORS)]


def segment_color(segment: Segment, helpers: Sequence[str]) -> str:
    """The colour of whoever wrote a segment."""
    if segment.source is Source.AGENT:
        return helper_color(segment.agent, helpers)
    colors = {Source.PROMPT: PROMPT_COLOR, Source.POLICY: POLICY_COLOR}
    return colors.get(segment.source, NOTICE_COLOR)


def segment_label(segment: Segment, you: str, policy: str) -> str:
    """Who wrote a segment, in words; colour is never the only sign.

    Args:
        segment: the segment.
        you: the role that the person plays.
        policy: the policy's name, where the person does not play it.
    """
    if segment.source is Source.PROMPT:
        return "problem"
    if segment.source is Source.POLICY:
        return "you" if you == "policy" else policy
    if segment.source is Source.AGENT:
        return f"{segment.agent} (you)" if segment.agent == you else segment.agent
    return "notice"


def segment_text(segment: Segment, helpers: Sequence[str]) -> Text:
    """A segment's text; what the policy wrote to helpers stands in their colours, and the markup of others is left out."""
    text = segment.text
    if segment.source is Source.AGENT:
        text = text.removeprefix(markup.feedback_open(segment.agent)).removesuffix(markup.FEEDBACK_CLOSE)
    elif segment.source is Source.TEMPLATE:
        text = text.removeprefix(markup.NOTICE_OPEN).removesuffix(markup.NOTICE_CLOSE)
    # What was asked for stands in its source's colour; the problem, which is long, in the terminal's own.
    color = "" if segment.source is Source.PROMPT else segment_color(segment, helpers)
    shown = Text(text.strip() or "(nothing)", style=color)
    if segment.source is Source.POLICY:
        for found in _CONSULT.finditer(shown.plain):
            shown.stylize(helper_color(found.group(1), helpers), *found.span())
            shown.stylize("bold", *found.span(2))
        for found in _ANSWER.finditer(shown.plain):
            shown.stylize("bold", *found.span())
    return shown
