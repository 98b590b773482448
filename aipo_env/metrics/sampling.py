"""Intervals for the noise of sampling alone: the problems stay, other samples of them could have been drawn.

They say how well the mean solve rate *on these problems* is known, and shrink with the number of samples.
`bootstrap_interval` says how well it is known for problems of this kind, and shrinks with the number of problems. The
two answer different questions and are reported apart (as in Miller, "Adding Error Bars to Evals", arXiv 2411.00640).

Method. Each resample draws a solve rate for each problem, from a beta distribution whose mean is the problem's observed
rate p and whose mass is n-2: its variance p(1-p)/(n-1) is an unbiased estimate of the sampling variance (the rescaling
of Rao and Wu, JASA 83:231, 1988). A problem that was always or never solved has then no variance at all, and thirty of
them an interval of length zero. Hence one more sample that was not seen, as in `intervals`: half of the resamples
see it solved, on the problem with the lowest rate, half unsolved, on the one with the highest. It is one sample for the
whole benchmark, not one for each problem: that would push every mean towards one half. So 0 of 30 x 32 gives [0, 0.003].

Problems with a single sample tell nothing about their own noise. They are pooled as if they had one common rate, which
is conservative: a sum of independent Bernoulli variables varies most if all rates are equal (Hoeffding, Annals of
Mathematical Statistics 27:713, 1956). A greedy policy has no sampling noise, and no use for these intervals.

Coverage of the nominal 95 %, as `pytest tests/metrics/test_coverage.py -s` measures it (400 sets of samples each, so
+- 0.02): 0.950 to 0.953 for 30 AIME-like problems with 2, 4 and 32 samples, 0.975 to 0.988 where nearly nothing is
solved, 0.945 for a difference, 1.000 with a single sample of problems of very unequal rates. With two samples and few
problems that are neither always nor never solved it can fall to 0.90: such data hold too little about their own variance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aipo_env.errors import ConfigurationError
from aipo_env.metrics.intervals import DEFAULT_RESAMPLES, Floats, Interval, check_resampling, unseen_share
from aipo_env.metrics.pass_at_k import avg_at_n

Counts = Sequence[tuple[int, int]]


def sample_interval(
    counts: Counts, *, confidence: float = 0.95, num_resamples: int = DEFAULT_RESAMPLES, seed: int = 0
) -> Interval:
    """The interval of the mean solve rate of these very problems, over other samples of them.

    Args:
        counts: samples and correct samples of each problem.
        confidence: nominal coverage.
        num_resamples: draws of the solve rates.
        seed: of the draws; the global numpy state is not touched.

    Raises:
        ConfigurationError: when there is no problem, or one has no sample, or an option makes no sense.
    """
    estimate = avg_at_n(counts)
    check_resampling(confidence, num_resamples)
    top, bottom = _draws(counts, num_resamples, np.random.default_rng(seed))
    return _interval(np.concatenate((top, bottom)), estimate, confidence)


def sample_difference(
    a: Counts, b: Counts, *, confidence: float = 0.95, num_resamples: int = DEFAULT_RESAMPLES, seed: int = 0
) -> Interval:
    """The interval of the difference (a - b) of two mean solve rates on these very problems.

    Two policies' samples of one problem are independent of each other, so the two noises add; what the problems have in common
    cancels, as it does in `paired_bootstrap`.

    Args:
        a: samples and correct samples of each problem under the first policy.
        b: the same problems under the second one.
        confidence: nominal coverage.
        num_resamples: draws.
        seed: of the draws.

    Raises:
        ConfigurationError: as `sample_interval`, and when the numbers of problems differ.
    """
    if len(a) != len(b):
        raise ConfigurationError(
            f"a comparison needs the same problems on both sides; got {len(a)} and {len(b)}. Keep the common ones."
        )
    estimate = avg_at_n(a) - avg_at_n(b)
    check_resampling(confidence, num_resamples)
    rng = np.random.default_rng(seed)
    top_a, bottom_a = _draws(a, num_resamples, rng)
    top_b, bottom_b = _draws(b, num_resamples, rng)
    return _interval(np.concatenate((top_a - bottom_b, bottom_a - top_b)), estimate, confidence)


def _interval(means: Floats, estimate: float, confidence: float) -> Interval:
    tail = (1.0 - confidence) / 2
    low, high = (float(x) for x in np.quantile(means, (tail, 1.0 - tail)))
    return Interval(min(low, estimate), estimate, max(high, estimate))


def _draws(counts: Counts, num_resamples: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Resampled means over the problems: with the unseen sample solved, and unsolved."""
    # Rows of a stratum: samples, correct, how many problems it stands for, the mass of its beta distribution.
    strata = [(n, c, 1, n - 2.0) for n, c in counts if n > 1]
    single = [c for n, c in counts if n == 1]
    if single:
        strata.append((len(single), sum(single), len(single), float(len(single))))
    mean = np.zeros(num_resamples)
    lowest, highest = (min(strata, key=_rate), max(strata, key=_rate))
    drawn_lowest = drawn_highest = mean
    for stratum in strata:
        n, c, problems, mass = stratum
        rate = c / n
        if c in (0, n):
            rates = np.full(num_resamples, rate)
        elif mass == 0.0:
            rates = (rng.random(num_resamples) < rate).astype(np.float64)
        else:
            rates = rng.beta(mass * rate, mass * (1.0 - rate), num_resamples)
        mean += rates * (problems / len(counts))
        drawn_lowest = rates if stratum is lowest else drawn_lowest
        drawn_highest = rates if stratum is highest else drawn_highest
    low_share = unseen_share(lowest[0], num_resamples, rng) * (lowest[2] / len(counts))
    high_share = unseen_share(highest[0], num_resamples, rng) * (highest[2] / len(counts))
    return mean + low_share * (1.0 - drawn_lowest), mean - high_share * drawn_highest


def _rate(stratum: tuple[int, int, int, float]) -> float:
    return stratum[1] / stratum[0]
