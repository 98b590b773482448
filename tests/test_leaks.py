"""A reply that states the gold answer is found, counted and held back; one that says what the policy said is none."""

from __future__ import annotations

from typing import Any

import pytest

import aipo_env
from aipo_env import ConsultEnv, Reply, Source
from aipo_env.errors import ConfigurationError, GradingError
from aipo_env.grading import Grade, grade_answer
from aipo_env.leaks import HELD_BACK
from aipo_env.protocol import Usage
from aipo_env.tasks.base import Task
from algorithms.trainer import rollout_metrics
from benchmarks.evaluation.facts import EpisodeFacts, Finisher
from benchmarks.evaluation.game import MeteredGame, metered
from tests.helpers import Recorder, SumTasks


class OneTask(SumTasks):
    """A problem with this gold."""

    num_tasks = 1

    def __init__(self, gold: str, problem: str = "How many are left of them?", *others: str) -> None:
        self.made = Task("one/0", problem, gold, alternatives=others)

    def task(self, index: int) -> Task:
        return self.made

    def grade(self, task: Task, answer: str) -> Grade:
        if answer == "crash":
            raise GradingError("the grader is gone")
        return grade_answer(task.gold, answer)


def make(reply: str | Reply, tasks: SumTasks, query: str = "what next?", **options: Any) -> ConsultEnv:
    """An episode in which a helper was asked once and has said this."""
    env = aipo_env.make(
        "rulebook-consult", tasks=tasks, agents={"verify": Recorder(reply)}, leak_filter=True, **options
    )
    env.reset(seed=0)
    env.step(f'<consult agent="verify">{query}</consult>')
    return env


def held_back(env: ConsultEnv) -> bool:
    last = env.trajectory.segments[-1]
    assert (HELD_BACK in last.text) == (last.source is Source.TEMPLATE)
    return HELD_BACK in last.text


@pytest.mark.parametrize(
    ("gold", "reply"),
    [
        ("42", "It is 42."), ("42", r"So \boxed{42}"), ("42", "36+6 = $42"), ("42", "42"), ("42", "the answer must be $42$"),
        ("118000", "net proceeds: 400 000 - 282 000 = 118 000."), ("132", "165-33 = $132.00 in total"), ("65960", "makes 65,960 more"),
        (r"\frac{1}{2}", "The probability is 0.5."), (r"\frac{1}{2}", r"we get $\frac12$ for $x$ = 1/2"), ("1337", "Look at 1337 first"),
        ("(3,4)", "The vertex is $(3, 4)$."), ("B", "The right choice is B"), ("x+1", r"hence f(x) = x + 1"),
    ],
)  # fmt: skip
def test_a_reply_that_states_the_gold_is_held_back(gold: str, reply: str) -> None:
    env = make(reply, OneTask(gold))
    assert held_back(env)
    assert reply not in env.trajectory.text


@pytest.mark.parametrize(
    ("gold", "reply"),
    [
        ("2", "Use b^2-4ac and the formula for x."), ("42", "36 = 6*6, now add 6"), ("42", "that is 42.5"), ("42", "x = 142"),
        ("42", "it is 42*3"), ("4", "Step 4: add them, then halve them"), ("12", "12 of these, then go on"), ("50", "That is 1,050."),
        ("B", "Take point B and its neighbours"), ("", "It is 3."), ("100", r"a sum of 1{,}100"),
    ],
)  # fmt: skip
def test_help_without_the_answer_passes(gold: str, reply: str) -> None:
    assert not held_back(make(reply, OneTask(gold)))


def test_what_the_policy_said_first_is_no_news() -> None:
    assert not held_back(make("correct: 36+6=42", OneTask("42"), "36+6=42"))
    assert not held_back(make("correct", OneTask("42"), "Is it 42?"))
    assert not held_back(make("yes, it is 0.5", OneTask(r"\frac{1}{2}"), "0.5"))
    assert held_back(make("incorrect: 36+6 is 42", OneTask("42"), "36+6=41"))
    # The letters of the choices, and numbers of the problem that the query repeats, say nothing.
    assert held_back(make("It is B.", OneTask("B"), "A, B or C?"))
    problem = "Of 42 and 17, which is the larger?"
    assert held_back(make("It is 42.", OneTask("42", problem), problem))
    assert not held_back(make("compare 42 with 17", OneTask("42", problem), "what now?"))


def test_what_the_policy_stated_in_an_earlier_turn_is_no_news() -> None:
    env = make("correct", OneTask("42"), "I think that it is 42, and 6*7=42")
    env.game.agents["verify"].reply = Reply("it is 42")  # type: ignore[attr-defined]
    env.step('<consult agent="verify">and now?</consult>')
    assert not held_back(env)


def test_any_of_several_golds_counts() -> None:
    assert held_back(make("It is 7.", OneTask("42", "Name one.", "7")))


def test_a_program_that_solves_the_task_is_an_answer() -> None:
    class Programs(OneTask):
        answers = "program"

        def grade(self, task: Task, answer: str) -> Grade:
            right = answer.strip() == "print(42)"
            return Grade(right, grade_answer("1", "1" if right else "2").verdict, "test", answer)

    assert held_back(make("Try\n```python\nprint(42)\n```\n", Programs("")))
    assert not held_back(make("Try\n```python\nprint(41)\n```\n", Programs("")))


def test_an_answer_that_the_grader_cannot_judge_is_none() -> None:
    assert not held_back(make(r"\boxed{crash}", OneTask("42")))


def test_a_refusal_keeps_what_the_reply_took_and_is_no_fault() -> None:
    env = make(Reply("It is 42.", usage=Usage(7, 3, 0.5), cached=True), OneTask("42"))
    (record,) = env.telemetry
    assert (record["error"], record["cached"], record["usage"]) == (HELD_BACK, True, Usage(7, 3, 0.5))
    assert env.trajectory.num_consults == 0
    assert rollout_metrics([env.trajectory])["train/replies_held_back"] == 1.0


def test_without_the_filter_nobody_looks() -> None:
    tasks = OneTask("42")
    env = aipo_env.make("rulebook-consult", tasks=tasks, agents={"verify": Recorder("It is 42.")})
    env.reset(seed=0)
    env.step('<consult agent="verify">?</consult>')
    assert env.trajectory.segments[-1].source is Source.AGENT
    assert rollout_metrics([env.trajectory])["train/replies_held_back"] == 0.0


@pytest.mark.parametrize("refuse", [False, True])
def test_an_evaluation_counts_them_with_and_without_the_filter(refuse: bool) -> None:
    agents = {"verify": Recorder("It is 42.")}
    env = metered(aipo_env.make("rulebook-consult", tasks=OneTask("42"), agents=agents, leak_filter=refuse))
    env.reset(seed=0, options={"task_index": 0})
    env.step('<consult agent="verify">?</consult>')
    env.step(r"\boxed{42}")
    assert isinstance(env.game, MeteredGame)
    trajectory = Finisher(env.game, "value")(env.trajectory)
    (consult,) = EpisodeFacts.read(trajectory).consults
    assert (consult.gives_away, consult.error) == (True, HELD_BACK if refuse else None)
    # No fault: playing the episode again would not change it.
    assert trajectory.stop_reason == "answer"


@pytest.mark.parametrize("face", ["aec", "parallel"])
def test_a_helper_that_the_caller_plays_is_held_back_too(face: str) -> None:
    options: dict[str, Any] = {"tasks": OneTask("42"), "agents": {"verify": None}, "leak_filter": True}
    ask = '<consult agent="verify">?</consult>'
    if face == "aec":
        env = aipo_env.make_aec("rulebook-consult", **options)
        env.reset(seed=0)
        for action in (ask, "It is 42."):
            env.step(action)
        episode = env.episode
    else:
        parallel = aipo_env.make_parallel("rulebook-consult", **options)
        parallel.reset(seed=0)
        for role, action in (("policy_0", ask), ("verify_0", "It is 42.")):
            parallel.step({r: action if r == role else None for r in parallel.agents})
        episode = parallel.episode
    assert HELD_BACK in episode.transcript


def test_the_option_is_true_or_false_and_none_of_a_solo_environment() -> None:
    with pytest.raises(ConfigurationError, match="leak_filter is True or False"):
        aipo_env.make("rulebook-consult", leak_filter="yes")
    with pytest.raises(ConfigurationError, match="asks nobody: leak_filter"):
        aipo_env.make("rulebook", leak_filter=True)
