from __future__ import annotations

from math import comb

import numpy as np
import pytest

from aipo_env.errors import ConfigurationError
from aipo_env.metrics import bootstrap_interval, paired_bootstrap, sample_difference, sample_interval


def _beta_quantile(a: int, b: int, q: float) -> float:
    """By bisection; the distribution function of Beta(a, b) with whole a, b is a binomial tail."""
    low, high = 0.0, 1.0
    for _ in range(60):
        x = (low + high) / 2
        below = sum(comb(a + b - 1, j) * x**j * (1 - x) ** (a + b - 1 - j) for j in range(a, a + b))
        low, high = (x, high) if below < q else (low, x)
    return low


@pytest.mark.parametrize("correct", [0, 1, 3, 15, 29, 30])
def test_zero_and_one_with_exact_is_clopper_pearson(correct: int) -> None:
    interval = bootstrap_interval([1] * correct + [0] * (30 - correct), method="exact", num_resamples=40_000)
    low = 0.0 if correct == 0 else _beta_quantile(correct, 31 - correct, 0.025)
    high = 1.0 if correct == 30 else _beta_quantile(correct + 1, 30 - correct, 0.975)
    assert interval.low == pytest.approx(low, abs=0.004)
    assert interval.high == pytest.approx(high, abs=0.004)
    assert interval.estimate == pytest.approx(correct / 30)


@pytest.mark.parametrize("correct", [0, 1, 6, 30])
def test_zero_and_one_is_the_mid_p_interval(correct: int) -> None:
    """At its ends, half the chance of the observed count and all of what lies beyond make 2.5 %."""
    interval = bootstrap_interval([1] * correct + [0] * (30 - correct), num_resamples=40_000)

    def chance(count: int, p: float) -> float:
        return comb(30, count) * p**count * (1 - p) ** (30 - count)

    if correct > 0:
        above = sum(chance(j, interval.low) for j in range(correct + 1, 31)) + 0.5 * chance(correct, interval.low)
        assert above == pytest.approx(0.025, abs=0.003)
    else:
        assert interval.low == 0.0
    if correct < 30:
        below = sum(chance(j, interval.high) for j in range(correct)) + 0.5 * chance(correct, interval.high)
        assert below == pytest.approx(0.025, abs=0.003)
    else:
        assert interval.high == 1.0


def test_all_zero_has_a_length_that_shrinks_with_the_problems() -> None:
    assert bootstrap_interval([0.0] * 30).high == pytest.approx(1 - 0.05 ** (1 / 30), abs=1e-3)
    assert bootstrap_interval([0.0] * 300).high == pytest.approx(1 - 0.05 ** (1 / 300), abs=1e-4)
    assert bootstrap_interval([0.0] * 30).low == 0.0
    assert bootstrap_interval([1.0] * 30).high == 1.0


def test_many_problems_agree_with_the_normal_interval() -> None:
    values = np.random.default_rng(0).beta(0.4, 0.6, 1000)
    interval = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(1000)
    assert interval.high - interval.estimate == pytest.approx(half, rel=0.05)
    assert interval.estimate - interval.low == pytest.approx(half, rel=0.05)
    plain = bootstrap_interval(values, method="percentile")
    assert plain.high - plain.low == pytest.approx(2 * half, rel=0.05)


def test_samples_of_a_problem_stay_together() -> None:
    samples = np.random.default_rng(0).random((30, 8)) < 0.5
    assert bootstrap_interval(samples) == bootstrap_interval(samples.mean(axis=1))


def test_reproducible_and_stable() -> None:
    values = np.random.default_rng(0).beta(0.3, 0.7, 30)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = bootstrap_interval(values, seed=1)
    assert first == bootstrap_interval(values, seed=1)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    other = bootstrap_interval(values, seed=2)
    assert first != other
    assert first.low == pytest.approx(other.low, abs=0.01)
    assert first.high == pytest.approx(other.high, abs=0.01)


def test_confidence_and_bounds() -> None:
    values = np.random.default_rng(0).beta(0.3, 0.7, 30)
    narrow, wide = bootstrap_interval(values, confidence=0.5), bootstrap_interval(values, confidence=0.99)
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high
    # The same data on another scale: the same interval, scaled.
    percent = bootstrap_interval(values * 100, bounds=(0.0, 100.0))
    assert percent.high == pytest.approx(100 * bootstrap_interval(values).high)
    tokens = bootstrap_interval([100.0, 2000.0, 431.0], method="percentile")
    assert tokens.low >= 100.0
    assert tokens.high <= 2000.0


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "one value for each problem"),
        ([0.2, 1.2], {}, r"within bounds=\(0.0, 1.0\); got 0.2 to 1.2"),
        ([0.2, float("nan")], {}, "not finite"),
        ([0.2], {"confidence": 95.0}, "0 < confidence < 1"),
        ([0.2], {"num_resamples": 10}, "100 resamples"),
        ([0.2], {"method": "bca"}, "'mid_p', 'exact' or 'percentile'; got 'bca'"),
        ([[[0.2]]], {}, r"shape \(1, 1, 1\)"),
    ],
)
def test_what_makes_no_sense_is_refused(values: list[float], options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        bootstrap_interval(values, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("wins", "losses"), [(8, 1), (5, 0), (12, 7), (3, 3), (0, 0)])
def test_paired_zero_and_one_is_mcnemar(wins: int, losses: int) -> None:
    """The exact and the mid-P McNemar test, from the binomial distribution of the discordant problems."""
    ties = 40 - wins - losses
    a, b = [1] * wins + [0] * losses + [1] * ties, [0] * wins + [1] * losses + [1] * ties
    discordant, fewer = wins + losses, min(wins, losses)
    pmf = [comb(discordant, j) / 2**discordant for j in range(discordant + 1)]
    exact = min(1.0, 2 * sum(pmf[: fewer + 1]))
    mid_p = min(1.0, 2 * sum(pmf[:fewer]) + pmf[fewer])
    assert paired_bootstrap(a, b, method="exact", num_resamples=40_000).p_value == pytest.approx(exact, abs=0.006)
    assert paired_bootstrap(a, b, num_resamples=40_000).p_value == pytest.approx(mid_p, abs=0.006)


def test_paired_is_the_difference_and_tighter_than_apart() -> None:
    rng = np.random.default_rng(0)
    base = rng.beta(0.3, 0.7, 500)
    a, b = rng.binomial(8, base**0.9) / 8, rng.binomial(8, base) / 8
    result = paired_bootstrap(a, b)
    assert result.difference == pytest.approx(a.mean() - b.mean())
    assert result.low < result.difference < result.high
    apart = bootstrap_interval(a).high - bootstrap_interval(a).low
    assert result.high - result.low < apart
    mirrored = paired_bootstrap(b, a)
    assert mirrored.difference == pytest.approx(-result.difference)
    assert mirrored.low == pytest.approx(-result.high, abs=0.004)


def test_p_value_and_interval_agree() -> None:
    rng = np.random.default_rng(4)
    for _ in range(40):
        a, b = rng.random(25) < 0.6, rng.random(25) < 0.3
        result = paired_bootstrap(a, b)
        if abs(result.p_value - 0.05) > 0.004:
            assert (result.p_value < 0.05) == (result.low > 0 or result.high < 0)


def test_equal_runs_are_not_different() -> None:
    same = paired_bootstrap([0.0, 1.0, 0.5] * 10, [0.0, 1.0, 0.5] * 10)
    assert (same.difference, same.p_value) == (0.0, 1.0)
    assert same.low == pytest.approx(-(1 - 0.05 ** (1 / 30)), abs=1e-3)
    with pytest.raises(ConfigurationError, match="got 3 and 2"):
        paired_bootstrap([1, 0, 1], [1, 0])


def test_a_known_largest_difference_shortens_the_interval() -> None:
    rng = np.random.default_rng(1)
    base = rng.beta(2.0, 2.0, 30)
    a, b = base + 0.1 * rng.random(30), base
    free, known = (
        paired_bootstrap(a, b, bounds=(0.0, 1.1)),
        paired_bootstrap(a, b, bounds=(0.0, 1.1), largest_difference=0.1),
    )
    assert known.high - known.low < 0.5 * (free.high - free.low)
    assert known.p_value < 0.01 < free.p_value
    with pytest.raises(ConfigurationError, match=r"largest_difference=0.05 is less than the 0.09"):
        paired_bootstrap(a, b, bounds=(0.0, 1.1), largest_difference=0.05)


def test_sample_level_is_apart_from_problem_level() -> None:
    """Problems always or never solved: nothing is left to sampling, everything to which problems they are."""
    counts = [(32, 32)] * 10 + [(32, 0)] * 20
    sampling, problems = sample_interval(counts), bootstrap_interval([c / n for n, c in counts])
    assert sampling.estimate == problems.estimate == pytest.approx(1 / 3)
    assert sampling.high - sampling.low < 0.007
    assert problems.high - problems.low > 0.30


def test_sample_level_length() -> None:
    """With equal rates: 1.96 sqrt(p (1-p) / (n problems))."""
    interval = sample_interval([(16, 8)] * 50)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 800), rel=0.06)
    difference = sample_difference([(16, 8)] * 50, [(16, 8)] * 50)
    assert difference.estimate == 0.0
    assert difference.high - difference.low == pytest.approx(2 * 1.96 * np.sqrt(0.5 / 800), rel=0.06)


def test_sample_level_edges() -> None:
    never = sample_interval([(32, 0)] * 30)
    assert never.low == 0.0
    assert never.high == pytest.approx(1 - 0.05 ** (1 / 960), rel=0.06)
    # One sample for each problem: the pooled binomial, here the mid-P interval of 0 of 30.
    assert sample_interval([(1, 0)] * 30).high == pytest.approx(1 - 0.05 ** (1 / 30), rel=0.01)
    assert sample_interval([(1, 1)]).low == pytest.approx(0.05, abs=0.001)
    mixed = sample_interval([(1, 1), (1, 0), (4, 2), (2, 1)])
    assert mixed.estimate == 0.5
    assert mixed.low < 0.3 < 0.7 < mixed.high
    with pytest.raises(ConfigurationError, match="got 1 and 2"):
        sample_difference([(2, 1)], [(2, 1), (2, 0)])
    with pytest.raises(ConfigurationError, match="at least one problem"):
        sample_interval([])
    with pytest.raises(ConfigurationError, match="0 < confidence < 1"):
        sample_interval([(2, 1)], confidence=95)
