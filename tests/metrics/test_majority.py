from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo_env.errors import ConfigurationError
from aipo_env.grading import grade_answer
from aipo_env.metrics import TIE_RULE, cluster_answers, maj_at_n


def _equal(a: str, b: str) -> bool:
    return a == b


def _brute_force(answers: list[str | None], correct: dict[str, bool], n: int) -> Fraction:
    """Every subset, every winner among the tied, in exact fractions: nothing in common with the implementation."""
    subsets = list(combinations(answers, n))
    total = Fraction(0)
    for subset in subsets:
        votes = Counter(a for a in subset if a is not None)
        if votes:
            best = max(votes.values())
            winners = [a for a, count in votes.items() if count == best]
            total += Fraction(sum(correct[a] for a in winners), len(winners))
    return total / len(subsets)


def test_random_tables_agree_with_all_subsets_and_tie_breaks() -> None:
    generator = random.Random(1)
    for _ in range(150):
        total = generator.randint(1, 9)
        answers = [generator.choice(["a", "b", "c", "d", None]) for _ in range(total)]
        verdicts = {a: generator.random() < 0.4 for a in "abcd"}
        correct = [a is not None and verdicts[a] for a in answers]
        for n in range(1, total + 1):
            expected = float(_brute_force(answers, verdicts, n))
            assert maj_at_n(answers, correct, _equal, n) == pytest.approx(expected, abs=2e-12)
        assert maj_at_n(answers, correct, _equal) == pytest.approx(maj_at_n(answers, correct, _equal, total), abs=2e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60))
def test_one_vote_is_the_mean_and_all_values_are_chances(samples: list[tuple[int, bool]]) -> None:
    answers = [None if a == 0 else f"{a}{right}" for a, right in samples]
    correct = [right and a is not None for a, (_, right) in zip(answers, samples, strict=True)]
    assert maj_at_n(answers, correct, _equal, 1) == pytest.approx(sum(correct) / len(correct), abs=2e-12)
    for n in range(1, len(samples) + 1):
        assert -1e-12 <= maj_at_n(answers, correct, _equal, n) <= 1 + 1e-12


def test_hundreds_of_samples_stay_accurate() -> None:
    """Two clusters only: the majority is a hypergeometric tail, known in closed form."""
    from math import comb

    answers = ["right"] * 110 + ["wrong"] * 146
    correct = [a == "right" for a in answers]
    for n in (2, 31, 128, 255):
        ways = [Fraction(comb(110, i) * comb(146, n - i), comb(256, n)) for i in range(n + 1)]
        expected = (
            sum(w for i, w in enumerate(ways) if 2 * i > n) + sum(w for i, w in enumerate(ways) if 2 * i == n) / 2
        )
        assert maj_at_n(answers, correct, _equal, n) == pytest.approx(float(expected), rel=1e-9)
    distinct = [str(i) for i in range(256)]
    assert maj_at_n(distinct, [a == "7" for a in distinct], _equal, 255) == pytest.approx(1 / 256, rel=1e-9)


def test_ties_and_missing_answers() -> None:
    assert maj_at_n(["1", "2", "1", "2", None], [True, False, True, False, False], _equal) == 0.5
    assert maj_at_n([None, None, None, "1"], [False, False, False, True], _equal) == 1.0
    assert maj_at_n([None, None], [False, False], _equal) == 0.0
    assert maj_at_n([None, None, "1"], [False, False, True], _equal, 1) == pytest.approx(1 / 3)
    assert "mean over the tied" in TIE_RULE


def test_the_grader_joins_what_is_written_differently() -> None:
    def same(a: str, b: str) -> bool:
        return grade_answer(a, b).correct

    answers = [r"\frac{1}{2}", "3", "0.5", "3.0", "1/2"]
    assert cluster_answers(answers, same) == [[0, 2, 4], [1, 3]]
    assert maj_at_n(answers, [True, False, True, False, True], same) == 1.0
    assert maj_at_n(answers[:4], [True, False, True, False], same) == 0.5


def test_equivalence_that_is_not_transitive() -> None:
    def near(a: str, b: str) -> bool:
        return abs(int(a) - int(b)) <= 1

    # 1 ~ 2 and 2 ~ 3, but 1 and 3 differ: the first representative decides, and the order of the samples with it.
    assert cluster_answers(["1", "2", "3"], near) == [[0, 1], [2]]
    assert cluster_answers(["2", "1", "3"], near) == [[0, 1, 2]]
    assert cluster_answers(["1", "3", "2", "2"], near) == [[0, 2, 3], [1]]
    # A cluster of a right and two wrong answers is worth a third.
    assert maj_at_n(["2", "1", "3"], [True, False, False], near) == pytest.approx(1 / 3)


def test_equal_strings_are_compared_once() -> None:
    calls: list[tuple[str, str]] = []

    def same(a: str, b: str) -> bool:
        calls.append((a, b))
        return False

    assert cluster_answers(["x", "y", "x", "y", "z", None, "x"], same) == [[0, 2, 6], [1, 3], [4]]
    assert calls == [("x", "y"), ("x", "z"), ("y", "z")]


@pytest.mark.parametrize(
    ("answers", "correct", "n"), [(["1"], [True, False], None), (["1"], [True], 2), (["1"], [True], 0), ([], [], None)]
)
def test_what_makes_no_sense_is_refused(answers: list[str], correct: list[bool], n: int | None) -> None:
    with pytest.raises(ConfigurationError, match="maj@n needs"):
        maj_at_n(answers, correct, _equal, n)


def test_mixed_clusters_in_subsets_keep_their_share() -> None:
    """A cluster with right and wrong members, against every subset and the share of the winner in the whole cluster."""
    answers = ["a", "a", "a", "b", "b", None]
    correct = [True, False, False, True, True, False]
    worth = {"a": Fraction(1, 3), "b": Fraction(1)}
    for n in range(1, 7):
        total = Fraction(0)
        subsets = list(combinations(range(6), n))
        for subset in subsets:
            votes = Counter(answers[i] for i in subset if answers[i] is not None)
            if votes:
                winners = [a for a, count in votes.items() if count == max(votes.values())]
                total += sum(worth[str(a)] for a in winners) / len(winners)
        assert maj_at_n(answers, correct, _equal, n) == pytest.approx(float(total / len(subsets)), abs=2e-12)
