"""Evaluation of policies on public benchmarks: `aipo eval`.

from benchmarks.evaluation import EvaluationConfig, evaluate_policy

evaluation = evaluate_policy(EvaluationConfig("math500,aime24", policy="path/to/policy", mode="both", out="runs/mine"))
evaluation.results["runs"][0]["metrics"]["avg_at_n"]     # what results.json holds
evaluation.complete                                      # False: call it again, it goes on
"""

from __future__ import annotations

from benchmarks.evaluation.config import EvaluationConfig
from benchmarks.evaluation.runner import Evaluation, evaluate_policy
from benchmarks.evaluation.suites import SUITES, Suite

__all__ = ["SUITES", "Evaluation", "EvaluationConfig", "Suite", "evaluate_policy"]
