"""What a grade is: a verdict, the rule that decided, and the answer that was looked at."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(enum.StrEnum):
    """Why an answer counts or does not count; only ``CORRECT`` earns a reward."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    """Nothing that looks like an answer was found in the text."""
    UNPARSABLE = "unparsable"
    """An answer was found, but it is not readable mathematics or the guard refused it."""
    TIMEOUT = "timeout"
    """The decision took more steps or more time than it may."""
    HARNESS_ERROR = "harness_error"
    """Our own machinery failed. Raised as `GradingError`; only batch reports record it."""


@dataclass(frozen=True, slots=True)
class Grade:
    """The outcome of grading one answer."""

    correct: bool
    """True exactly when ``verdict`` is ``CORRECT``."""
    verdict: Verdict
    """The kind of outcome."""
    rule: str
    """The rule that decided, for instance ``integer`` or ``tuple.length``."""
    extracted: str | None
    """The answer that was graded, or None when none was found."""


_WHY = {
    "integer": "two whole numbers", "identical": "the same text", "same": "the same expression", "empty": "an empty answer",
    "guard": "refused before it was read", "unreadable": "not mathematics that is read", "budget": "not decided in its time",
    "gold": "the gold is not read", "number": "two numbers", "expression": "values at several points", "text": "words",
    "letters": "letters side by side", "clock": "times of the day", "list": "items in any order", "tuple": "items in order",
    "set": "members of two sets", "interval": "sets of real numbers", "sequence": "lists or brackets of two kinds",
    "relation": "equations or inequalities", "assignment": "the value behind a name", "unit": "values with units",
    "percent": "a percent sign on one side", "where": "what holds for a range of variables", "matrix": "entries of matrices",
    "vector": "a vector and its entries", "cases": "entries of cases",
    "figure": "names of figures", "said_twice": "one value said twice",
    "constant_of_integration": "functions up to a constant", "unevaluated": "the answer restates the question",
    "choice": "letters of a choice", "extract": "no answer in the text",
}  # fmt: skip


def explain(rule: str) -> str:
    """Return in words what `Grade.rule` says: what was compared, from the outside in, and the finer name of the rule."""
    steps = [_WHY.get(part.partition(".")[0], part) for part in rule.split("/")]
    finer = rule.rpartition("/")[2].partition(".")[2].replace("_", " ").replace(".", ", ")
    return ": ".join(dict.fromkeys(steps)) + (f" ({finer})" if finer else "")
