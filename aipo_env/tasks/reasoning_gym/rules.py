"""Rules of our own, for data sets whose scorer executes the answer, or gives full marks to a wrong one.

Each entry says why the scorer of reasoning-gym 0.1.25 is not asked.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from aipo_env.grading.mathematics import NoValue, OutOfBudget, Unreadable, Value, equal, evaluate, read
from aipo_env.grading.nodes import Node
from aipo_env.grading.trees import substitute

Entry = Mapping[str, Any]
"""What a generator of reasoning-gym made: question, answer, metadata."""

Rule = Callable[[str, Entry], bool]
"""Whether an answer, which is not the gold answer letter for letter, counts all the same."""

_FORMULA = re.compile(r"[0-9A-Za-z+\-*/(). ]{1,2000}")
_ARITHMETIC = re.compile(r"[0-9+\-*/() ]{1,2000}")
_NOT_ARITHMETIC = re.compile(r"\*\*|//|\d\s+\d|\d\s*\(|\)\s*[\d(]")
"""Powers, and what mathematics reads as a product or a mixed number without a sign."""
_POINTS = ("0.31+0.17*i", "0.12-0.23*i", "-0.27+0.11*i", "0.73+0.41*i", "1.19-0.33*i", "-0.64-0.29*i")
_STEP, _RELATIVE, _STENCIL = 1e-3, 1e-6, ((-2, 1), (-1, -8), (1, 8), (2, -1))
"""Of numerical derivatives: (f(x-2h) - 8 f(x-h) + 8 f(x+h) - f(x+2h)) / 12h, right to the fourth order."""
_DECIMAL = re.compile(r"[-+]?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][-+]?[0-9]{1,2})?")


def _formula(text: str) -> Node:
    if not _FORMULA.fullmatch(text):
        raise ValueError("no formula")
    return read(text)


def arithmetic(text: str) -> tuple[Value, list[int]]:
    """The value of a sum of products of whole numbers, and the numbers that it uses; ValueError for anything else."""
    if not _ARITHMETIC.fullmatch(text) or _NOT_ARITHMETIC.search(text):
        raise ValueError("no arithmetic")
    return evaluate(read(text)), [int(number) for number in re.findall(r"\d+", text)]


def is_antiderivative(answer: str, integrand: str, variable: str) -> bool:
    """Whether d answer / d variable = integrand; both are analytic, so at points of the complex plane. `C` is any constant."""
    wanted, given, compared = _formula(integrand), _formula(answer), 0

    def value(formula: Node, point: str) -> complex:
        names = {"C": "0.61+0.37*i", "E": repr(math.e), variable: point}
        return complex(evaluate(substitute(formula, {name: read(f"({text})") for name, text in names.items()})))

    for point in _POINTS:
        try:
            slope = value(wanted, point)
        except NoValue:
            continue
        found = sum(weight * value(given, f"{point}+{steps * _STEP}") for steps, weight in _STENCIL) / (12 * _STEP)
        if not abs(found - slope) <= _RELATIVE * abs(slope):  # a NaN is not close to anything
            return False
        compared += 1
    return compared >= 3


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
    # Without brackets: the product itself would be no answer.
    return "(" not in answer and equal(_formula(entry["answer"]), _formula(answer)) is True


def _antiderivative(answer: str, entry: Entry) -> bool:
    return is_antiderivative(answer, entry["metadata"]["integrand"], entry["metadata"]["variable"])


def _numbers(text: str) -> list[Fraction]:
    words = text.strip().removeprefix("[").removesuffix("]").split(",")
    numbers = [word.strip().strip("'\"") for word in words]
    if not all(_DECIMAL.fullmatch(number) for number in numbers):
        raise ValueError("no list of numbers")
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
    with contextlib.suppress(ValueError, ArithmeticError, RecursionError, NoValue, OutOfBudget, Unreadable):
        return RULES[name](answer, entry)
    return False
