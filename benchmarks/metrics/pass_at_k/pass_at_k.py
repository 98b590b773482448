"""pass@k as an `evaluate` module; `benchmarks.metrics.scores` computes it.

`evaluate` copies this file to its cache before it imports it, and reads its imports line by line as text: so imports
are absolute, one module a line, and the file is called as its folder is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import datasets
import evaluate

from aipo_env.errors import ConfigurationError
from aipo_env.grading import GradingPolicy
from benchmarks.metrics.scores import Score, grade, pass_at_k_scores

_DESCRIPTION = """
The unbiased estimate of the chance that at least one of k samples is correct (arXiv 2107.03374), for several k, and avg@n,
with intervals over problems that hold on small benchmarks too.
"""

_INPUTS = """
Args:
    predictions: for each problem, the list of its samples: 0/1 (or booleans) for wrong and right, or the texts that the
        policy wrote, which are then graded. Problems may differ in their number of samples.
    references: the right answers, if the samples are texts.
    k: a number or a list; by default the powers of two up to the fewest samples of a problem, and that number.
    policy: conventions of grading: "math500" (default), "aime", "gsm8k", "choice".
    extract: whether the texts are whole solutions (default), or answers already.
    confidence: of the intervals, 0.95 by default.
    seed: of their resampling.

Returns:
    pass@1, pass@2, ..., avg@n; intervals: the two ends of each; num_problems; num_samples (the fewest of a problem).
"""

_CITATION = """
@article{chen2021codex, title={Evaluating Large Language Models Trained on Code}, author={Chen, Mark and others},
  journal={arXiv preprint arXiv:2107.03374}, year={2021}}
"""

_NO_REFERENCE = ""


class PassAtK(evaluate.Metric):  # type: ignore[misc]
    """pass@k and avg@n of graded samples, or of texts that it grades."""

    def _info(self) -> evaluate.MetricInfo:
        reference = datasets.Value("string")
        kinds = (datasets.Value("string"), datasets.Value("bool"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=[
                datasets.Features({"predictions": datasets.Sequence(kind), "references": reference}) for kind in kinds
            ],
        )

    def add_batch(
        self,
        *,
        predictions: Sequence[Sequence[bool | int | str]] | None = None,
        references: Sequence[str] | None = None,
        **others: object,
    ) -> None:
        """Adds problems; references are left out where the samples are graded already."""
        if predictions is not None and references is None:
            references = [_NO_REFERENCE] * len(predictions)
        super().add_batch(predictions=predictions, references=references, **others)

    def add(
        self,
        *,
        prediction: Sequence[bool | int | str] | None = None,
        reference: str | None = None,
        **others: object,
    ) -> None:
        """Adds a problem; the reference is left out where its samples are graded already."""
        super().add(prediction=prediction, reference=_NO_REFERENCE if reference is None else reference, **others)

    def _compute(
        self,
        *,
        predictions: Sequence[Sequence[bool | str]],
        references: Sequence[str],
        k: int | Iterable[int] | None = None,
        policy: str | GradingPolicy | None = None,
        extract: bool = True,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> dict[str, Score]:
        verdicts = []
        for row, gold in zip(predictions, references, strict=True):
            if any(isinstance(sample, str) for sample in row):
                if gold == _NO_REFERENCE:
                    raise ConfigurationError(
                        "samples that are texts need references; got none. Pass references=, or 0 and 1 instead of texts."
                    )
                grades = grade([str(sample) for sample in row], [gold] * len(row), policy, extract=extract)
                verdicts.append([g.correct for g in grades])
            else:
                verdicts.append([bool(sample) for sample in row])
        return pass_at_k_scores(verdicts, [k] if isinstance(k, int) else k, confidence=confidence, seed=seed)
