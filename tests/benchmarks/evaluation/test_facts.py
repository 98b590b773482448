from __future__ import annotations

from collections.abc import Iterator

import pytest

import aipo_env
from aipo_env import ConsultEnv, Reply, Source, Trajectory
from aipo_env.errors import DataFormatError, GradingError
from aipo_env.grading import Grade
from aipo_env.protocol import Usage
from aipo_env.tasks.base import Task
from benchmarks.evaluation.facts import Consultation, EpisodeFacts, Finisher, answer_of
from benchmarks.evaluation.game import MeteredGame, metered
from tests.helpers import CharacterCodec, Recorder, SumTasks


class FailingTasks(SumTasks):
    """Whose grader fails on one answer."""

    def grade(self, task: Task, answer: str) -> Grade:
        if answer == "crash":
            raise GradingError("the sandbox is gone")
        return super().grade(task, answer)


@pytest.fixture
def env() -> Iterator[ConsultEnv]:
    replies = {
        "verify": Recorder(Reply("yes", usage=Usage(7, 3, 0.5))),
        "knowledge": Recorder(Reply("", error="it is away"), name="knowledge"),
        "cache": Recorder(Reply("kept", usage=Usage(9, 9, 9.0), cached=True), name="cache"),
    }
    made = metered(aipo_env.make("rulebook-consult", tasks=FailingTasks(), agents=replies, codec=CharacterCodec()))
    yield made
    made.close()


def play(env: ConsultEnv, *turns: str) -> Trajectory:
    """An episode of the first task, finished as an evaluation does it; the clock stands at 5, then 8."""
    times = iter((5.0, 8.0))
    assert isinstance(env.game, MeteredGame)
    finish = Finisher(env.game, "value", lambda: next(times))
    env.reset(seed=0, options={"task_index": 0})
    for turn in turns:
        env.step(turn)
    return finish(env.trajectory)


def test_what_helpers_took_is_written_down(env: ConsultEnv) -> None:
    asks = [f'<consult agent="{name}">?</consult>' for name in ("verify", "knowledge", "cache")]
    trajectory = play(env, *asks, "\\boxed{1}")
    facts = EpisodeFacts.read(trajectory)
    assert facts.consults == (
        Consultation("verify", metered=True, prompt_tokens=7, completion_tokens=3, cost_usd=0.5),
        Consultation("knowledge", error="it is away"),
        Consultation("cache", cached=True, metered=True, cost_usd=0.0),
    )
    assert (facts.answer, facts.seconds, trajectory.verdict) == ("1", 3.0, "correct")
    assert facts.tokens == {
        "prompt": trajectory.count(Source.PROMPT), "policy": sum(map(len, [*asks, "\\boxed{1}"])),
        "agent": trajectory.count(Source.AGENT), "template": trajectory.count(Source.TEMPLATE),
    }  # fmt: skip
    # The next episode has its own.
    assert EpisodeFacts.read(play(env, "\\boxed{2}")).consults == ()


def test_a_grader_that_fails_is_a_fault_and_no_wrong_answer(env: ConsultEnv) -> None:
    trajectory = play(env, "\\boxed{crash}")
    assert trajectory.stop_reason == "error"
    assert trajectory.metadata["error"] == "GradingError: the sandbox is gone"


def test_repair_29_a_helper_that_fails_ends_the_episode_as_a_fault_and_one_that_declines_does_not(
    env: ConsultEnv,
) -> None:
    trajectory = play(env, '<consult agent="knowledge">?</consult>', "\\boxed{1}")
    assert trajectory.stop_reason == "error"
    assert trajectory.metadata["error"] == "ConsultFailed: knowledge could not answer: it is away"
    assert isinstance(env.game, MeteredGame)
    env.game.agents["knowledge"] = Recorder(Reply("", error="I never say", declined=True), name="knowledge")
    trajectory = play(env, '<consult agent="knowledge">?</consult>', "\\boxed{1}")
    assert (trajectory.stop_reason, trajectory.verdict) == ("answer", "correct")
    assert EpisodeFacts.read(trajectory).consults == (Consultation("knowledge", error="I never say", declined=True),)
    # What ended an episode that had ended by a fault anyway is what is told.
    env.game.agents["knowledge"] = Recorder(Reply("", error="it is away"), name="knowledge")
    env.reset(seed=0, options={"task_index": 0})
    env.step('<consult agent="knowledge">?</consult>')
    late = env.trajectory
    late.stop_reason, late.metadata["error"] = "timeout", "not finished within 1 s"
    assert Finisher(env.game, "value")(late).metadata["error"] == "not finished within 1 s"


def test_answers_as_a_majority_counts_them(env: ConsultEnv) -> None:
    trajectory = play(env, "so it is \\boxed{ (b) }.")

    assert answer_of(trajectory, env.config, "value") == "(b)"
    assert answer_of(trajectory, env.config, "choice") == "B"
    assert answer_of(trajectory, env.config, "program") is None
    trajectory.confidential = True
    # A letter tells nothing; a text may.
    assert answer_of(trajectory, env.config, "choice") == "B"
    assert answer_of(trajectory, env.config, "value") is None


def test_a_confidential_task_keeps_the_errors_of_helpers_to_itself(env: ConsultEnv) -> None:
    times = iter((0.0, 1.0))
    assert isinstance(env.game, MeteredGame)
    finish = Finisher(env.game, "choice", lambda: next(times))
    env.reset(seed=0, options={"task_index": 0})
    env.step('<consult agent="knowledge">?</consult>')
    env.step("\\boxed{A}")
    trajectory = env.trajectory
    trajectory.confidential = True
    (consult,) = EpisodeFacts.read(finish(trajectory)).consults
    assert (consult.error, consult.agent) == ("withheld", "knowledge")


def test_a_trace_of_something_else_is_named() -> None:
    trajectory = Trajectory("e", "t", [], metadata={"evaluation": {"answer": "1"}})
    with pytest.raises(DataFormatError, match="sample 0 of t has no metadata"):
        EpisodeFacts.read(trajectory)
