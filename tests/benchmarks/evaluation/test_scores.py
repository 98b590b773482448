from __future__ import annotations

from collections import Counter

import pytest

from aipo_env.grading import MATH500, Grade, grade_answer
from aipo_env.registry import make_tasks
from aipo_env.tasks.base import Task
from benchmarks.evaluation import scores
from benchmarks.evaluation.episodes import EpisodeSummary, RunEpisodes
from benchmarks.evaluation.facts import Consultation, EpisodeFacts
from benchmarks.evaluation.plan import RunPlan
from benchmarks.evaluation.suites import find_suite
from tests.helpers import SumTasks

TOKENS = {"prompt": 5, "policy": 3, "agent": 2, "template": 1}


def episode(answer: str | None, gold: str, *consults: Consultation, stop: str = "answer") -> EpisodeSummary:
    correct = answer == gold
    verdict = "" if answer is None else "correct" if correct else "wrong"
    return EpisodeSummary("t", correct, verdict, stop, len(consults), EpisodeFacts(answer, TOKENS, consults, 1.0))


def run(*rows: list[EpisodeSummary | None], temperature: float = 1.0) -> RunEpisodes:
    samples = len(rows[0])
    plan = RunPlan(find_suite("rulebook"), True, tuple(range(len(rows))), samples, temperature, 1.0, 9, None, 0)
    return RunEpisodes(plan, rows, Counter())


def test_only_tasks_with_all_their_samples_are_scored() -> None:
    episodes = run(
        [episode("1", "1"), episode("2", "1")], [episode("1", "1"), None], [episode("3", "1"), episode("4", "1")]
    )
    assert list(episodes.scored()) == [0, 2]
    assert episodes.complete is False
    found = scores.metrics(episodes, None, [])
    assert found["avg_at_n"]["estimate"] == 0.25  # type: ignore[index]
    assert [row["k"] for row in found["pass_at_k"]] == [1, 2]  # type: ignore[attr-defined]
    assert [row["estimate"] for row in found["pass_at_k"]] == [0.25, 0.5]  # type: ignore[attr-defined]


def test_the_k_that_were_asked_for() -> None:
    episodes = run([episode(a, "1") for a in "1222"])
    assert [row["k"] for row in scores.metrics(episodes, None, [3, 1])["pass_at_k"]] == [1, 3]  # type: ignore[attr-defined]


def test_g_pass_at_k_of_the_thresholds_and_of_even_k() -> None:
    episodes = run([episode(a, "1") for a in "1122"], [episode(a, "1") for a in "1111"])
    found = scores.metrics(episodes, None, [1, 3, 4])
    rows: list[dict[str, float]] = found["g_pass_at_k"]  # type: ignore[assignment]
    # Of the first task one of three, or two of three, is right; of the second all are.
    assert {(row["k"], row["tau"]): row["estimate"] for row in rows} == {
        (3, 0.5): 0.75, (3, 0.75): 0.5, (3, 1.0): 0.5, (4, 0.5): 1.0, (4, 0.75): 0.5, (4, 1.0): 0.5,
    }  # fmt: skip
    means: list[dict[str, float]] = found["mg_pass_at_k"]  # type: ignore[assignment]
    assert [(row["k"], row["estimate"]) for row in means] == [(4, 0.5)]
    assert means[0]["low"] < 0.5 < means[0]["high"]


def test_greedy_has_no_sampling_noise() -> None:
    found = scores.metrics(run([episode("1", "1")], [episode("2", "1")], temperature=0.0), None, [])
    average = found["avg_at_n"]
    assert isinstance(average, dict)
    assert (average["sample_low"], average["sample_high"]) == (None, None)
    assert average["low"] < 0.5 < average["high"]


class Values(SumTasks):
    """Graded by mathematical equivalence."""

    def grade(self, task: Task, answer: str) -> Grade:
        return grade_answer(task.gold, answer, MATH500)


@pytest.mark.parametrize(("verdict", "expected"), [("correct", 1.0), ("unparsable", 0.0)])
def test_equivalent_answers_vote_together_and_unreadable_ones_alone(verdict: str, expected: float) -> None:
    def vote(text: str | None) -> EpisodeSummary:
        says = "" if text is None else "wrong" if text == "3" else verdict
        return EpisodeSummary("t", says == "correct", says, "answer", 0, EpisodeFacts(text, TOKENS, (), 1.0))

    # As texts "3" has the most votes. The four ways to write a half outvote it, unless the grader could not read them.
    episodes = run([vote(text) for text in ("1/2", "0.5", "3", "3", "3", "\\frac{2}{4}", "\\frac12", None)])
    assert scores.Majorities(episodes, {0: Task("t", "?", "1/2")}, Values()).values(8) == {0: expected}


def test_breakdowns_need_two_values() -> None:
    tasks = make_tasks("rulebook-consult")
    episodes = run([episode("1", "1")], [episode("2", "1")])
    assert scores.breakdowns(episodes, {0: tasks.task(0), 1: tasks.task(1)}) == {}
    other = make_tasks("rulebook-consult", level=3)
    (rows,) = scores.breakdowns(episodes, {0: other.task(0), 1: tasks.task(1)}).values()
    assert [(row["value"], row["num_tasks"], row["avg"], row["pass_at_n"]) for row in rows] == [
        (2, 1, 0, 0),
        (3, 1, 1, 1),
    ]


def test_consults_and_tokens_and_rates() -> None:
    asked = Consultation("verify", metered=True, prompt_tokens=4, completion_tokens=2, cost_usd=0.25)
    failed = Consultation("verify", error="away")
    finished = [
        episode("1", "1", asked, asked), episode("2", "1"), episode(None, "1", stop="length"), episode(None, "1", stop="max_turns"),
    ]  # fmt: skip
    finished[1] = EpisodeSummary("t", False, "wrong", "answer", 0, EpisodeFacts("2", TOKENS, (failed,), 1.0))
    found = scores.consults(finished, ["verify", "knowledge"])
    # Asked in two of the four, three times, and answered twice.
    assert (found["rate"], found["asked_per_episode"], found["per_episode"]) == (0.5, 0.75, 0.5)
    assert found["by_helper"]["verify"] == {  # type: ignore[index]
        "asked": 3, "consults": 2, "per_episode": 0.5, "rate": 0.5, "errors": 1, "gave_away": 0, "cached": 0, "unmetered": 1,
        "unpriced": 0,
        "prompt_tokens": 8, "completion_tokens": 4, "cost_usd": 0.5,
    }  # fmt: skip
    # What a fault ended counts as asked, and into no mean.
    more = scores.consults(finished, ["verify"], [episode(None, "1", failed, stop="error")])
    assert (more["rate"], more["per_episode"]) == (0.5, 0.5)
    assert (more["by_helper"]["verify"]["asked"], more["by_helper"]["verify"]["errors"]) == (4, 2)  # type: ignore[index]
    assert found["by_helper"]["knowledge"]["consults"] == 0  # type: ignore[index]
    assert scores.tokens(finished) == {
        "prompt": 20, "policy": 12, "agent": 8, "template": 4, "policy_per_episode": 3.0, "behind_prompt_per_episode": 6.0,
    }  # fmt: skip
    assert scores.rates(finished) == {"correct": 0.25, "truncated": 0.25, "no_answer": 0.25, "unparsable": 0.0}
    assert scores.rates([])["correct"] is None
    assert scores.counts(finished) == {
        "stop_reasons": {"answer": 2, "length": 1, "max_turns": 1}, "verdicts": {"": 2, "correct": 1, "wrong": 1},
    }  # fmt: skip


def test_the_seed_of_the_plan_resamples() -> None:
    episodes = run(*[[episode(str(i % 2), "1")] for i in range(9)])
    assert scores.metrics(episodes, None, []) == scores.metrics(episodes, None, [])
    assert pytest.approx(4 / 9) == scores.metrics(episodes, None, [])["avg_at_n"]["estimate"]  # type: ignore[index]
