"""Rules of our own, for data sets whose scorer executes the answer, or gives full marks to a wrong one.

Each entry says why the scorer of reasoning-gym 0.1.25 is not asked.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from aipo_env.tasks.reasoning_gym.expressions import (
    UnreadableError,
    arithmetic,
    expanded_polynomial,
    is_antiderivative,
)

Entry = Mapping[str, Any]
"""What a generator of reasoning-gym made: question, answer, metadata."""

Rule = Callable[[str, Entry], bool]
"""Whether an answer, which is not the gold answer letter for letter, counts all the same."""

_DECIMAL = re.compile(r"[-+]?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][-+]?[0-9]{1,2})?")


def _same_words(answer: str, entry: Entry) -> bool:
    return answer.split() == str(entry["answer"]).split()


def _never(answer: str, entry: Entry) -> bool:
    return False


def _truth(answer: str, entry: Entry) -> bool:
    return answer.strip().lower() == str(entry["answer"]).strip().lower()


def _queens(answer: str, entry: Entry) -> bool:
    board = "\n".join(line.strip() for line in answer.strip().splitlines())
    return board in entry["metadata"]["valid_answers"]


def _countdown(answer: str, entry: Entry) -> bool:
    value, used = arithmetic(answer)
    return value == entry["metadata"]["target"] and sorted(used) == sorted(entry["metadata"]["numbers"])


def _puzzle24(answer: str, entry: Entry) -> bool:
    value, used = arithmetic(answer)
    return value == 24 and sorted(used) == sorted(entry["metadata"]["numbers"])


def _product(answer: str, entry: Entry) -> bool:
    variables = entry["metadata"]["variables"]
    return expanded_polynomial(answer, variables) == expanded_polynomial(entry["answer"], variables)


def _antiderivative(answer: str, entry: Entry) -> bool:
    return is_antiderivative(answer, entry["metadata"]["integrand"], entry["metadata"]["variable"])


def _numbers(text: str) -> list[Fraction]:
    words = text.strip().removeprefix("[").removesuffix("]").split(",")
    numbers = [word.strip().strip("'\"") for word in words]
    if not all(_DECIMAL.fullmatch(number) for number in numbers):
        raise UnreadableError("no list of numbers")
    return [Fraction(number) for number in numbers]


def _number_list(answer: str, entry: Entry) -> bool:
    return _numbers(answer) == _numbers(entry["answer"])


def _roots(answer: str, entry: Entry) -> bool:
    gold = entry["answer"].strip()
    if not gold:
        return answer.strip() in ('""', "''")  # the problem asks for an empty string
    return sorted(_numbers(answer)) == sorted(_numbers(gold))


def _number(answer: str, entry: Entry) -> bool:
    text = answer.strip().removeprefix("$").replace(",", "")
    if not _DECIMAL.fullmatch(text):
        return False
    return Fraction(text) == Fraction(str(entry["answer"]).strip().replace(",", ""))


def _probability(answer: str, entry: Entry) -> bool:
    text = answer.strip()
    numerator, slash, denominator = text.partition("/")
    parts = [numerator.strip(), denominator.strip()] if slash else [text]
    if not all(_DECIMAL.fullmatch(part) for part in parts) or (slash and Fraction(parts[1]) == 0):
        return False
    value = Fraction(parts[0]) / (Fraction(parts[1]) if slash else 1)
    gold = Fraction(entry["answer"])
    return abs(value - gold) <= Fraction(1, 10_000) * gold


def _words(answer: str, entry: Entry) -> bool:
    return [word.strip() for word in answer.split(",")] == list(entry["metadata"]["sorted_words"])


def _letters(answer: str, entry: Entry) -> bool:
    return answer.replace(" ", "").strip().lower() == str(entry["answer"]).strip().lower()


def _phrase(answer: str, entry: Entry) -> bool:
    return answer.lower().split() == str(entry["answer"]).lower().split()


def _json(answer: str, entry: Entry) -> bool:
    return bool(json.loads(answer) == json.loads(entry["answer"]))


RULES: dict[str, Rule] = {
    # evaluates the answer with eval()
    "binary_matrix": _same_words,
    "n_queens": _queens,
    "spiral_matrix": _same_words,
    "string_insertion": _never,
    # evaluates the answer with sympy.parse_expr(), which is eval()
    "countdown": _countdown,
    "intermediate_integration": _antiderivative,
    "polynomial_multiplication": _product,
    "puzzle24": _puzzle24,  # and takes any four numbers for the puzzle's own
    "simple_integration": _antiderivative,
    # pays in full for what is wrong
    "coin_flip": _probability,  # everything within 0.0001, so 0 for small probabilities; and hangs on 1e999999999
    "figlet_font": _letters,  # ten right letters, whatever follows
    "game_of_life": _json,  # the right cells and others beside them
    "game_of_life_halting": _truth,  # every text is true
    "gsm_symbolic": _number,  # the first of many numbers
    "letter_jumble": _phrase,  # the right words and others behind them
    "number_sorting": _number_list,  # numbers that are off by 1
    "polynomial_equations": _roots,  # every text, where the equation has no root
    "word_sorting": _words,  # the right words and others behind them
}

_CHARS_PER_GOLD_CHAR, _MIN_CHARS = 20, 4000
_LONG_NUMBER = re.compile(r"[0-9]{200}|[0-9][eE][-+]?[0-9]{4}")
_NO_NUMBER = re.compile(r"\b(?:nan|inf|infinity)j?\b|\bnan", re.IGNORECASE)
_MANY_MOVES = re.compile(r"[0-9]{3}")
_REPEATED_MOVES = ("rubiks_cube", "rush_hour")


def gold_of(entry: Entry) -> str | None:
    """The gold answer; None where several answers are right and the package names none, or has not worked it out."""
    gold = entry["answer"]
    return None if gold is None or "Integral(" in str(gold) else str(gold)


def guard(name: str, answer: str, gold: str) -> bool:
    """Whether an answer may be shown to a scorer: long texts and numbers without end are wrong answers unseen."""
    if len(answer) > max(_MIN_CHARS, _CHARS_PER_GOLD_CHAR * len(gold)):
        return False
    if _LONG_NUMBER.search(answer) and not _LONG_NUMBER.search(gold):
        return False
    if any(c.isdigit() for c in gold) and _NO_NUMBER.search(answer):
        return False  # a NaN passes `min(1.0, ...)`
    # These repeat a move as often as the answer says.
    return not (name in _REPEATED_MOVES and _MANY_MOVES.search(answer))


def follows_rule(name: str, answer: str, entry: Entry) -> bool:
    """Applies the rule of a data set; an answer that cannot be read is wrong."""
    with contextlib.suppress(ValueError, ArithmeticError, RecursionError):
        return RULES[name](answer, entry)
    return False
