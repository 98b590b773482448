from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import re
from typing import Any

import pytest

import aipo_env
from aipo_env import ConsultRequest, Reply
from aipo_env.errors import ConfigurationError, UnknownIdError
from aipo_env.grading import grade_answer
from aipo_env.protocol import Usage
from aipo_env.tasks.base import Task
from algorithms.helpers_command import Trial, corrupted, helpers, summary, try_helpers
from tests.helpers import CharacterCodec, Recorder, SumTasks
from tests.misbehaving_server import Fault, MisbehavingServer


class Judge:
    """Knows sums, and tells what is right where it was claimed wrong."""

    name = "verify"

    async def respond(self, request: ConsultRequest) -> Reply:
        problem = re.search(r"(\d+)\+1=", request.transcript)
        assert problem is not None
        right = str(int(problem[1]) + 1)
        claimed = request.query.removeprefix("The answer is ")
        text = "correct" if claimed == right else f"incorrect: it is {right}"
        return Reply(text, usage=Usage(10, 2, 0.25))


def play(agents: dict[str, Any], num_tasks: int = 3, **options: Any) -> list[Trial]:
    env = aipo_env.make("rulebook-consult", tasks=options.pop("tasks", SumTasks()), agents=agents, **options)

    async def collect() -> list[Trial]:
        return [trial async for trial in try_helpers(env.game, num_tasks, seed=1)]

    return asyncio.run(collect())


def test_a_judge_is_asked_for_right_and_wrong_answers_and_its_verdicts_are_counted() -> None:
    found = summary(play({"verify": Judge()}))
    assert (found["true_claims"], found["false_claims"]) == ({"correct": 3}, {"incorrect": 3})
    # Telling what is right where the policy was wrong gives the answer away.
    assert (found["asked"], found["answered"], found["gave_away"]) == (6, 6, 3)
    assert (found["prompt_tokens"], found["completion_tokens"], found["cost_usd"]) == (60, 12, 1.5)


def test_others_are_given_the_problem_and_what_they_give_away_is_counted() -> None:
    helper = Recorder("Add them: it is 3", name="reasoning")
    trials = play({"reasoning": helper})
    assert [request.query for request in helper.requests] == ["0+1=", "1+1=", "2+1="]
    assert [trial.gives_away for trial in trials] == [False, False, True]
    assert "true_claims" not in summary(trials)


def test_errors_are_told_apart_and_unknown_costs_stay_unknown() -> None:
    failing = Recorder(Reply("", error="it is away", usage=Usage(3, 0)), name="a")
    found = summary(play({"a": failing}))
    assert (found["answered"], found["errors"], found["cost_usd"]) == (0, {"it is away": 3}, None)
    assert summary(play({"a": Recorder("hm", name="a")}))["prompt_tokens"] is None


def test_what_a_policy_of_this_tokenizer_could_learn_from_with_mu() -> None:
    ids, mu = tuple(map(ord, "hm")), (-0.5, -0.5)
    own = Recorder(Reply("hm", ids, mu, tokenizer="characters"), name="own")
    other = Recorder(Reply("hm", ids, mu, tokenizer="other"), name="other")
    trials = play({"own": own, "other": other}, codec=CharacterCodec())
    assert [trial.knows_mu for trial in trials] == [True] * 3 + [False] * 3
    assert all(trial.knows_mu for trial in play({"own": own, "other": other}))


def test_texts_of_confidential_tasks_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    class Secret(SumTasks):
        confidential = True

    trials = play(
        {"a": Recorder("It is 3 of 17", name="a"), "b": Recorder(Reply("", error="what is 2+1?"), name="b")},
        tasks=Secret(),
    )
    shown = json.dumps([*map(dataclasses.asdict, trials), summary(trials)])
    assert "of 17" not in shown
    assert "+1" not in shown
    assert shown.count("(withheld") > 6
    assert trials[2].gives_away


@pytest.mark.parametrize("gold", ["42", r"\frac{1}{2}", "B", "x", "-7", "Evelyn", "025"])
def test_a_wrong_answer_is_wrong(gold: str) -> None:
    class Graded(SumTasks):
        def grade(self, task: Task, answer: str) -> Any:
            return grade_answer(task.gold, answer)

    wrong = corrupted(Task("t", "p", gold), Graded(), random.Random(0))
    assert wrong is not None
    assert not grade_answer(gold, wrong).correct
    assert len(wrong) >= len(gold)


def test_where_no_wrong_answer_is_found_only_the_right_one_is_claimed() -> None:
    class Lenient(SumTasks):
        def grade(self, task: Task, answer: str) -> Any:
            return grade_answer("1", "1")

    assert corrupted(Task("t", "p", "42"), Lenient(), random.Random(0)) is None
    assert [trial.claim for trial in play({"verify": Judge()}, tasks=Lenient())] == ["true"] * 3


def test_markup_in_a_problem_stays_text() -> None:
    class Tags(SumTasks):
        def task(self, index: int) -> Task:
            return dataclasses.replace(super().task(index), problem="what does </consult> close?")

    helper = Recorder("hm", name="a")
    (trial,) = play({"a": helper}, 1, tasks=Tags())
    assert (trial.query, helper.requests[0].query) == (trial.query, trial.query)


# -- the command ---------------------------------------------------------------------------------------------------------


def test_the_command_prints_one_json_document_and_asks_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    with MisbehavingServer(reply=lambda request: "correct") as server:
        code = helpers("try", agents=("verify", "a=tests.helpers:Recorder"), tasks=2, helper_server=server.base_url, helper_model="fake", json=True)  # fmt: skip
        assert server.num_requests == 4
    found = json.loads(capsys.readouterr().out)
    assert (code, found["env"], list(found["helpers"])) == (0, "rulebook-consult", ["verify", "a"])
    assert found["helpers"]["verify"]["false_claims"] == {"correct": 2}
    assert [row["reply"] for row in found["helpers"]["a"]["replies"]] == ["ok", "ok"]
    assert found["helpers"]["verify"]["completion_tokens"] > 0


def test_a_helper_that_never_answers_is_a_negative_result(capsys: pytest.CaptureFixture[str]) -> None:
    with MisbehavingServer() as server:
        server.fault = lambda request: Fault("status", status=401)
        code = helpers(
            "try", agents=("verify",), tasks=1, helper_server=server.base_url, helper_model="fake", retries=0
        )
    out = capsys.readouterr().out
    assert (code, "answered: 0\n" in out, "'its service failed (HTTP 401)': 2" in out) == (1, True, True)


def test_the_words_say_what_was_asked_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert helpers("try", tasks=1, policy="embedded", query="Solve {problem}", env_options={"style": "terse"}) == 0
    out = capsys.readouterr().out
    assert "true claim\n  asked: The answer is " in out
    assert re.search(r"knowledge on rulebook.*\n  asked: Solve \S+=\n  said: ", out)
    assert "\nverify\n  asked: 2\n  answered: 2\n" in out
    assert "gave away: 0\n  knows mu: 0\n  true claims: {'cannot tell': 1}" in out


def test_mistakes_are_told() -> None:
    with pytest.raises(ConfigurationError, match="--tasks is how many"):
        helpers("try", tasks=0)
    with pytest.raises(ConfigurationError, match="no helpers; give the id that ends in '-consult'"):
        helpers("try", env="rulebook")
    with pytest.raises(UnknownIdError, match="unknown agent 'verfy'"):
        helpers("try", agents=("verfy",))
    with pytest.raises(ConfigurationError, match="--helper-server and --helper-model"):
        helpers("try", helper_server="http://localhost:1/v1")
