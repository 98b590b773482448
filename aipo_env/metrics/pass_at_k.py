"""pass@k, avg@n and G-Pass@k from the number of samples and of correct ones.

Sources: Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374, equation 1; Liu et al., "Are Your
LLMs Capable of Stable Reasoning?", arXiv 2412.13147, the definitions of G-Pass@k_tau and mG-Pass@k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from aipo_env.errors import ConfigurationError


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The unbiased estimate 1 - C(n-c, k) / C(n, k) of the chance that one of k samples is correct.

    It is the share of the k-subsets of the n samples that hold a correct one. Computed as the product of
    min(c, k) ratios in logarithms, so that nothing overflows and small values keep their digits: the relative error
    stays below 1e-12 for n in the tens of thousands.

    Raises:
        ConfigurationError: unless 1 <= k <= num_samples and 0 <= num_correct <= num_samples: the estimate does not
            exist for more draws than there are samples.
    """
    _check(num_samples, num_correct, k)
    if num_samples - num_correct < k:
        return 1.0
    # C(n-c, k) / C(n, k) is symmetric in c and k: the product over the smaller of the two has the fewest terms.
    few, many = sorted((num_correct, k))
    if few == 0:
        return 0.0
    if few == 1:
        return many / num_samples
    return -math.expm1(math.fsum(math.log1p(-many / (num_samples - i)) for i in range(few)))


def g_pass_at_k(num_samples: int, num_correct: int, k: int, tau: float) -> float:
    """G-Pass@k_tau: the chance that at least ceil(tau k) of k samples are correct, and one at the least.

    The sum over j from ceil(tau k) to c of C(c, j) C(n-c, k-j) / C(n, k): the share of the k-subsets of the n samples that hold
    so many. It falls in tau from pass@k to the chance that all k are correct. In whole numbers, hence exact.

    Raises:
        ConfigurationError: as `pass_at_k`, and unless 0 <= tau <= 1.
    """
    if not 0 <= tau <= 1:
        raise ConfigurationError(f"the tau of G-Pass@k is a share of the k samples, from 0 to 1; got {tau}.")
    # A product such as 0.28 * 25 lies a little above the whole number that it stands for.
    return _at_least(num_samples, num_correct, k, max(1, math.ceil(tau * k - 1e-9)))


def mg_pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """mG-Pass@k: 2/k times the sum of G-Pass@k_(i/k) over i from k/2 + 1 to k, for its mean over tau above 1/2.

    Raises:
        ConfigurationError: as `pass_at_k`, and for an odd k: there the sum stays below 1 where every sample is correct.
    """
    if k % 2:
        raise ConfigurationError(f"mG-Pass@k is the mean over the upper half of k samples, so k is even; got {k}.")
    needed = range(k // 2 + 1, k + 1)
    return 2 / k * math.fsum(_at_least(num_samples, num_correct, k, i) for i in needed)


def _at_least(num_samples: int, num_correct: int, k: int, needed: int) -> float:
    """The share of the k-subsets with `needed` correct samples or more."""
    _check(num_samples, num_correct, k)
    wrong = num_samples - num_correct
    hits = sum(math.comb(num_correct, j) * math.comb(wrong, k - j) for j in range(needed, min(num_correct, k) + 1))
    return hits / math.comb(num_samples, k)


def _check(num_samples: int, num_correct: int, k: int) -> None:
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise ConfigurationError(
            f"pass@k needs 1 <= k <= samples and 0 <= correct <= samples; got k={k}, {num_correct} of {num_samples}. "
            "Draw more samples, or ask for a smaller k."
        )


def pass_at_k_curve(num_samples: int, num_correct: int, ks: Sequence[int]) -> dict[int, float]:
    """`pass_at_k` of one problem for several k, in the order given."""
    return {k: pass_at_k(num_samples, num_correct, k) for k in ks}


def default_ks(num_samples: int) -> list[int]:
    """The powers of two up to n, and n itself: 1, 2, 4, ..., n.

    Raises:
        ConfigurationError: when there is no sample.
    """
    if num_samples < 1:
        raise ConfigurationError(f"pass@k needs at least one sample; got {num_samples}. Draw samples first.")
    return sorted({2**i for i in range(num_samples.bit_length())} | {num_samples})


def mean_pass_at_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """The mean of `pass_at_k` over problems; each problem counts the same.

    Args:
        counts: samples and correct samples of each problem.
        k: no larger than the fewest samples of any problem.

    Raises:
        ConfigurationError: when there is no problem, or one has fewer than k samples.
    """
    if not counts:
        raise ConfigurationError(
            "a mean over problems needs at least one problem; got none. Evaluate some tasks first."
        )
    return math.fsum(pass_at_k(n, c, k) for n, c in counts) / len(counts)


def avg_at_n(counts: Sequence[tuple[int, int]]) -> float:
    """The mean over problems of correct / samples; it equals the mean of pass@1.

    Problems count the same, whatever the number of their samples.

    Raises:
        ConfigurationError: when there is no problem, or one has no sample.
    """
    return mean_pass_at_k(counts, 1)
