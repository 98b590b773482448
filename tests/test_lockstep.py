"""Episodes that take their turns together: where generation stops decides nothing but the cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aipo_env import Source, Trajectory
from aipo_env.errors import GradingError
from aipo_env.grading import Grade
from aipo_env.lockstep import Generated, play_rows
from aipo_env.registry import make_game
from aipo_env.tasks.base import Task
from tests.helpers import CharacterCodec, SumTasks

CODEC = CharacterCodec()
EOS = CODEC.EOS
ASK = '<consult agent="verify">1+1=2</consult>'
TURNS = [
    ["thinking", "\\boxed{1}"],  # no helper answers: it writes both as one turn
    ["hm " + ASK + " I ask myself", " and say \\boxed{2}"],  # solo: what it asks stops nothing
    [ASK, "so \\boxed{3}"],
    [ASK, ASK, "\\boxed{0}"],
]
"""Of each row, what the policy writes; in an assisted episode a part is a turn."""
SOLO = 2


def policy(*, piece: int = 10_000, over: str = "", calls: list[int] | None = None) -> Callable[..., Generated]:
    """Generates what comes next, `piece` tokens at a time, and past the end of a turn as well."""

    def row_of(context: list[int], room: int) -> list[int]:
        text = CODEC.decode(context)
        row = int(text[: text.index("+")])
        written = text[text.index("=") + 1 :]
        turns = TURNS[row] if row >= SOLO else ["".join(TURNS[row])]
        turn = turns[written.count("</feedback>")]
        rest = [*CODEC.encode(turn[len(written.rpartition("</feedback>")[2].lstrip("\n")) :]), EOS]
        return ([*rest, *CODEC.encode(over)][:piece] if len(rest) <= piece else rest[:piece])[:room]

    def generate(contexts: list[list[int]], max_tokens: int) -> Generated:
        (calls if calls is not None else []).append(len(contexts))
        rows = [row_of(context, max_tokens) for context in contexts]
        return rows, [[-0.5] * len(ids) for ids in rows]

    return generate


def play(generate: Callable[..., Generated], tasks: Any = None, **options: Any) -> list[Trajectory]:
    agents = {"verify": lambda query: "yes"}
    game = make_game("rulebook-consult", agents=agents, tasks=tasks or SumTasks(), codec=CODEC, prompt="bare")
    values = {"max_tokens": 400, "eos_ids": CODEC.eos_ids, "seed": 0, "epoch": 0, **options}
    return play_rows(game, range(4), generate, group_size=4, num_solo=SOLO, **values)


def record(trajectory: Trajectory) -> tuple[object, ...]:
    return (trajectory.stop_reason, trajectory.reward, trajectory.token_ids, trajectory.sources, trajectory.logprobs)


def test_modes_places_and_rewards() -> None:
    played = play(policy())
    assert [(t.group, t.sample, t.assisted) for t in played] == [(0, i, i >= SOLO) for i in range(4)]
    assert [t.num_consults for t in played] == [0, 0, 1, 2]
    assert [t.reward for t in played] == [1.0, 1.0, 1.0, 0.0]
    assert [t.stop_reason for t in played] == ["answer"] * 4
    assert {s.text for t in played for s in t.segments if s.source is Source.AGENT} == {
        '<feedback agent="verify">yes</feedback>'
    }
    for trajectory in played:
        assert all(len(s.logprobs) == len(s.token_ids) for s in trajectory.segments if s.source is Source.POLICY)


@pytest.mark.parametrize("options", [{"piece": 1}, {"piece": 7}, {"over": "!" * 9}, {"piece": 5, "over": ASK}])
def test_where_generation_stops_changes_nothing(options: dict[str, Any]) -> None:
    assert [record(t) for t in play(policy(**options))] == [record(t) for t in play(policy())]


def test_the_token_limit_ends_an_episode() -> None:
    for limit in (6, len(ASK) + 3, len(ASK) + 60):
        for trajectory in play(policy(), max_tokens=limit):
            sampled = sum(len(s.token_ids) for s in trajectory.segments[1:] if s.source is Source.POLICY)
            assert sampled <= limit
            assert (trajectory.stop_reason == "length") == (trajectory.reward == 0 and trajectory.verdict == "")
    assert all(t.stop_reason == "length" for t in play(policy(), max_tokens=6))


def test_a_generator_that_gives_nothing_does_not_hang() -> None:
    played = play(lambda contexts, max_tokens: ([[] for _ in contexts], None))
    assert {t.stop_reason for t in played} <= {"no_answer", "length", "max_turns"}


def test_several_processes_generate_as_often() -> None:
    calls: list[int] = []
    again = 2

    def everywhere(running: int) -> int:
        nonlocal again
        again -= not running
        return 6 if running or again else 0

    played = play(policy(calls=calls), everywhere=everywhere)
    assert set(calls) == {6}
    assert len(calls) == 4  # three turns of the last row, and one more for another process
    assert [record(t) for t in played] == [record(t) for t in play(policy())]
    later = play(policy(), first=8)
    assert [(t.group, t.sample) for t in later] == [(2, i) for i in range(4)]


class Ungradable(SumTasks):
    def grade(self, task: Task, answer: str) -> Grade:
        if answer == "3":
            raise GradingError("the sandbox is gone")
        return super().grade(task, answer)


def test_a_grader_that_fails_cuts_one_episode() -> None:
    played = play(policy(), Ungradable())
    assert [t.stop_reason for t in played] == ["answer", "answer", "error", "answer"]


def test_helpers_seeds_come_from_seed_row_and_epoch() -> None:
    seeds = [[t.seed for t in play(policy(), **options)] for options in ({}, {}, {"epoch": 1}, {"seed": 1})]
    assert seeds[0] == seeds[1]
    assert len({seed for run in seeds[1:] for seed in run}) == 12
