from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aipo_env
from aipo_agents.hints import NOTHING_LEFT, HintAgent, knowledge_hints, reasoning_hints
from aipo_agents.middleware import Timeout
from aipo_env.grading import Grade, Verdict
from aipo_env.protocol import ConsultRequest, Reply
from aipo_env.tasks.base import Task
from aipo_env.testing import check_agent
from tests.tasks.small_data import SCAF_ROW, write_jsonl

HINTS = {"knowledge": ("hint one", "hint two"), "reasoning": ("a step",)}
GOLD = "gold-answer"


class Hinted:
    name, num_tasks, split = "hinted", 1, "train"

    def task(self, index: int) -> Task:
        return Task("hinted/0", "What?", GOLD, hints=HINTS)

    def sample_index(self, rng: np.random.Generator) -> int:
        return 0

    def grade(self, task: Task, answer: str) -> Grade:
        return Grade(answer == task.gold, Verdict.CORRECT if answer == task.gold else Verdict.WRONG, "own", answer)


class Curious:
    """Keeps what it is asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests: list[ConsultRequest] = []

    async def respond(self, request: ConsultRequest) -> Reply:
        self.requests.append(request)
        return Reply("noted")


def play(agents: dict[str, Any], asked: Sequence[str], **options: Any) -> str:
    env = aipo_env.make("rulebook-consult", tasks=Hinted(), agents=agents, **options)
    env.reset(seed=0)
    for name in asked:
        observation, *_ = env.step(f'<consult agent="{name}">help</consult>')
    return str(observation["prompt"])


@pytest.mark.parametrize("view", ["transcript", "query"])
def test_one_hint_for_each_consult_in_their_order(view: str) -> None:
    agents = {"knowledge": knowledge_hints(), "reasoning": Timeout(reasoning_hints(), 5.0)}
    asked = ["knowledge", "reasoning", "knowledge", "reasoning"]
    said = play(agents, asked, helper_view=view).split('<feedback agent="')[1:]
    assert [text.partition("</feedback>")[0] for text in said] == [
        'knowledge">hint one', 'reasoning">a step', 'knowledge">hint two', f'reasoning">{NOTHING_LEFT}',
    ]  # fmt: skip


def test_other_helpers_get_neither_hints_nor_the_answer() -> None:
    curious = Curious("knowledge")
    play({"knowledge": curious}, ["knowledge"])
    (request,) = curious.requests
    assert request.hints == ()
    assert GOLD not in repr(request) + request.transcript
    assert "hint one" not in repr(request) + request.transcript


def test_a_hint_is_for_the_helper_of_its_name() -> None:
    other = HintAgent("verify")
    assert NOTHING_LEFT in play({"verify": other}, ["verify"])


def test_hints_are_not_printed() -> None:
    assert "hint one" not in repr(Hinted().task(0))
    assert "hint one" not in repr(ConsultRequest("q", hints=HINTS["knowledge"]))


def test_a_record_holds_the_hints_that_were_given_and_no_other(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [SCAF_ROW])
    env = aipo_env.make("scaf-grpo-consult", data=data)
    env.reset(seed=0)
    assert env.agent_names == ["verify", "knowledge", "reasoning"]
    env.step('<consult agent="knowledge">what is known?</consult>')
    env.step(r"\boxed{21}")
    text = repr(env.episode.trajectory())
    assert "Disjoint sets add up." in text
    assert "Balls are red or blue." not in text
    assert "12 + 9 = 21" not in text


def test_it_is_an_agent_like_any_other() -> None:
    for agent in (knowledge_hints, reasoning_hints):
        assert check_agent(agent) == []
    one, two = ConsultRequest("q", hints=("a",)), ConsultRequest("q", hints=("b",))
    assert knowledge_hints().request_key(one) != knowledge_hints().request_key(two)
    assert knowledge_hints().request_key(one) == knowledge_hints().request_key(ConsultRequest("other", hints=("a",)))
