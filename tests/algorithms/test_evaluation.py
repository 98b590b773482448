from __future__ import annotations

from itertools import combinations
from statistics import mean

import pytest

from aipo_env.errors import ConfigurationError
from algorithms.evaluation import pass_at_k


def test_pass_at_k_is_the_mean_over_all_draws() -> None:
    for correct in range(6):
        outcomes = [1] * correct + [0] * (5 - correct)
        for k in range(1, 6):
            by_hand = mean(max(draw) for draw in combinations(outcomes, k))
            assert pass_at_k(5, correct, k) == pytest.approx(by_hand)


@pytest.mark.parametrize(("samples", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_impossible_counts(samples: int, correct: int, k: int) -> None:
    with pytest.raises(ConfigurationError):
        pass_at_k(samples, correct, k)
