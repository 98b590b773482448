"""What grading a submission yields."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from aipo_env.errors import GradingError
from aipo_env.grading.code.isolation import Isolation


class CodeVerdict(enum.StrEnum):
    """Why a submission counts or does not count; only ``PASS`` earns a reward."""

    PASS = "pass"
    WRONG = "wrong"
    RUNTIME_ERROR = "runtime_error"
    """An uncaught exception, a syntax error, a crash, or an exit status other than 0."""
    TIME_LIMIT = "time_limit"
    """Too much CPU time, or still waiting when the generous limit on the clock was over."""
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    HARNESS_ERROR = "harness_error"
    """Our own machinery failed, twice. `CodeGrade.correct` raises, so it is never taken for a wrong answer."""


@dataclass(frozen=True, slots=True)
class CodeFailure:
    """The first test that was not passed."""

    index: int
    """Its place in `CodeProblem.tests`."""
    verdict: CodeVerdict
    """What went wrong there."""
    reason: str
    """One line, at most 300 characters; shows the expected output only when `grade` was asked to reveal it."""


@dataclass(frozen=True, slots=True)
class CodeGrade:
    """The outcome of one submission on one problem."""

    verdict: CodeVerdict
    """``PASS`` when every test was passed, else the verdict on the first one that was not."""
    passed: int
    """Tests passed. Grading stops at the first failure, unless it was told to go on."""
    num_tests: int
    """Tests of the problem."""
    first_failure: CodeFailure | None
    """None exactly when the verdict is ``PASS``."""
    isolation: Isolation
    """What stood between the submission and the machine."""
    cpu_seconds: float
    """CPU time of the submission's processes, over all tests that ran."""
    wall_seconds: float
    """Time on the clock of the same."""

    @property
    def correct(self) -> bool:
        """Whether every test was passed.

        Raises:
            GradingError: the verdict is ``HARNESS_ERROR``, which says nothing about the submission.
        """
        if self.verdict is CodeVerdict.HARNESS_ERROR:
            reason = self.first_failure.reason if self.first_failure else "unknown"
            raise GradingError(f"the code sandbox failed: {reason}. Grade the submission again.")
        return self.verdict is CodeVerdict.PASS
