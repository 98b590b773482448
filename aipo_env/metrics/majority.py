"""maj@n: the answer that most samples agree on, answers being compared by a grader and not as strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from aipo_env.errors import ConfigurationError

TIE_RULE = (
    "the largest cluster of equivalent answers wins; a tie counts as the mean over the tied clusters (a fair draw among "
    "them); samples without an answer form no cluster and never win"
)
"""How `maj_at_n` decides, in words for a report."""

Same = Callable[[str, str], bool]
"""`same(representative, answer)`: whether two answers mean the same."""


def cluster_answers(answers: Sequence[str | None], same: Same) -> list[list[int]]:
    """Groups the samples whose answers are equivalent; returns their indices, cluster by cluster.

    One greedy pass: an answer joins the first cluster whose *representative* (its first member) it equals, or founds a
    new one. So every member equals its representative. A grader's equivalence need not be transitive (0.333 may equal
    1/3 and 0.3333, and these not each other's roundings); then two members of a cluster may differ, an answer that
    equals several representatives joins the earliest cluster, and the order of the samples matters. It is the order in
    which they were drawn, hence the result is reproducible. Equal strings are never compared twice: `same` is called
    once for each pair of a distinct answer and a representative, at most.

    Args:
        answers: of the samples, in the order in which they were drawn; None where a sample gave none.
        same: called with the representative first, as one calls a grader with the reference first.
    """
    clusters: list[list[int]] = []
    cluster_of: dict[str, int] = {}
    representatives: list[str] = []
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        if answer not in cluster_of:
            matches = (i for i, other in enumerate(representatives) if same(other, answer))
            found = next(matches, len(representatives))
            if found == len(representatives):
                representatives.append(answer)
                clusters.append([])
            cluster_of[answer] = found
        clusters[cluster_of[answer]].append(index)
    return clusters


def maj_at_n(answers: Sequence[str | None], correct: Sequence[bool], same: Same, n: int | None = None) -> float:
    """The chance that the majority answer of n samples of one problem is correct.

    Answers are clustered by `cluster_answers`; the largest cluster wins. Ties count as the mean over the tied clusters:
    the expectation under a fair draw among them, so no order of the samples is favoured and nothing is random. Samples
    without an answer belong to no cluster and never win; if no sample answered, the value is 0. A cluster is worth the
    share of its members that are correct: 1 or 0 where its members have one verdict, and the expected value of a member
    drawn at random where an equivalence that is not transitive joined a right and a wrong answer.

    For n below the number of samples the value is the exact mean over *all* n-subsets (unbiased for the majority of n
    fresh samples, as `pass_at_k` is), computed without enumerating them: see `_majority_of_subset`. The
    clustering is done once, over all samples.

    Args:
        answers: of the samples; None where a sample gave none.
        correct: the grader's verdict on each sample.
        same: whether two answers mean the same; called as same(representative, answer).
        n: how many samples vote; all of them by default.

    Raises:
        ConfigurationError: when lengths differ, or n is not between 1 and the number of samples.
    """
    total = len(answers)
    if len(correct) != total:
        raise ConfigurationError(
            f"maj@n needs one verdict for each answer; got {total} answers and {len(correct)} verdicts. Pass both per sample."
        )
    size = total if n is None else n
    if not 1 <= size <= total:
        raise ConfigurationError(
            f"maj@n needs 1 <= n <= samples; got n={size} of {total} samples. Draw more samples, or ask for a smaller n."
        )
    clusters = cluster_answers(answers, same)
    sizes = [len(members) for members in clusters]
    worth = [sum(bool(correct[i]) for i in members) / len(members) for members in clusters]
    if not clusters:
        return 0.0
    if size == total:
        largest = max(sizes)
        tied = [w for m, w in zip(sizes, worth, strict=True) if m == largest]
        return sum(tied) / len(tied)
    return _majority_of_subset(sizes, worth, total, size)


def _majority_of_subset(sizes: Sequence[int], worth: Sequence[float], total: int, size: int) -> float:
    """The exact expectation of the majority's worth over a uniformly random subset of the samples.

    In such a subset the clusters' counts are multivariate hypergeometric, and its members of one cluster are exchangeable,
    so a winning cluster is worth its own share of correct samples. For each number of votes t the winner may have,
    a polynomial in z (samples drawn) and y (clusters with exactly t votes) counts the subsets: a cluster of m samples
    contributes sum_{i<t} C(m,i) z^i + C(m,t) z^t y; clusters too small for t, and samples without an answer, contribute
    C(m,i) z^i without a limit, together the binomials of their sum. Beside it runs the polynomial whose coefficients are the
    summed worths of the tied clusters; its coefficient of z^n y^r, divided by r, is the mean over a tie of r. All
    terms are positive, so nothing cancels; each C(m,i) is scaled by p^i (1-p)^(m-i) with p = n / samples, which
    changes the sum by the one factor that is divided out at the end and keeps it within floating point.
    """
    p = size / total
    expected = 0.0
    for votes in range(1, min(size, max(sizes)) + 1):
        able = [(m, w) for m, w in zip(sizes, worth, strict=True) if m >= votes]
        ties = min(len(able), size // votes)
        # [clusters with exactly `votes`, samples drawn]
        ways = np.zeros((ties + 1, size + 1))
        ways[0] = _binomials(total - sum(m for m, _ in able), size, p)
        worths = np.zeros_like(ways)
        for m, w in able:
            weights = _binomials(m, votes, p)
            ways, worths = (
                _times(ways, weights),
                _times(worths, weights) + w * _shifted(ways, float(weights[votes]), votes),
            )
        expected += sum(float(worths[r, size]) / r for r in range(1, ties + 1))
    # The sum is right to some 13 digits; what lies beyond would only make equal values look different in a table.
    return round(expected / float(_binomials(total, size, p)[size]), 12)


def _binomials(m: int, highest: int, p: float) -> NDArray[np.float64]:
    """C(m, i) p^i (1-p)^(m-i) for i = 0 .. highest; in logarithms, so that only what is negligible underflows."""
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, m + 1)))))
    i = np.arange(min(m, highest) + 1)
    out = np.zeros(highest + 1)
    out[: len(i)] = np.exp(
        log_factorial[m] - log_factorial[i] - log_factorial[m - i] + i * np.log(p) + (m - i) * np.log1p(-p)
    )
    return out


def _times(polynomial: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The product with a cluster's factor; terms beyond the array are dropped."""
    votes = len(weights) - 1
    out = _shifted(polynomial, float(weights[votes]), votes)
    for i in range(votes):
        out[:, i:] += weights[i] * polynomial[:, : polynomial.shape[1] - i]
    return out


def _shifted(polynomial: NDArray[np.float64], factor: float, votes: int) -> NDArray[np.float64]:
    """The polynomial times factor * z^votes * y."""
    out = np.zeros_like(polynomial)
    out[1:, votes:] = factor * polynomial[:-1, : polynomial.shape[1] - votes]
    return out
