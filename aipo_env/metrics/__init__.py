"""Metrics of evaluation: pass@k, avg@n, maj@n, G-Pass@k, and intervals that keep their confidence on small benchmarks.

Pure Python and numpy; nothing here knows a model, a file or a clock.

    counts = [(32, 5), (32, 0), (32, 31)]                      # samples and correct ones, problem by problem
    mean_pass_at_k(counts, 8), avg_at_n(counts)
    [g_pass_at_k(n, c, 8, 0.75) for n, c in counts]            # six of eight right: how stable the policy is
    bootstrap_interval([c / n for n, c in counts])             # other problems could have been drawn
    sample_interval(counts)                                    # these problems; other samples could have been drawn
    paired_bootstrap(after, before)                            # two policies on the same problems
"""

from __future__ import annotations

from aipo_env.metrics.intervals import Interval, PairedDifference, bootstrap_interval, paired_bootstrap
from aipo_env.metrics.majority import TIE_RULE, cluster_answers, maj_at_n
from aipo_env.metrics.pass_at_k import (
    avg_at_n,
    default_ks,
    g_pass_at_k,
    mean_pass_at_k,
    mg_pass_at_k,
    pass_at_k,
    pass_at_k_curve,
)
from aipo_env.metrics.sampling import sample_difference, sample_interval

__all__ = [
    "TIE_RULE",
    "Interval",
    "PairedDifference",
    "avg_at_n",
    "bootstrap_interval",
    "cluster_answers",
    "default_ks",
    "g_pass_at_k",
    "maj_at_n",
    "mean_pass_at_k",
    "mg_pass_at_k",
    "paired_bootstrap",
    "pass_at_k",
    "pass_at_k_curve",
    "sample_difference",
    "sample_interval",
]
