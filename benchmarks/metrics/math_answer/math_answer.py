"""Accuracy of mathematical answers as an `evaluate` module; `benchmarks.metrics.scores` computes it.

`evaluate` copies this file to its cache before it imports it, and reads its imports line by line as text: so imports
are absolute, one module a line, and the file is called as its folder is.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate

from aipo_env.grading import GradingPolicy
from benchmarks.metrics.scores import Score, math_answer_scores

_DESCRIPTION = """
Share of answers that mean the same as their reference, by a grader that cannot be hung or fooled: exact and numerical
rules, bounded in steps and time; nothing that a model wrote is ever executed.
"""

_INPUTS = """
Args:
    predictions: for each reference the text that the policy wrote, or a list of samples.
    references: the right answers.
    policy: conventions of grading: "math500" (default), "aime", "gsm8k", "choice".
    extract: whether the predictions are whole solutions (default), or answers already, such as the content of a box.
    confidence: of the interval over rows, 0.95 by default.
    seed: of its resampling.

Returns:
    accuracy; interval; correct, verdicts, rules and answers, shaped as the predictions; policy.
"""


class MathAnswer(evaluate.Metric):  # type: ignore[misc]
    """Accuracy by the project's grader, with the verdict on each prediction."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=[
                datasets.Features({"predictions": kind, "references": text}) for kind in (text, datasets.Sequence(text))
            ],
        )

    def _compute(
        self,
        *,
        predictions: Sequence[str] | Sequence[Sequence[str]],
        references: Sequence[str],
        policy: str | GradingPolicy | None = None,
        extract: bool = True,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> dict[str, Score]:
        return math_answer_scores(predictions, references, policy, extract=extract, confidence=confidence, seed=seed)
