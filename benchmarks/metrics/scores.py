"""Scores of graded samples, in plain Python: what the `evaluate` modules of this folder compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from aipo_env.errors import ConfigurationError, unknown_id
from aipo_env.grading import PRESETS, Grade, GradingPolicy, grade_answer, grade_text
from aipo_env.metrics import avg_at_n, bootstrap_interval, default_ks, mean_pass_at_k, pass_at_k

Texts = Sequence[str] | Sequence[Sequence[str]]
Rows = list[object] | list[list[object]]
Score = float | int | str | list[float] | dict[str, list[float]] | Rows


def pass_at_k_scores(
    verdicts: Sequence[Sequence[bool | int]],
    ks: Iterable[int] | None = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Score]:
    """pass@k for several k and avg@n, each with its interval over problems.

    Args:
        verdicts: for each problem, whether each of its samples is correct. Problems may differ in their number of samples.
        ks: the powers of two up to the fewest samples of a problem, and that number, by default.
        confidence: of the intervals (`aipo_env.metrics.bootstrap_interval`).
        seed: of their resampling.

    Returns:
        `pass@1`, `pass@2`, ..., `avg@n`; under `intervals` the two ends of each; `num_problems`, `num_samples` (the
        fewest of a problem).

    Raises:
        ConfigurationError: when there is no problem, one has no sample, or k exceeds the samples of one.
    """
    counts = [(len(row), sum(bool(v) for v in row)) for row in verdicts]
    if not counts or min(n for n, _ in counts) == 0:
        raise ConfigurationError(
            f"pass@k needs at least one problem, and a sample of each; got {len(counts)} problems, "
            f"{sum(n == 0 for n, _ in counts)} of them without samples."
        )
    fewest = min(n for n, _ in counts)
    chosen = default_ks(fewest) if ks is None else sorted(set(ks))
    scores: dict[str, Score] = {f"pass@{k}": mean_pass_at_k(counts, k) for k in chosen}
    scores["avg@n"] = avg_at_n(counts)
    columns = {f"pass@{k}": [pass_at_k(n, c, k) for n, c in counts] for k in chosen}
    columns["avg@n"] = [c / n for n, c in counts]
    intervals = {}
    for name, values in columns.items():
        interval = bootstrap_interval(values, confidence=confidence, seed=seed)
        intervals[name] = [interval.low, interval.high]
    return {**scores, "intervals": intervals, "num_problems": len(counts), "num_samples": fewest}


def math_answer_scores(
    predictions: Texts,
    references: Sequence[str],
    policy: str | GradingPolicy | None = None,
    *,
    extract: bool = True,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Score]:
    """Accuracy with its interval over rows, and the verdict on each prediction.

    Args:
        predictions: what a policy wrote: for each reference one text, or a list of samples. Only ever its own text: an
            answer that a helper gave does not count.
        references: the right answers.
        policy: see `grade`.
        extract: see `grade`.
        confidence: of the interval.
        seed: of its resampling.

    Returns:
        `accuracy` (rows weigh the same), `interval`; shaped as the predictions: `correct`, `verdicts`, `rules` (what
        decided) and `answers` (as extracted; None where there is none); `policy`, by name.

    Raises:
        ConfigurationError: as `grade`, and when a row has no sample.
    """
    samples = [[row] if isinstance(row, str) else list(row) for row in predictions]
    if len(samples) != len(references) or not all(samples):
        raise ConfigurationError(
            f"expected one reference for each prediction, and a sample in each; got {len(samples)} predictions, "
            f"{sum(not row for row in samples)} of them empty, and {len(references)} references."
        )
    flat = grade(
        [text for row in samples for text in row],
        [gold for gold, row in zip(references, samples, strict=True) for _ in row],
        policy,
        extract=extract,
    )
    remaining = iter(flat)
    grades = [[next(remaining) for _ in row] for row in samples]
    interval = bootstrap_interval(
        [sum(g.correct for g in row) / len(row) for row in grades], confidence=confidence, seed=seed
    )

    def rows(value: Callable[[Grade], object]) -> Rows:
        return [
            value(row[0]) if isinstance(given, str) else [value(g) for g in row]
            for given, row in zip(predictions, grades, strict=True)
        ]

    return {
        "accuracy": interval.estimate,
        "interval": [interval.low, interval.high],
        "correct": rows(lambda g: g.correct),
        "verdicts": rows(lambda g: str(g.verdict)),
        "rules": rows(lambda g: g.rule),
        "answers": rows(lambda g: g.extracted),
        "policy": find_policy(policy).name,
    }


def grade(
    predictions: Sequence[str],
    references: Sequence[str],
    policy: str | GradingPolicy | None = None,
    *,
    extract: bool = True,
) -> list[Grade]:
    """Grades each prediction against its reference.

    Args:
        predictions: texts.
        references: the right answers, one for each prediction.
        policy: the conventions: a preset's name ("math500", "aime", "gsm8k", "choice"), or a `GradingPolicy`.
        extract: whether predictions are whole texts; False if they are answers already, such as the content of a box.

    Raises:
        ConfigurationError: when lengths differ or there is none.
        UnknownIdError: for a policy that does not exist.
    """
    if len(predictions) != len(references) or not predictions:
        raise ConfigurationError(
            f"expected one reference for each prediction, and at least one; got {len(predictions)} predictions and "
            f"{len(references)} references."
        )
    conventions = find_policy(policy)
    grader = grade_text if extract else grade_answer
    return [grader(gold, text, conventions) for gold, text in zip(references, predictions, strict=True)]


def find_policy(policy: str | GradingPolicy | None) -> GradingPolicy:
    """The grading policy of this name; that of MATH-500 for None.

    Raises:
        UnknownIdError: with the nearest known name.
    """
    if isinstance(policy, GradingPolicy):
        return policy
    if policy is None:
        return PRESETS["math500"]
    if policy not in PRESETS:
        raise unknown_id("grading policy", policy, PRESETS)
    return PRESETS[policy]
