from __future__ import annotations

import pytest

from aipo_env.errors import ConfigurationError, UnknownIdError
from aipo_env.grading import GradingPolicy
from aipo_env.metrics import bootstrap_interval
from benchmarks.metrics import grade, math_answer_scores, pass_at_k_scores


def test_pass_at_k_of_verdicts() -> None:
    scores = pass_at_k_scores([[1, 0, 1, 0], [False] * 4])
    assert scores["pass@1"] == scores["avg@n"] == 0.25
    assert scores["pass@2"] == pytest.approx((1 - 1 / 6) / 2)
    assert scores["pass@4"] == 0.5
    assert (scores["num_problems"], scores["num_samples"]) == (2, 4)
    expected = bootstrap_interval([0.5, 0.0])
    assert scores["intervals"]["avg@n"] == [expected.low, expected.high]  # type: ignore[index, call-overload]


def test_ragged_samples_and_chosen_k() -> None:
    scores = pass_at_k_scores([[1, 0], [0, 0, 0, 1]], [2, 1])
    assert scores["avg@n"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert scores["pass@2"] == pytest.approx((1.0 + 0.5) / 2)
    assert "pass@4" not in scores
    with pytest.raises(ConfigurationError, match="k=4"):
        pass_at_k_scores([[1, 0], [0, 0, 0, 1]], [4])
    with pytest.raises(ConfigurationError, match="1 of them without samples"):
        pass_at_k_scores([[1], []])
    with pytest.raises(ConfigurationError, match="got 0 problems"):
        pass_at_k_scores([])


def test_math_answers() -> None:
    scores = math_answer_scores([r"so \boxed{0.5}", "I give up", r"\boxed{3}"], [r"\frac{1}{2}", "7", "4"])
    assert scores["accuracy"] == pytest.approx(1 / 3)
    assert scores["correct"] == [True, False, False]
    assert scores["verdicts"] == ["correct", "no_answer", "wrong"]
    assert scores["answers"] == ["0.5", None, "3"]
    assert scores["policy"] == "math500"


def test_several_samples_keep_their_shape() -> None:
    scores = math_answer_scores([[r"\boxed{1}", r"\boxed{2}"], [r"\boxed{3}"]], ["1", "3"])
    assert scores["accuracy"] == 0.75
    assert scores["correct"] == [[True, False], [True]]
    assert scores["verdicts"] == [["correct", "wrong"], ["correct"]]


def test_policies() -> None:
    assert math_answer_scores(["The answer is (B)."], ["B"], "choice")["accuracy"] == 1.0
    # Only a marked answer counts for AIME.
    assert math_answer_scores(["so it is 25"], ["025"], "aime")["verdicts"] == ["no_answer"]
    assert math_answer_scores([r"\boxed{25}"], ["025"], "aime")["accuracy"] == 1.0
    strict = GradingPolicy(name="strict", percent="strict")
    assert [g.correct for g in grade(["10%"], ["10"], strict, extract=False)] == [False]
    assert [g.correct for g in grade(["10%"], ["10"], extract=False)] == [True]
    with pytest.raises(UnknownIdError, match="Did you mean 'math500'"):
        grade(["1"], ["1"], "math50")


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="1 predictions and 2 references"):
        grade(["1"], ["1", "2"])
    with pytest.raises(ConfigurationError, match="1 of them empty"):
        math_answer_scores([["1"], []], ["1", "2"])
