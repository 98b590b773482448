"""The nominal 95 % intervals hold the truth as often as they say: exactly, by enumeration, where the values are few; else simulated.

`pytest tests/metrics/test_coverage.py -s` prints what was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
import pytest

from aipo_env.metrics import bootstrap_interval, paired_bootstrap, sample_difference, sample_interval
from aipo_env.metrics.intervals import Method

DATA_SETS = 600
NOISE = 0.027
"""Three standard errors of a coverage of 0.95 over so many data sets."""
Rates = Callable[[np.random.Generator, int], np.ndarray]


def _report(what: str, coverage: float, width: float) -> None:
    print(f"{what}: covers {coverage:.3f}, mean width {width:.3f}")


@pytest.mark.parametrize(
    ("num_problems", "method", "least", "mean"),
    [(30, "mid_p", 0.92, (0.95, 0.97)), (30, "exact", 0.948, (0.97, 0.985)), (100, "mid_p", 0.93, (0.945, 0.965))],
)
def test_values_zero_and_one(num_problems: int, method: Method, least: float, mean: tuple[float, float]) -> None:
    """One sample for each problem: the coverage at every true mean, without simulation error."""
    intervals = [
        bootstrap_interval([1.0] * c + [0.0] * (num_problems - c), method=method) for c in range(num_problems + 1)
    ]
    truths = np.linspace(0.004, 0.996, 249)
    coverage = np.zeros(len(truths))
    for c, interval in enumerate(intervals):
        chance = comb(num_problems, c) * truths**c * (1 - truths) ** (num_problems - c)
        coverage += chance * ((interval.low <= truths) & (truths <= interval.high))
    print(
        f"{method}, {num_problems} problems, one sample: covers {coverage.mean():.3f} on average over the means "
        f"0.004 to 0.996, {coverage.min():.3f} at the least ({truths[coverage.argmin()]:.3f})"
    )
    assert coverage.min() >= least
    assert mean[0] <= coverage.mean() <= mean[1]


def test_the_percentile_bootstrap_does_not_cover_small_means() -> None:
    """Why it is not the default: all-zero data give [0, 0]."""
    intervals = [bootstrap_interval([1.0] * c + [0.0] * (30 - c), method="percentile") for c in range(31)]
    covered = sum(comb(30, c) * 0.05**c * 0.95 ** (30 - c) for c, i in enumerate(intervals) if i.low <= 0.05 <= i.high)
    _report("percentile, 30 problems, mean 0.05", covered, float("nan"))
    assert covered < 0.80
    assert (intervals[0].low, intervals[0].high) == (0.0, 0.0)


def _beta(a: float, b: float) -> Rates:
    return lambda rng, n: rng.beta(a, b, n)


def _some(share: float, rate: float, others: float = 0.0) -> Rates:
    return lambda rng, n: np.where(rng.random(n) < share, rate, others)


CASES = {
    # name: problems, samples, distribution of the solve rates, their mean, whether the interval may cover far more
    "AIME-like: 30 x 32, most never or always": (30, 32, _beta(0.3, 0.7), 0.3, False),
    "AIME-like: 30 x 32, mean 0.09": (30, 32, _beta(0.15, 1.5), 0.15 / 1.65, False),
    "30 x 32, one problem in ten at 0.3": (30, 32, _some(0.1, 0.3), 0.03, False),
    "30 x 32, one problem in fifty solved": (30, 32, _some(0.02, 1.0, 0.03), 0.02 + 0.98 * 0.03, False),
    "30 x 8, mean 0.97": (30, 8, lambda rng, n: 1 - rng.beta(0.05, 1.6, n), 1 - 0.05 / 1.65, False),
    "30 x 4, mean 0.01": (30, 4, _beta(0.02, 2.0), 0.02 / 2.02, False),
    "30 x 8, even": (30, 8, _beta(1.0, 1.0), 0.5, False),
    "30 x 32, all near 0.5": (30, 32, _beta(20.0, 20.0), 0.5, True),
    "200 x 4, MATH-like": (200, 4, _beta(0.5, 0.4), 0.5 / 0.9, False),
    "198 x 8, GPQA-like": (198, 8, _beta(0.6, 1.0), 0.375, False),
}


@pytest.mark.parametrize("name", CASES)
def test_problem_level(name: str) -> None:
    num_problems, num_samples, rates, mean, conservative = CASES[name]
    rng = np.random.default_rng(7)
    intervals = [
        bootstrap_interval(rng.binomial(num_samples, rates(rng, num_problems)) / num_samples, num_resamples=500, seed=i)
        for i in range(DATA_SETS)
    ]
    coverage = np.mean([i.low <= mean <= i.high for i in intervals])
    _report(name, coverage, np.mean([i.high - i.low for i in intervals]))
    assert coverage >= 0.95 - NOISE
    assert conservative or coverage <= 0.995


PAIRS = {
    # name: problems, samples, how the rates of the two policies are drawn, whether the interval may cover far more
    "30 x 1, few differ": (30, 1, lambda rng, n: _either(rng, n, 0.05, 0.02), False),
    "30 x 1, one in ten newly solved": (30, 1, lambda rng, n: _either(rng, n, 0.1, 0.0), False),
    "30 x 1, many differ": (30, 1, lambda rng, n: _either(rng, n, 0.3, 0.2), False),
    "500 x 1, few differ": (500, 1, lambda rng, n: _either(rng, n, 0.05, 0.03), False),
    "30 x 32, one in twenty newly solved": (30, 32, lambda rng, n: _newly(rng, n, 0.05, 0.9), True),
    "30 x 32, all a little better": (30, 32, lambda rng, n: _better(rng, n, 1.3), True),
    "200 x 4, all a little better": (200, 4, lambda rng, n: _better(rng, n, 1.3), False),
}


def _either(rng: np.random.Generator, n: int, first: float, second: float) -> tuple[np.ndarray, np.ndarray]:
    """Problems that only the first, or only the second, policy solves; the others both or neither."""
    draw, both = rng.random(n), rng.random(n) < 0.5
    only_first, only_second = draw < first, draw > 1 - second
    return np.where(only_first, 1.0, both & ~only_second), np.where(only_second, 1.0, both & ~only_first)


def _newly(rng: np.random.Generator, n: int, share: float, rate: float) -> tuple[np.ndarray, np.ndarray]:
    base = rng.beta(0.1, 1.0, n)
    return np.where(rng.random(n) < share, np.maximum(base, rate), base), base


def _better(rng: np.random.Generator, n: int, power: float) -> tuple[np.ndarray, np.ndarray]:
    base = rng.beta(0.3, 0.7, n)
    return base, base**power


@pytest.mark.parametrize("name", PAIRS)
def test_paired(name: str) -> None:
    num_problems, num_samples, draw, conservative = PAIRS[name]
    rng = np.random.default_rng(11)
    first, second = draw(rng, 1_000_000)
    truth = float(np.mean(first - second))
    differences = []
    for i in range(DATA_SETS):
        a, b = (rng.binomial(num_samples, rates) / num_samples for rates in draw(rng, num_problems))
        differences.append(paired_bootstrap(a, b, num_resamples=500, seed=i))
    coverage = np.mean([d.low <= truth <= d.high for d in differences])
    _report(name, coverage, np.mean([d.high - d.low for d in differences]))
    assert coverage >= 0.95 - NOISE
    assert conservative or coverage <= 0.995


def test_paired_with_the_largest_difference_seen() -> None:
    """The assumption that no problem differs more than those seen: nearly nominal where it holds, too short where it does not."""
    coverage = {}
    for name in ("30 x 32, all a little better", "30 x 32, one in twenty newly solved"):
        num_problems, num_samples, draw, _ = PAIRS[name]
        rng = np.random.default_rng(11)
        first, second = draw(rng, 1_000_000)
        truth = float(np.mean(first - second))
        found = []
        for i in range(DATA_SETS):
            a, b = (rng.binomial(num_samples, rates) / num_samples for rates in draw(rng, num_problems))
            largest = float(np.abs(a - b).max())
            found.append(paired_bootstrap(a, b, largest_difference=largest, num_resamples=500, seed=i))
        coverage[name] = np.mean([d.low <= truth <= d.high for d in found])
        _report(f"{name}, largest difference seen", coverage[name], np.mean([d.high - d.low for d in found]))
    regular, rare = coverage.values()
    assert 0.95 - NOISE <= regular <= 0.985
    assert rare < 0.87


def test_the_p_value_rejects_no_more_often_than_it_says() -> None:
    for name, shares in {"few differ": 0.04, "many differ": 0.25}.items():
        rng = np.random.default_rng(5)
        p_values = []
        for i in range(DATA_SETS):
            a, b = (x.astype(float) for x in _either(rng, 30, shares, shares))
            p_values.append(paired_bootstrap(a, b, num_resamples=500, seed=i).p_value)
        rejected = np.mean([p < 0.05 for p in p_values])
        print(f"p < 0.05 where the policies are equal, {name}: {rejected:.3f}")
        assert rejected <= 0.05 + NOISE


FIXED = {
    # name: the rates of the problems, samples; whether the interval may cover far more
    "30 x 32, AIME-like": (np.random.default_rng(2).beta(0.3, 0.7, 30), 32, False),
    "30 x 4, AIME-like": (np.random.default_rng(2).beta(0.3, 0.7, 30), 4, False),
    "30 x 2, AIME-like": (np.random.default_rng(2).beta(0.3, 0.7, 30), 2, False),
    "30 x 8, nearly never": (np.full(30, 0.004), 8, False),
    "30 x 32, one problem open": (np.array([0.5] + [0.0] * 29), 32, False),
    "30 x 1, equal rates": (np.full(30, 0.3), 1, False),
    "30 x 1, unequal rates": (np.array([1.0] * 9 + [0.0] * 20 + [0.5]), 1, True),
}


@pytest.mark.parametrize("name", FIXED)
def test_sample_level(name: str) -> None:
    rates, num_samples, conservative = FIXED[name]
    rng = np.random.default_rng(3)
    intervals = [
        sample_interval([(num_samples, int(c)) for c in rng.binomial(num_samples, rates)], num_resamples=300, seed=i)
        for i in range(DATA_SETS * 2 // 3)
    ]
    coverage = np.mean([i.low <= rates.mean() <= i.high for i in intervals])
    _report(name, coverage, np.mean([i.high - i.low for i in intervals]))
    assert coverage >= 0.95 - NOISE
    assert conservative or coverage <= 0.995


def test_sample_level_of_a_difference() -> None:
    rng = np.random.default_rng(3)
    first, second = _better(np.random.default_rng(2), 30, 1.3)
    truth = float(np.mean(first - second))
    intervals = []
    for i in range(DATA_SETS * 2 // 3):
        a, b = ([(8, int(c)) for c in rng.binomial(8, rates)] for rates in (first, second))
        intervals.append(sample_difference(a, b, num_resamples=300, seed=i))
    coverage = np.mean([i.low <= truth <= i.high for i in intervals])
    _report("30 x 8, difference on the same problems", coverage, np.mean([i.high - i.low for i in intervals]))
    assert 0.95 - NOISE <= coverage <= 0.99
