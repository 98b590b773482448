"""Multiple-choice answers: read one letter, or refuse to guess."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence
from typing import TypeVar

from aipo_env.grading.extract import MAX_TEXT, extract_answer, last_match
from aipo_env.grading.verdicts import Grade, Verdict

T = TypeVar("T")

_WRAPPERS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mathsf|textrm|mbox|boxed)\s{0,4}\{|[{}$*_`~]|\\[()\[\],;:! ]")
_ANOTHER = re.compile(r"[\s,)\].]{0,4}(?:or\b|and\b|/)(.{0,12})", re.DOTALL | re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:not|neither|nor|none|cannot|wrong|incorrect)\b|n['’]t\b", re.IGNORECASE)
_ARTICLE = re.compile(r"(?<![\w(])A\s(?!or\b|and\b|nor\b|is\b)(?=[a-z])|(?<![\w(])I(?=\s)")
_MARKUP = re.compile(r"[*_`$]")


@functools.lru_cache(maxsize=64)
def _patterns(letters: str) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    upper = letters.upper()
    either = f"[{upper}{upper.lower()}]"
    label = r"(?:option|choice|answer)?"
    alone = re.compile(rf"{label}\s*:?\s*[(\[]?({either})[)\].:]?(?:\s*[.)])?", re.IGNORECASE)
    # A letter followed by its option's text: "B) 3 metres", "B. because ...", "(B) red".
    leading = re.compile(rf"(?:\(({either})\)|\[({either})\]|({either})[).:])(?:\s.*)?", re.DOTALL)
    # A bare lower-case letter counts only where no word follows: "the answer is a number" chooses nothing.
    letter = rf"(?:[(\[]({either})[)\]]|([{upper}])(?![A-Za-z0-9'’])|([{upper.lower()}])(?=\s*(?:$|[.,;:!\n])))"
    stated = re.compile(
        rf"(?i:\b(?:answer|choice|option)\b(?:\s+(?:is|must\s+be|would\s+be|should\s+be))?\s*:?"
        rf"(?:(?<=is)|(?<=be)|(?<=:))\s*(?:(?:option|choice)\s+)?"
        rf"|\b(?:choose|pick|select|go\s+with)\s+(?:(?:option|choice|answer)\s+)?){letter}",
        re.MULTILINE,
    )
    mention = re.compile(rf"(?<![A-Za-z0-9'’\\])(?:[(\[]({either})[)\]]|([{upper}]))(?![A-Za-z0-9'’])")
    return alone, leading, stated, mention


def extract_choice(text: str, letters: str = "ABCD") -> str | None:
    """Return the one letter, upper case, that a text chooses, or None if it chooses none or several.

    A marked answer (box, tag, ``Answer:``) is read alone; otherwise the last "answer is ..." sentence;
    otherwise a letter counts only if it is the only one mentioned. "(A) or (B)" is refused, wherever it
    stands.

    Args:
        text: what the policy wrote, or an already extracted answer.
        letters: the letters on offer.
    """
    alone, leading, stated, mention = _patterns(letters)
    text = text[-MAX_TEXT:]
    direct = text.strip()
    if len(direct) == 1:
        return direct.upper() if direct.upper() in letters.upper() else None
    marked = extract_answer(text, marked_only=True)
    for candidate in (marked, direct if len(direct) <= 400 else None):
        if candidate is None:
            continue
        plain = _WRAPPERS.sub(" ", candidate[:2000]).strip()
        match = alone.fullmatch(plain)
        if match is None:
            match = leading.fullmatch(plain)
        if match is not None:
            letter = next(group for group in match.groups() if group)
            others = {m.upper() for m in _mentions(mention, plain)} - {letter.upper()}
            return None if others else letter.upper()
        if candidate is marked and "boxed" in text:
            found = {m.upper() for m in _mentions(mention, plain)}
            return found.pop() if len(found) == 1 else None
    plain = _MARKUP.sub("", text)
    last = last_match(stated, plain)
    if last is not None:
        letter = next(group for group in last.groups() if group)
        # "the answer is A or B" names two: refuse.
        rest = _ANOTHER.match(plain, last.end())
        if rest is not None and _mentions(mention, rest[1]):
            return None
        return letter.upper()
    ending = plain[-2000:]
    if _NEGATION.search(ending):
        return None  # "not A" chooses nothing
    found = {m.upper() for m in _mentions(mention, _ARTICLE.sub(" ", ending))}
    return found.pop() if len(found) == 1 else None


def _mentions(pattern: re.Pattern[str], text: str) -> list[str]:
    return [next(group for group in match.groups() if group) for match in pattern.finditer(text)]


def grade_choice(gold: str, answer: str, letters: str = "ABCD") -> Grade:
    """Grade a multiple-choice answer or text against the gold letter.

    Args:
        gold: the right letter, bare or wrapped, such as ``B`` or ``(B)``.
        answer: an extracted answer or a whole text that the policy wrote.
        letters: the letters on offer.

    Raises:
        ValueError: if ``gold`` is not one of the letters.
    """
    gold_letter = gold if len(gold) == 1 and gold in letters else extract_choice(gold, letters)
    if gold_letter is None:
        raise ValueError(f"The gold of a choice must be one of {letters!r}; got {gold!r}. Check the task's data.")
    letter = extract_choice(answer, letters)
    if letter is None:
        verdict = Verdict.UNPARSABLE if answer.strip() else Verdict.NO_ANSWER
        return Grade(False, verdict, "choice.none_or_several", None)
    correct = letter == gold_letter
    return Grade(correct, Verdict.CORRECT if correct else Verdict.WRONG, "choice", letter)


def shuffle_choices(choices: Sequence[T], seed: int, row: int) -> tuple[list[T], list[int]]:
    """Shuffle the choices of one row, the same way for the same (seed, row) and independently of other rows.

    Returns:
        The shuffled choices and the order: ``shuffled[i] == choices[order[i]]``.
    """
    order = list(range(len(choices)))
    random.Random(f"choices:{seed}:{row}").shuffle(order)
    return [choices[i] for i in order], order
