r"""Speeds that training relies on; the best of several runs, since the machine may be busy."""

from __future__ import annotations

import time
from collections.abc import Callable

from aipo_env.grading import AIME, CHOICE, grade_answer


def _best_rate(work: Callable[[], object], repetitions: int = 2000, runs: int = 7) -> float:
    best = 0.0
    for _ in range(runs):
        started = time.perf_counter()
        for _ in range(repetitions):
            work()
        best = max(best, repetitions / (time.perf_counter() - started))
    return best


def test_integers_and_choices() -> None:
    assert _best_rate(lambda: grade_answer("204", "204", AIME)) > 20_000
    assert _best_rate(lambda: grade_answer("204", "205", AIME)) > 20_000
    assert _best_rate(lambda: grade_answer("B", "B", CHOICE)) > 20_000
    assert _best_rate(lambda: grade_answer("B", "C", CHOICE)) > 20_000


def test_wrong_answers_are_no_slower_than_right_ones() -> None:
    right = _best_rate(lambda: grade_answer(r"\frac{3}{4}", "0.75"), 300)
    wrong = _best_rate(lambda: grade_answer(r"\frac{3}{4}", "0.74"), 300)
    assert wrong > right / 2
