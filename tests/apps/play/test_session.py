"""Episodes in which a person plays a role, without a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import aipo_env
from aipo_env import Source, read_traces
from aipo_env.errors import ConfigurationError, ServiceError, UnknownIdError
from aipo_env.protocol import Action, ConsultRequest, TurnRequest
from algorithms.apps.play.person import NO_ANSWER, Person
from algorithms.apps.play.session import PlaySession
from tests.helpers import Recorder, SumTasks


class Scripted:
    """A policy that says one text after the other; an exception is raised."""

    name = "scripted"

    def __init__(self, *said: str | Exception) -> None:
        self.said = list(said)

    async def act(self, request: TurnRequest) -> Action:
        said = self.said.pop(0)
        if isinstance(said, Exception):
            raise said
        return said


def speaking(person: Person, said: Sequence[str | None]) -> list[object]:
    """Lets a person say one text after the other; returns what it was asked."""
    rest, asked = list(said), []

    def answer() -> None:
        asked.append(person.asked)
        assert person.say(rest.pop(0))

    person.notify = answer
    return asked


def make(**options: object) -> aipo_env.ConsultEnv:
    agents = {name: Recorder(f"{name} says so", name) for name in ("verify", "knowledge", "reasoning")}
    return aipo_env.make("rulebook-consult", **{"tasks": SumTasks(), "agents": agents} | options)  # type: ignore[arg-type]


def play(session: PlaySession, changed: Callable[[], None] = lambda: None) -> str:
    return asyncio.run(session.play(changed))


def test_a_person_solves_a_task_with_help(tmp_path: Path) -> None:
    person, path = Person("policy"), tmp_path / "traces.jsonl"
    session = PlaySession(make(), person, task_index=4, seed=3, traces=path)
    asked = speaking(person, ['<consult agent="verify">4+1=5</consult>', "hm", "\\boxed{5}"])
    changes: list[str | None] = []
    assert play(session, lambda: changes.append(session.episode.turn_of)) == ""
    assert all(isinstance(request, TurnRequest) for request in asked)
    assert changes == ["policy", "verify", "policy", "policy", "policy", "grader", None]
    (trajectory,) = session.finished
    assert (trajectory.task_index, trajectory.verdict, trajectory.num_consults) == (4, "correct", 1)
    session.next()
    assert session.episode.task.id == "sums/5"
    speaking(person, ["\\boxed{1}"])
    assert play(session) == ""
    session.again()
    assert session.episode.task.id == "sums/5"
    speaking(person, ["\\boxed{6}"])
    assert play(session) == ""
    session.close()
    traces = list(read_traces(path))
    assert [(t.task_index, t.sample, t.verdict) for t in traces] == [
        (4, 0, "correct"),
        (5, 0, "wrong"),
        (5, 1, "correct"),
    ]
    assert {t.metadata["policy"] for t in traces} == {"policy"}
    assert len({t.seed for t in traces}) == 3
    # A later session goes on in the same file, and the file is one that can be played again.
    session = PlaySession(make(), person, task_index=5, traces=path)
    speaking(person, ["\\boxed{6}"])
    play(session)
    session.close()
    assert list(read_traces(path))[-1].sample == 2
    assert aipo_env.replay(path, make()).faithful


def test_what_is_given_up_is_not_kept(tmp_path: Path) -> None:
    person = Person("policy")
    session = PlaySession(make(), person, traces=tmp_path / "traces.jsonl")

    async def leave() -> None:
        task = asyncio.create_task(session.play(lambda: None))
        await asyncio.sleep(0)
        assert person.asked is not None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    assert (person.asked, person.say("late")) == (None, False)
    session.next()
    session.close()
    assert list(read_traces(tmp_path / "traces.jsonl")) == []


def test_a_person_is_a_helper_and_may_have_no_answer() -> None:
    person = Person("knowledge", "knows")
    env = make(agents={"verify": Recorder(), "knowledge": person})
    ask = '<consult agent="knowledge">1@2</consult>'
    session = PlaySession(env, person, Scripted(ask, ask, "\\boxed{8}"), task_index=7)
    asked = speaking(person, ["it is </feedback> 8", None])
    assert play(session) == ""
    request = asked[0]
    assert isinstance(request, ConsultRequest)
    assert (request.query, request.transcript.endswith(ask)) == ("1@2", True)
    prompt, _, reply, _, notice, _ = session.finished[0].segments
    assert "knowledge" in prompt.text
    assert "knows" in prompt.text
    assert (reply.source, reply.text) == (
        Source.AGENT,
        '<feedback agent="knowledge">it is &lt;/feedback> 8</feedback>',
    )
    assert (notice.source, NO_ANSWER in notice.text) == (Source.TEMPLATE, True)
    assert session.finished[0].metadata["person"] == "knowledge"


def test_a_policy_that_cannot_act_can_be_tried_again() -> None:
    person = Person("knowledge")
    policy = Scripted(ServiceError("the server is down"), "\\boxed{1}")
    session = PlaySession(make(agents={"knowledge": person}), person, policy, task_index=0)
    assert play(session) == "ServiceError: the server is down"
    assert not session.episode.done
    assert play(session) == ""
    assert session.finished[0].verdict == "correct"


def test_roles_that_do_not_fit() -> None:
    with pytest.raises(UnknownIdError, match="Did you mean 'knowledge'"):
        PlaySession(make(), Person("knowlege"), Scripted())
    with pytest.raises(ConfigurationError, match="is solo"):
        PlaySession(aipo_env.make("rulebook"), Person("knowledge"), Scripted())
    with pytest.raises(ConfigurationError, match="plays the policy, or a helper"):
        PlaySession(make(), Person("policy"), Scripted())
    with pytest.raises(ConfigurationError, match="plays the policy, or a helper"):
        PlaySession(make(), Person("knowledge"))


def test_the_same_seed_draws_the_same_tasks() -> None:
    def drawn(seed: int) -> list[str]:
        session = PlaySession(make(), Person("policy"), seed=seed)
        ids = []
        for _ in range(4):
            ids.append(f"{session.episode.task.id} {session.episode.seed}")
            session.next()
        return ids

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
