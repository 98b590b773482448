r"""Intervals for a mean over problems that keep their confidence on small benchmarks, and paired comparisons.

The interval says where the mean would lie had other problems of this kind been drawn (and, with them, other samples).
A benchmark may have 30 problems, most of them always or never solved. There the usual intervals fail: after few
successes the percentile bootstrap and Student's t are far too short, and they are [0, 0] when all is zero. The figures
stand below.

Method. The Bayesian bootstrap (Rubin, Annals of Statistics 9:130, 1981) weighs the n problems with Dirichlet(1, .., 1)
weights. Following Gaffke ("Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative
variable", 2005) and Learned-Miller and Thomas (arXiv 1905.06208) one more problem is added that was not seen: at the
largest possible value for the upper end of the interval, at the least for the lower end.

- `exact` takes the 1 - alpha/2 quantile of the former and the alpha/2 quantile of the latter. For values in {0, 1}
  this is the Clopper-Pearson interval. That it covers no less than its confidence for any distribution on the bounds
  is conjectured: proved for two-point distributions, no counterexample is known.
- `mid_p`, the default, takes both quantiles of the even mixture of the two, because exact intervals cover more than
  they say. For values in {0, 1} it is the mid-P interval (Lancaster, JASA 56:223, 1961; Berry and Armitage, The
  Statistician 44:417, 1995), and for paired values in {0, 1} the p-value of `paired_bootstrap` is that of the mid-P
  McNemar test, which Fagerland, Lydersen and Laake (BMC Medical Research Methodology 13:91, 2013) recommend.
- `percentile` is the ordinary bootstrap, kept to compare with what others report.

Bowyer, Aitchison and Ivanova (arXiv 2503.01747) show the same failure of the usual intervals in evaluations of
language models.

Coverage of the nominal 95 %, as `pytest tests/metrics/test_coverage.py -s` measures it (600 data sets each, so +- 0.017;
exactly for one sample per problem):

    one sample, 30 problems, every mean from 0.004 to 0.996    mid_p 0.958 on average, 0.925 at the least
                                                               exact 0.973 on average, 0.951 at the least
    one sample, 30 problems, mean 0.05                         percentile 0.782
    30 problems x 4 .. 32 samples, means 0.01 .. 0.97          mid_p 0.945 to 0.992; 0.998 where all rates are near 0.5
    200 x 4 and 198 x 8                                        mid_p 0.950, 0.957
    paired: 30 x 1, 500 x 1, 200 x 4                           mid_p 0.943 to 0.992
    paired: 30 x 32, all a little better                       mid_p 1.000 (length 0.20); 0.975 (length 0.08) with the
                                                               largest difference seen as `largest_difference`
    paired: 30 x 32, one in twenty newly solved                mid_p 1.000; 0.80 with the largest difference seen
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aipo_env.errors import ConfigurationError

Method = Literal["mid_p", "exact", "percentile"]
Values = Sequence[float] | Sequence[Sequence[float]] | NDArray[np.floating] | NDArray[np.integer] | NDArray[np.bool_]
Floats = NDArray[np.float64]

DEFAULT_RESAMPLES = 10_000
"""The ends of an interval then move by about 1 % of its width from seed to seed, and p-values down to 0.001 can be read."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate between the ends of its interval."""

    low: float
    estimate: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much two results differ on the same problems."""

    difference: float
    """Mean of the first minus mean of the second."""
    low: float
    high: float
    p_value: float
    """Two-sided, of the hypothesis that the means are equal: the largest level at which the interval still holds 0. So
    it is below 1 - confidence exactly when the interval excludes 0 (up to the resampling's own noise)."""


def bootstrap_interval(
    values: Values,
    *,
    confidence: float = 0.95,
    num_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    method: Method = "mid_p",
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """The interval of a mean over problems, for the population that the problems were drawn from.

    Args:
        values: one value for each problem (a solve rate, a pass@k, a maj@n), or an array of problems x samples whose
            rows are averaged first. Samples of one problem are never resampled apart from it.
        confidence: nominal coverage.
        num_resamples: Dirichlet (or multinomial) draws.
        seed: of the draws; the global numpy state is not touched.
        method: `mid_p`, `exact` (never less than its confidence, wider) or `percentile`; see the module's docstring.
        bounds: the least and the largest value that any problem could have. Ignored by `percentile`, which is the one method
            for quantities without bounds, such as numbers of tokens.

    Raises:
        ConfigurationError: when there is no problem, a value is not finite or out of bounds, or an option makes no sense.
    """
    means = _problem_means(values)
    _check(means, confidence, num_resamples, method, bounds)
    estimate = float(means.mean())
    top, bottom = _draws(means, num_resamples, seed, method, bounds)
    low, high = _ends(top, bottom, confidence, method)
    return Interval(min(low, estimate), estimate, max(high, estimate))


def paired_bootstrap(
    a: Values,
    b: Values,
    *,
    confidence: float = 0.95,
    num_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    method: Method = "mid_p",
    bounds: tuple[float, float] = (0.0, 1.0),
    largest_difference: float | None = None,
) -> PairedDifference:
    """The difference of two means over the same problems; each resample weighs the problems alike for both.

    The extra problem (see the module's docstring) is one that only the first, or only the second, solves entirely. So the
    interval allows for problems that one policy newly solves and that thirty problems may happen not to show. Where
    both policies have many samples and differ a little on every problem, this is conservative: 30 problems x 32 samples
    give an interval up to three times as long as Student's t. `sample_difference` says how well the difference on
    *these* problems is known; and who knows how far the two can differ on any problem may say so.

    Args:
        a: values or problems x samples, as for `bootstrap_interval`.
        b: the same problems in the same order; the number of samples may differ.
        confidence: nominal coverage.
        num_resamples: draws.
        seed: of the draws.
        method: as for `bootstrap_interval`.
        bounds: of the values, not of their differences.
        largest_difference: by which the two could differ on any problem; the width of the bounds by default. With the
            largest one seen the interval is about a fifth longer than Student's t, and covers no more than that one does
            where a few unseen problems matter: see the coverages in the module's docstring.

    Raises:
        ConfigurationError: as `bootstrap_interval`, when the numbers of problems differ, and when `largest_difference` is
            smaller than a difference in the data.
    """
    first, second = _problem_means(a), _problem_means(b)
    if len(first) != len(second):
        raise ConfigurationError(
            f"a paired comparison needs the same problems on both sides; got {len(first)} and {len(second)}. "
            "Keep the common ones, in the same order."
        )
    for means in (first, second):
        _check(means, confidence, num_resamples, method, bounds)
    differences = first - second
    difference = float(differences.mean())
    largest = bounds[1] - bounds[0] if largest_difference is None else largest_difference
    if largest < np.abs(differences).max() - 1e-9 and method != "percentile":
        raise ConfigurationError(
            f"largest_difference={largest} is less than the {np.abs(differences).max():.6g} that two values differ by. "
            "Raise it, or leave it out."
        )
    width = float(largest)
    top, bottom = _draws(differences, num_resamples, seed, method, (-width, width))
    low, high = _ends(top, bottom, confidence, method)
    return PairedDifference(difference, min(low, difference), max(high, difference), _p_value(top, bottom, method))


def _problem_means(values: Values) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ConfigurationError(
            f"expected one value for each problem, or an array of problems x samples; got shape {array.shape}. "
            "Average ragged samples problem by problem first."
        )
    return array if array.ndim == 1 else array.mean(axis=1)


def _check(means: Floats, confidence: float, num_resamples: int, method: str, bounds: tuple[float, float]) -> None:
    check_resampling(confidence, num_resamples)
    if method not in ("mid_p", "exact", "percentile"):
        raise ConfigurationError(f"method is 'mid_p', 'exact' or 'percentile'; got {method!r}.")
    if not np.isfinite(means).all():
        raise ConfigurationError("a value is not finite. Leave out problems that were not scored.")
    slack = 1e-9 * (bounds[1] - bounds[0])
    if method != "percentile" and (means.min() < bounds[0] - slack or means.max() > bounds[1] + slack):
        raise ConfigurationError(
            f"values must lie within bounds={bounds}; got {means.min():.6g} to {means.max():.6g}. "
            "State their true bounds, or use method='percentile' if they have none."
        )


def check_resampling(confidence: float, num_resamples: int) -> None:
    """Refuses a confidence that is none, and fewer resamples than an interval needs."""
    if not 0.0 < confidence < 1.0 or num_resamples < 100:
        raise ConfigurationError(
            f"expected 0 < confidence < 1 and at least 100 resamples; got {confidence} and {num_resamples}."
        )


def _draws(
    means: Floats, num_resamples: int, seed: int, method: str, bounds: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Resampled means: with the extra problem at the upper bound, and at the lower bound. Equal ones for `percentile`."""
    rng = np.random.default_rng(seed)
    # Problems with the same value share a weight: a sum of exponentials is one gamma. Rounding joins what differs by noise.
    support, counts = np.unique(np.round(means, 12), return_counts=True)
    seen = []
    for rows in _chunks(num_resamples, len(support)):
        if method == "percentile":
            weights = rng.multinomial(len(means), counts / len(means), size=rows).astype(np.float64)
        else:
            weights = rng.standard_gamma(counts.astype(np.float64), size=(rows, len(support)))
        seen.append(weights @ support / weights.sum(axis=1))
    mean = np.concatenate(seen)
    if method == "percentile":
        return mean, mean
    share = unseen_share(len(means), num_resamples, rng)
    top, bottom = ((1.0 - share) * mean + end * share for end in (bounds[1], bounds[0]))
    return np.minimum(top, bounds[1]), np.maximum(bottom, bounds[0])


def unseen_share(num_seen: int, num_resamples: int, rng: np.random.Generator) -> Floats:
    """The Dirichlet weight of one more observation, Beta(1, n), independent of how the others share the rest.

    Stratified: the quantiles of the distribution in random order, so that the ends next to 0 and 1 carry no noise.
    """
    uniform = (rng.permutation(num_resamples) + 0.5) / num_resamples
    return np.asarray(-np.expm1(np.log(uniform) / num_seen))


def _chunks(num_resamples: int, width: int) -> Iterator[int]:
    """Numbers of resamples whose weights fit into some megabytes."""
    rows = max(1, 2**20 // width)
    for start in range(0, num_resamples, rows):
        yield min(rows, num_resamples - start)


def _ends(top: Floats, bottom: Floats, confidence: float, method: str) -> tuple[float, float]:
    """The ends of the interval from the resampled means."""
    tail = (1.0 - confidence) / 2
    if method == "mid_p":
        top = bottom = np.concatenate((top, bottom))
    return float(np.quantile(bottom, tail)), float(np.quantile(top, 1.0 - tail))


def _p_value(top: Floats, bottom: Floats, method: str) -> float:
    """Twice the smaller tail beyond zero, at most 1 and never 0: one more resample could have landed there."""
    if method == "mid_p":
        top = bottom = np.concatenate((top, bottom))
    tail = min(np.count_nonzero(bottom <= 0.0), np.count_nonzero(top >= 0.0))
    return min(1.0, 2.0 * (int(tail) + 1) / (len(top) + 1))
