"""What a run says about itself, from its metrics alone."""

from __future__ import annotations

import pytest

from algorithms.run_health import WINDOW, best_step, find_problems

Row = dict[str, float]


def rows(assisted: list[float], **last: float) -> list[Row]:
    """A run whose steps all have signal; `last` changes the last row."""
    history: list[Row] = [{"eval/solo_pass1": 0.0, "step": 0}]
    history += [
        {"train/assisted_accuracy": a, "tokens/trained": 7.0, "train/truncated": 0.5, "step": step}
        for step, a in enumerate(assisted, start=1)
    ]
    history[-1] |= last
    return history


def test_repair_01_a_run_that_learns_has_no_problem() -> None:
    assert find_problems([]) == {}
    assert find_problems(rows([])) == {}
    assert find_problems(rows([0.8] * 30)) == {}
    assert find_problems(rows([0.8] * 10 + [0.41] * 10)) == {}
    assert find_problems(rows([0.8] * 30, **{"train/reply_errors": 0.99, "train/truncated": 0.99})) == {}


def test_repair_01_assisted_accuracy_that_falls_by_half_is_told() -> None:
    # As the run did that was held at a constant 5e-4: 0.8 at the start, nothing twenty steps later.
    fallen = rows([0.8] * 10 + [0.3] * 10)
    assert set(find_problems(fallen)) == {"assisted_fell"}
    assert "from 0.80 to 0.30" in find_problems(fallen)["assisted_fell"]
    assert find_problems(rows([0.8] * 10 + [0.3] * 3)) == {}
    # What was once better counts, not what was there at the start; and it is over when the accuracy is back.
    assert set(find_problems(rows([0.4] * 10 + [0.9] * 10 + [0.4] * 10))) == {"assisted_fell"}
    assert find_problems(rows([0.8] * 10 + [0.3] * 10 + [0.7] * 10)) == {}
    # A policy that never solved anything has nothing to lose.
    assert find_problems(rows([0.09] * 10 + [0.0] * 10)) == {}
    # A run without help has no such accuracy.
    assert find_problems([{"tokens/trained": 1.0, "step": step} for step in range(1, 40)]) == {}


@pytest.mark.parametrize(("without", "told"), [(WINDOW - 1, False), (WINDOW, True)])
def test_repair_01_steps_without_signal_are_told(without: int, told: bool) -> None:
    history = rows([0.8] * (5 + without))
    for row in history[-without:]:
        row["tokens/trained"] = 0.0
    assert ("no_signal" in find_problems(history)) is told
    history[-1]["tokens/trained"] = 1.0
    assert find_problems(history) == {}


def test_repair_01_too_few_steps_are_no_lack_of_signal() -> None:
    history = rows([0.8] * (WINDOW - 1))
    for row in history[1:]:
        row["tokens/trained"] = 0.0
    assert find_problems(history) == {}


def test_repair_01_batches_of_cut_rollouts_and_failed_helpers_are_told_at_once() -> None:
    assert set(find_problems(rows([0.8], **{"train/truncated": 1.0}))) == {"all_truncated"}
    assert set(find_problems(rows([0.8], **{"train/reply_errors": 1.0}))) == {"all_replies_failed"}
    earlier = rows([0.8, 0.8])
    earlier[1] |= {"train/truncated": 1.0, "train/reply_errors": 1.0}
    assert find_problems(earlier) == {}


def test_repair_01_the_best_step_is_the_first_of_the_best_trained_ones() -> None:
    assert best_step([]) is None
    assert best_step([{"eval/solo_pass1": 0.9, "step": 0}, {"reward": 1.0, "step": 1}]) is None
    scores = {0: 0.9, 10: 0.2, 20: 0.5, 30: 0.5, 40: 0.4}
    history: list[Row] = [{"eval/solo_pass1": score, "step": step} for step, score in scores.items()]
    assert best_step([*history, {"reward": 1.0, "step": 41}]) == 20
