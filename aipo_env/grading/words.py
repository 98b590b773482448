"""Answers that are words, single letters, or times of the day."""

from __future__ import annotations

import re

from aipo_env.grading.nodes import Node, Text
from aipo_env.grading.policy import GradingPolicy
from aipo_env.grading.scalars import Outcome

_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*(?:\\text\{)?\s*([apAP])?\.?\s*([mM])?\.?\s*\}?")
_WRAPPER = re.compile(r"\\text\{([^{}]*)\}")
_WORD = re.compile(r"[^\W_]+")
# Marks that may be dropped between words; what can be an operator may not.
_SOFT = re.compile(r"[A-Za-z\u00c0-\U0010ffff\s.,;:!?'\"()&]+")
_JOINT = re.compile(r"(?<=[^\W\d_]{2})[-/](?=[^\W\d_]{2})")
_COMMAND = re.compile(r"\\(?!text)")
_ARTICLE = re.compile(r"(?:an?|the) (?=\w{3})", re.IGNORECASE)


def compare_words(
    gold_text: str, gold: Node | None, answer_text: str, answer: Node | None, policy: GradingPolicy
) -> Outcome | None:
    """Compare times and words; None if the gold is neither."""
    if policy.clock and ":" in gold_text:
        times = _clock(gold_text), _clock(answer_text)
        if times[0] is not None and times[1] is not None and "".join(_halves(gold_text) + _halves(answer_text)):
            return Outcome(times[0] == times[1], "clock")
    letters = _WRAPPER.sub(r"\1", gold_text).strip(), _WRAPPER.sub(r"\1", answer_text).strip()
    if all(len(text) > 1 and text.isascii() and text.isalpha() for text in letters):
        return Outcome(_same(*letters, policy) or _same_product(*letters), "letters")
    if not (gold is None or isinstance(gold, Text)) or not any(char.isalpha() for char in gold_text):
        return None
    gold_words, answer_words = _plain(gold_text), _plain(answer_text)
    if gold_words is not None and answer_words is not None and _same(gold_words, answer_words, policy):
        return Outcome(True, "text")
    if isinstance(gold, Text) or (gold_words is not None and "\\text" in gold_text):
        return Outcome(False, "text")
    return None


def is_words(text: str) -> bool:
    """Whether a cleaned text is words without mathematics."""
    return _plain(text) is not None and any(char.isalpha() for char in text)


def _plain(text: str) -> str | None:
    """Return the words of a text without markup and punctuation; None if it has mathematics.

    Where a digit or a sign stands among the words, everything but blanks counts.
    """
    if _COMMAND.search(text):
        return None
    bare = _JOINT.sub(" ", _WRAPPER.sub(r"\1", text))
    return " ".join(_WORD.findall(bare) if _SOFT.fullmatch(bare) else bare.split()).rstrip(".")


def _same(gold: str, answer: str, policy: GradingPolicy) -> bool:
    if not gold:
        return False
    if len(gold) > 1:
        gold, answer = gold.casefold(), answer.casefold()
    gold, answer = _ARTICLE.sub("", gold, count=1), _ARTICLE.sub("", answer, count=1)
    return gold == answer or (
        len(gold) > 3 and gold.replace(" ", "").isalpha() and gold.replace(" ", "") == answer.replace(" ", "")
    )


def _same_product(gold: str, answer: str) -> bool:
    """Whether two runs of letters are one product, as xy and yx are; with a vowel, or in capitals, they are words or names."""
    product = gold.islower() and not set(gold) & set("eiou") and ("a" not in gold or len(gold) == 2)
    return product and sorted(gold) == sorted(answer)


def _halves(text: str) -> list[str]:
    match = _CLOCK.fullmatch(text.strip())
    return [match[4] or ""] if match else []


def _clock(text: str) -> int | None:
    """Return the second of the day, or None if a text is not a time."""
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        return None
    hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
    if match[4]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match[4] in "pP" else 0)
    return (hour * 60 + minute) * 60 + second if hour < 24 and minute < 60 and second < 60 else None
