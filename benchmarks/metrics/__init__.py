r"""Metrics as Hugging Face `evaluate` modules, loadable by path without a network, and as plain functions.

    import evaluate

    metric = evaluate.load("benchmarks/metrics/pass_at_k")
    metric.compute(predictions=[[1, 0, 1, 0], [0, 0, 0, 0]], k=[1, 2, 4])

    metric = evaluate.load("benchmarks/metrics/math_answer")
    metric.compute(predictions=[r"so it is \boxed{0.5}"], references=[r"\frac{1}{2}"], policy="math500")

`PassAtK` and `MathAnswer` are the classes behind the two; they need the extra `eval`, the functions do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aipo_env.errors import MissingDependencyError
from aipo_env.installation import install_command
from benchmarks.metrics.scores import grade, math_answer_scores, pass_at_k_scores

if TYPE_CHECKING:
    from benchmarks.metrics.math_answer.math_answer import MathAnswer
    from benchmarks.metrics.pass_at_k.pass_at_k import PassAtK

__all__ = ["MathAnswer", "PassAtK", "grade", "math_answer_scores", "pass_at_k_scores"]


def __getattr__(name: str) -> object:
    """The classes, imported when they are asked for: `evaluate` takes seconds."""
    try:
        if name == "PassAtK":
            from benchmarks.metrics.pass_at_k.pass_at_k import PassAtK

            return PassAtK
        if name == "MathAnswer":
            from benchmarks.metrics.math_answer.math_answer import MathAnswer

            return MathAnswer
    except ModuleNotFoundError as error:
        if error.name not in ("evaluate", "datasets"):
            raise
        raise MissingDependencyError(
            f"{name} needs the package {error.name}. Run: {install_command('eval')}"
        ) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
