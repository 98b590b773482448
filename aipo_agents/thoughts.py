"""What a helper's model thought, parted from what it replied."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

from aipo_env.dialects.base import tokens_covering
from aipo_env.dialects.harmony import read_messages
from aipo_env.dialects.thinking import HARMONY, THOUGHTS, Thought, find_thought

_CLOSER: Final = THOUGHTS["think"][1]


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """A text in two parts."""

    reasoning: str
    """Without the markers around it; empty where the model did not think."""
    reply: str


def split_reasoning(text: str, told: str = "", opened: bool | str = False) -> Parts:
    """Parts what a model wrote.

    Args:
        text: what came as the message's content; thoughts may stand in it.
        told: what came apart from it as the thoughts. Then `text` holds none, unless it opens one itself (llama.cpp's
            `deepseek-legacy` sends them twice).
        opened: the style of the thought that the prompt opened (`opened_by`); True for `<think>`.
    """
    thought = _thought(text, told, opened)
    if thought is None:
        return Parts(told, _final(text))
    opener, closer = THOUGHTS[thought.style]
    inside = text[thought.start : thought.end].removeprefix(opener).removesuffix(closer).strip()
    behind = text[thought.end :]
    return Parts(told or inside, _final(behind) if thought.style == HARMONY else behind.lstrip())


def count_reasoning(ids: Sequence[int], decode: Callable[[Sequence[int]], str], opened: bool | str = False) -> int:
    """How many of a message's ids are thoughts, markers included."""
    thought = _thought(decode(ids), "", opened)
    return 0 if thought is None else tokens_covering(decode, ids, thought.end)


def _thought(text: str, told: str, opened: bool | str) -> Thought | None:
    thought = find_thought(text, False if told else opened)
    if thought is None and not told and (end := text.find(_CLOSER)) >= 0:
        # Opened in the prompt: of that the reply says nothing.
        return Thought(0, end + len(_CLOSER), True)
    return thought


def _final(text: str) -> str:
    """gpt-oss's word to the user; any other text as it is."""
    if "<|channel|>" not in text:
        return text
    said = [message for message in read_messages(text) if message.channel == "final" and message.inner is not None]
    return text[said[-1].inner : said[-1].inner_end] if said else ""
