"""The reader and evaluator that the grader and the embedded helpers share."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest

from aipo_env.grading import AIME, CHOICE, readable_gold
from aipo_env.grading.mathematics import (
    Budget,
    NoValue,
    OutOfBudget,
    Unreadable,
    equal,
    evaluate,
    read,
    variables,
)


def test_values_are_exact_while_they_are_rational() -> None:
    assert evaluate(read(r"\frac{1}{2} + 0.25")) == Fraction(3, 4)
    assert evaluate(read("2x+1"), {"x": Fraction(3)}) == 7
    assert evaluate(read(r"\sqrt{2}")) == pytest.approx(2**0.5)
    for text in ("2y", "f(2)", "1/0"):
        with pytest.raises(NoValue):
            evaluate(read(text))


def test_what_is_no_mathematics_is_refused() -> None:
    for text in ("", "((2", "\x00", "2 +", "1" * 3000):
        with pytest.raises(Unreadable):
            read(text)


def test_a_budget_bounds_several_calls_together() -> None:
    budget = Budget(steps=5_000)
    heavy = read(r"\sum_{k=1}^{900} k^2")
    assert evaluate(heavy, budget=budget) == 900 * 901 * 1801 // 6
    with pytest.raises(OutOfBudget):
        evaluate(heavy, budget=budget)
    started = time.perf_counter()
    with pytest.raises(OutOfBudget):
        evaluate(read(r"\sum_{a=1}^{1999}\sum_{b=1}^{1999} \sin(ab)"), budget=Budget(10**9, seconds=0.1))
    assert time.perf_counter() - started < 20


def test_free_variables() -> None:
    assert variables(read(r"x^2 + \pi y + \sum_{k=1}^{n} k")) == {"x", "y", "n"}


def test_expressions_are_compared_for_all_values() -> None:
    assert equal(read("x^2-1"), read("(x-1)(x+1)")) is True
    assert equal(read("x^2-1"), read("(x-1)^2")) is False
    assert equal(read(r"\int x^x dx"), read("x")) is None


def test_readable_golds() -> None:
    for gold in (r"\frac12", "x^2+1", r"\text{Friday}", "(1,2]", r"5 \text{ cm}"):
        assert readable_gold(gold), gold
    for gold in ("", "((2", r"\frac{2}", r"\unknown + 1"):
        assert not readable_gold(gold), gold
    assert readable_gold("025", AIME)
    assert not readable_gold("x", AIME)
    assert readable_gold("(B)", CHOICE)
    assert not readable_gold("E", CHOICE)
