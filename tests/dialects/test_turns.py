"""Turns of models that write rubbish, as whole episodes see them: an observation with the reason, nothing lost, nothing opened."""

from __future__ import annotations

import json
from typing import Any

import pytest

import aipo_env
from aipo_env import Answer, Consult, ConsultEnv, Malformed, Source, TokenAction
from aipo_env.protocol import TextAction
from aipo_env.replay import replay
from aipo_env.tasks.base import Task
from tests.dialects import codecs
from tests.dialects.test_families import CASES
from tests.helpers import Recorder, SumTasks

ROWS = [json.loads(line) for line in (CASES / "turns.jsonl").read_text("utf-8").splitlines()]


class OneProblem(SumTasks):
    """The same problem whatever the index."""

    def __init__(self, problem: str) -> None:
        super().__init__()
        self._problem = problem

    def task(self, index: int) -> Task:
        return Task("own/0", self._problem, "42")


def play(row: dict[str, Any]) -> tuple[ConsultEnv, dict[str, Recorder]]:
    codec = None if row["dialect"] in ("tags", "tools") else codecs.codec(row["dialect"])
    helpers = {name: Recorder("fine", name) for name in codecs.HELPERS}
    tasks = OneProblem(row.get("problem", "What is 17+25?"))
    dialect = "tools" if codec is not None else row["dialect"]
    env = aipo_env.make(
        "rulebook-consult", tasks=tasks, agents=helpers, dialect=dialect, codec=codec, **row.get("rules", {})
    )
    env.reset(seed=0)
    finish = row.get("finish", "stop")
    ids = env.game.dialect.ids(row["text"])
    env.step(TokenAction(ids, None, finish) if codec is not None else TextAction(row["text"], finish))
    return env, helpers


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['dialect']}: {row['case']}" for row in ROWS])
def test_a_turn_of_rubbish(row: dict[str, Any]) -> None:
    env, helpers = play(row)
    understood = env.episode.last_action
    kind = Consult if "asks" in row else Answer if "answers" in row else Malformed
    assert isinstance(understood, kind)
    assert sorted([name, r.query] for name, helper in helpers.items() for r in helper.requests) == sorted(
        row.get("asks", [])
    )
    if isinstance(understood, Answer):
        assert (understood.text, env.episode.done) == (row["answers"], True)
    elif isinstance(understood, Malformed):
        assert row["because"] in understood.reason
    assert ("answer" if "answers" in row else row.get("ends", "")) == env.episode.stop_reason
    # The policy is told once for each thing that was wrong, with the reason.
    told = [s.text for s in env.trajectory.segments if s.source is Source.TEMPLATE and "<notice>" in s.text]
    assert len(told) == row["told"]
    # What belongs to the turn is in the record as it was written, and the record plays again.
    own = next(s.text for s in env.trajectory.segments if s.source is Source.POLICY)
    assert row["text"].startswith(own)
    assert len(own) == len(row["text"]) or own.endswith("</consult>") or "made up" in row["case"]
    assert replay([env.trajectory], env).mismatches == []


def test_there_are_enough_rows() -> None:
    assert len(ROWS) >= 70


@pytest.mark.parametrize("dialect", ["tags", "tools"])
def test_a_reply_that_is_longer_than_what_is_left_is_cut_and_ends_the_episode(dialect: str) -> None:
    helper = Recorder("x" * 10_000)
    env = aipo_env.make(
        "rulebook-consult",
        tasks=SumTasks(),
        agents={"verify": helper},
        dialect=dialect,
        max_chars=600,
        max_reply_chars=10_000,
    )
    env.reset(seed=0, options={"task_index": 4})
    _, _, terminated, truncated, _ = env.step(Consult("verify", "q"))
    assert (terminated, truncated, env.episode.stop_reason) == (False, True, "max_chars")
    assert 0 < env.trajectory.text.count("x") <= 600
    assert replay([env.trajectory], env).mismatches == []
