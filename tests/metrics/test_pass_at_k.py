from __future__ import annotations

import random
from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo_env.errors import ConfigurationError
from aipo_env.metrics import (
    avg_at_n,
    default_ks,
    g_pass_at_k,
    mean_pass_at_k,
    mg_pass_at_k,
    pass_at_k,
    pass_at_k_curve,
)


def test_pass_at_k_is_the_mean_over_all_draws() -> None:
    """Against the definition, in exact fractions, for every count of up to eight samples."""
    for samples in range(1, 9):
        for correct in range(samples + 1):
            outcomes = [1] * correct + [0] * (samples - correct)
            for k in range(1, samples + 1):
                draws = [max(draw) for draw in combinations(outcomes, k)]
                by_hand = Fraction(sum(draws), len(draws))
                assert pass_at_k(samples, correct, k) == pytest.approx(float(by_hand), rel=1e-14, abs=0)


def _human_eval(n: int, c: int, k: int) -> float:
    """The estimator as HumanEval's authors wrote it (arXiv 2107.03374, figure 3)."""
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def test_random_tables_agree_with_the_product_of_human_eval() -> None:
    generator = random.Random(0)
    for _ in range(50):
        counts = [(n, generator.randint(0, n)) for n in (generator.randint(16, 300) for _ in range(20))]
        for k in (1, 2, 5, 16):
            theirs = sum(_human_eval(n, c, k) for n, c in counts) / len(counts)
            assert mean_pass_at_k(counts, k) == pytest.approx(theirs, rel=1e-11)
        assert avg_at_n(counts) == pytest.approx(float(sum(Fraction(c, n) for n, c in counts) / 20), rel=1e-14)


@pytest.mark.parametrize(
    ("n", "c", "k"), [(5000, 1, 1), (5000, 2, 2), (5000, 3, 2500), (5000, 2500, 2), (20_000, 7, 9), (5000, 4000, 1000)]
)
def test_thousands_of_samples_keep_their_digits(n: int, c: int, k: int) -> None:
    exact = 1 - Fraction(comb(n - c, k), comb(n, k))
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=1e-12, abs=0)


def test_edges() -> None:
    assert pass_at_k(7, 0, 7) == 0.0
    assert pass_at_k(7, 1, 7) == 1.0
    assert pass_at_k(7, 7, 1) == 1.0
    assert pass_at_k(3, 1, 1) == 1 / 3
    assert pass_at_k(49, 1, 7) == 7 / 49


@pytest.mark.parametrize(("samples", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_impossible_counts(samples: int, correct: int, k: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"got k={k}, {correct} of {samples}"):
        pass_at_k(samples, correct, k)


def test_curve_and_ks() -> None:
    assert default_ks(1) == [1]
    assert default_ks(8) == [1, 2, 4, 8]
    assert default_ks(48) == [1, 2, 4, 8, 16, 32, 48]
    assert pass_at_k_curve(4, 2, default_ks(4)) == {1: 0.5, 2: pytest.approx(5 / 6), 4: 1.0}
    with pytest.raises(ConfigurationError, match="at least one sample"):
        default_ks(0)


def test_means_weigh_problems_alike() -> None:
    assert avg_at_n([(2, 2), (8, 0)]) == 0.5
    with pytest.raises(ConfigurationError, match="at least one problem"):
        avg_at_n([])
    with pytest.raises(ConfigurationError, match="k=4"):
        mean_pass_at_k([(8, 1), (2, 1)], 4)


def test_a_tau_that_stands_for_a_whole_number_of_samples_asks_for_no_more() -> None:
    assert 0.28 * 25 > 7
    assert g_pass_at_k(25, 7, 25, 0.28) == 1.0
    assert g_pass_at_k(25, 6, 25, 0.28) == 0.0


def test_g_pass_at_k_is_the_mean_over_all_draws() -> None:
    """Against the definition, for every count of up to eight samples and every threshold that a draw can reach."""
    for samples in range(1, 9):
        for correct in range(samples + 1):
            outcomes = [1] * correct + [0] * (samples - correct)
            for k in range(1, samples + 1):
                sums = [sum(draw) for draw in combinations(outcomes, k)]
                for needed in range(1, k + 1):
                    by_hand = Fraction(sum(s >= needed for s in sums), len(sums))
                    assert g_pass_at_k(samples, correct, k, needed / k) == pytest.approx(float(by_hand), rel=1e-14)
                if k % 2 == 0:
                    # Twice the mean of what a draw holds beyond its half, as a share of k.
                    area = Fraction(2 * sum(max(s - k // 2, 0) for s in sums), k * len(sums))
                    assert mg_pass_at_k(samples, correct, k) == pytest.approx(float(area), rel=1e-14)


def test_g_pass_at_k_has_the_values_of_its_authors() -> None:
    """Those that the metric's card tells (huggingface/evaluate, metrics/gpassk): 8 of 16 samples are right."""
    told = {
        (4, 0.25): 0.9615384615384616,
        (4, 0.5): 0.7153846153846154,
        (4, 0.75): 0.2846153846153846,
        (4, 1.0): 0.038461538461538464,
        (8, 0.25): 0.9949494949494949,
        (8, 0.5): 0.6903651903651904,
        (8, 0.75): 0.06596736596736597,
        (8, 1.0): 7.77000777000777e-05,
    }
    assert {(k, tau): g_pass_at_k(16, 8, k, tau) for k, tau in told} == pytest.approx(told, rel=1e-12)
    assert mg_pass_at_k(16, 8, 4) == pytest.approx(0.16153846153846152, rel=1e-12)
    assert mg_pass_at_k(16, 8, 8) == pytest.approx(0.09518259518259518, rel=1e-12)


@given(st.data())
def test_g_pass_at_k_falls_from_pass_at_k_to_all_right(data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, 300))
    correct, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    taus = sorted(data.draw(st.lists(st.floats(0, 1), min_size=2, max_size=5)))
    values = [g_pass_at_k(samples, correct, k, tau) for tau in taus]
    assert values == sorted(values, reverse=True)
    assert g_pass_at_k(samples, correct, k, 0.0) == pytest.approx(pass_at_k(samples, correct, k), rel=1e-11)
    assert g_pass_at_k(samples, correct, k, 1.0) == pytest.approx(comb(correct, k) / comb(samples, k), rel=1e-14)
    if correct < samples:
        assert g_pass_at_k(samples, correct, k, taus[0]) <= g_pass_at_k(samples, correct + 1, k, taus[0])
    if k % 2 == 0:
        all_right, half = g_pass_at_k(samples, correct, k, 1.0), g_pass_at_k(samples, correct, k, 0.5)
        assert all_right * (1 - 1e-12) <= mg_pass_at_k(samples, correct, k) <= half * (1 + 1e-12)


def test_g_pass_at_k_at_its_edges() -> None:
    assert [g_pass_at_k(5, c, 1, 0.5) for c in (0, 2, 5)] == [0.0, 0.4, 1.0]
    assert (mg_pass_at_k(64, 64, 64), mg_pass_at_k(64, 0, 64), mg_pass_at_k(64, 32, 64)) == (1.0, 0.0, 0.0)
    # 0.55 * 20 is 11.000000000000002 in floating point: eleven samples are enough.
    assert g_pass_at_k(20, 11, 20, 0.55) == 1.0
    with pytest.raises(ConfigurationError, match=r"from 0 to 1; got 1\.5"):
        g_pass_at_k(4, 2, 2, 1.5)
    with pytest.raises(ConfigurationError, match="k is even; got 3"):
        mg_pass_at_k(4, 2, 3)
    with pytest.raises(ConfigurationError, match="got k=6, 2 of 4"):
        mg_pass_at_k(4, 2, 6)
