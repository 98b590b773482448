"""What tells that a training run goes wrong, as a pure function of its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

WINDOW = 10
"""Steps over which signal is missed, and accuracies are averaged."""
PREFIX = "problem/"
"""Of the metrics that note a problem (with the value 1) in the rows in which it holds."""


def find_problems(rows: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """What is wrong with a run after its last row: name to a sentence that says what to look at.

    Args:
        rows: the metrics of each step so far (`Trainer.history`).
    """
    steps = [row for row in rows if row["step"] > 0]
    if not steps:
        return {}
    last, problems = steps[-1], {}
    if len(steps) >= WINDOW and not any(row.get("tokens/trained", 0.0) for row in steps[-WINDOW:]):
        problems["no_signal"] = (
            f"no rollout of the last {WINDOW} steps differed from those that it is compared with, so nothing was learnt: the "
            "tasks may be too hard or too easy, or every answer malformed (`aipo view` shows them)"
        )
    means = _means([row["train/assisted_accuracy"] for row in steps if "train/assisted_accuracy" in row])
    if means and means[-1] < max(means) / 2 and max(means) >= 0.1:
        problems["assisted_fell"] = (
            f"accuracy with help fell from {max(means):.2f} to {means[-1]:.2f} (means of {WINDOW} steps): the policy is being "
            "damaged. A lower learning_rate is the first thing to try"
        )
    if last.get("train/truncated") == 1.0:
        problems["all_truncated"] = (
            "every rollout was cut by a limit before its answer: raise sampling.max_tokens, or the environment's max_turns or "
            "max_chars"
        )
    if last.get("train/reply_errors") == 1.0:
        problems["all_replies_failed"] = "every helper that was asked failed: see to the helpers, or their server"
    return problems


def best_step(rows: Sequence[Mapping[str, float]], by: str = "eval/solo_pass1") -> int | None:
    """The step after which most test tasks were solved, alone if nothing else is said; None before the first evaluation."""
    evaluated = [row for row in rows if row["step"] > 0 and by in row]
    return int(max(evaluated, key=lambda row: row[by])["step"]) if evaluated else None


def _means(values: Sequence[float]) -> list[float]:
    """The mean of every window of steps, oldest first."""
    return [sum(values[end - WINDOW : end]) / WINDOW for end in range(WINDOW, len(values) + 1)]
