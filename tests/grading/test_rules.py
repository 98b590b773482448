from __future__ import annotations

from pathlib import Path

import pytest

from aipo_env.errors import ConfigurationError
from aipo_env.grading import AIME, GSM8K, MATH500, PRESETS, Grade, GradingPolicy, Verdict, grade_answer


def _pairs() -> list[tuple[str, str, bool]]:
    pairs = []
    for line in Path(__file__).with_name("rules.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            same = min((line.find(mark) % 10_000, mark) for mark in (" == ", " != "))[1]
            gold, answer = line.split(same, 1)
            pairs.append((gold, answer, same == " == "))
    return pairs


@pytest.mark.parametrize(("gold", "answer", "equal"), _pairs())
def test_rules(gold: str, answer: str, equal: bool) -> None:
    grade = grade_answer(gold, answer, timeout=10)
    assert grade.correct is equal, grade
    assert grade.correct == (grade.verdict is Verdict.CORRECT)


def test_a_grade_names_its_rule() -> None:
    assert grade_answer("7", "7").rule == "integer"
    assert grade_answer("1/2", "0.5") == Grade(True, Verdict.CORRECT, "number.exact", "0.5")
    assert grade_answer("(1,2)", "[1,2]").rule == "sequence.brackets"
    assert grade_answer("10", "10%").rule == "percent.sign_dropped"
    assert grade_answer("7", "").verdict is Verdict.NO_ANSWER


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        ("25", "025", True),
        ("025", "25", True),
        ("25", "25.0", True),
        ("1234", "1,234", True),
        ("25", r"\frac{50}{2}", True),
        ("25", "x = 25", True),
        ("25", r"25 \text{ apples}", True),
        ("-3", "-3", True),
        ("25", "25.1", False),
        ("25", "24.9999999999", False),
        ("25", "2 5", False),
        ("25", "25 or 26", False),
        ("25", "x", False),
        ("25", r"\sqrt{625.0000001}", False),
    ],
)
def test_integers(gold: str, answer: str, correct: bool) -> None:
    assert grade_answer(gold, answer, AIME).correct is correct
    assert grade_answer(gold, answer, GSM8K).correct is correct


@pytest.mark.parametrize(
    ("change", "gold", "answer"),
    [
        (GradingPolicy(percent="strict"), "10", "10%"),
        (GradingPolicy(units="required"), r"5 \text{ cm}", "5"),
        (GradingPolicy(list_order="same"), "1, 2", "2, 1"),
        (GradingPolicy(vectors_as_tuples=False), r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
        (GradingPolicy(assignment="strict"), "x = 5", "5"),
        (GradingPolicy(clock=False), r"3:05 \text{ p.m.}", "15:05"),
        (GradingPolicy(kind="integer"), "1.414", r"\sqrt{2}"),
        (GradingPolicy(kind="integer"), r"\sqrt{2}", "1.414214"),
    ],
)
def test_each_convention_changes_a_verdict(change: GradingPolicy, gold: str, answer: str) -> None:
    assert grade_answer(gold, answer, MATH500).correct
    assert not grade_answer(gold, answer, change).correct


def test_bracket_kinds_can_be_ignored() -> None:
    assert not grade_answer("(1,2)", "[1,2]").correct
    assert grade_answer("(1,2)", "[1,2]", GradingPolicy(bracket_kind="ignore")).correct


def test_policies_are_checked_and_presets_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"percent must be one of 'either', 'strict'; got 'maybe'"):
        GradingPolicy(percent="maybe")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="letters"):
        GradingPolicy(letters="1234")
    assert set(PRESETS) == {"math500", "integer", "gsm8k", "aime", "choice"}


def _documented() -> list[str]:
    text = (Path(__file__).parents[2] / "docs" / "grading.md").read_text(encoding="utf-8")
    rules = text.partition("## Rules, each with examples")[2].partition("\n## ")[0]
    return [line for block in rules.split("```text\n")[1:] for line in block.partition("\n```")[0].splitlines()]


@pytest.mark.parametrize("line", _documented())
def test_the_documentations_examples(line: str) -> None:
    same = " == " if " == " in line else " != "
    gold, answer = line.split(same, 1)
    grade = grade_answer(gold, answer)
    assert grade.correct is (same == " == "), grade


def test_every_rule_of_the_documentation_has_examples() -> None:
    assert len(_documented()) > 90
