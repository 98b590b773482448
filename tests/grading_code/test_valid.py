from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, cast

import pytest

from aipo_env.grading.code import CodeGrader, CodeProblem, CodeTest
from tests.grading_code.support import needs_sandbox
from tests.grading_code.valid import VALID

pytestmark = needs_sandbox


@pytest.fixture(scope="module")
def grader() -> Iterator[CodeGrader]:
    with CodeGrader(1) as grader:
        yield grader


@pytest.mark.parametrize("name", VALID)
def test_valid_program_passes(name: str, grader: CodeGrader) -> None:
    kind, code, given, expected = VALID[name]
    test = CodeTest(given, expected, cast(Literal["stdin", "functional"], kind))
    grade = grader.grade(code, CodeProblem([test], "f", time_limit_s=10, wall_limit_s=90), reveal=True)
    assert grade.correct, grade
    assert grade.passed == 1


@pytest.mark.parametrize("name", [name for name in VALID if VALID[name][3] not in ("", "null")])
def test_valid_program_fails_another_expectation(name: str, grader: CodeGrader) -> None:
    """The same programs are not accepted whatever is expected."""
    kind, code, given, expected = VALID[name]
    other = expected + "1" if kind == "stdin" else '"something else"'
    test = CodeTest(given, other, cast(Literal["stdin", "functional"], kind))
    assert not grader.grade(code, CodeProblem([test], "f", time_limit_s=10, wall_limit_s=90)).correct
