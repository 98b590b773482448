"""What a grade is: a verdict, the rule that decided, and the answer that was looked at."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from aipo_env.grading.vocabulary import TABLES


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


def explain(rule: str) -> str:
    """Return in words what `Grade.rule` says: what was compared, from the outside in, and the finer name of the rule."""
    steps = [TABLES["rules in words"].get(part.partition(".")[0], part) for part in rule.split("/")]
    finer = rule.rpartition("/")[2].partition(".")[2].replace("_", " ").replace(".", ", ")
    return ": ".join(dict.fromkeys(steps)) + (f" ({finer})" if finer else "")
