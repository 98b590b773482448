"""Episodes of our own in which a scripted policy asks and boxes: what a policy that never asks is warmed up on.

The problems are procedural, in words, of one or two steps. The script states its steps, asks one of the helpers (or none),
reads the reply and answers. The environment plays them, so that prompt, tags and replies stand where they will stand in
training; loss falls on what the script says alone.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Final

import numpy as np

from aipo_env.consulting import run_sync
from aipo_env.errors import ConfigurationError
from aipo_env.game import ConsultGame
from aipo_env.grading import INTEGER, Grade, grade_answer
from aipo_env.gym_env import ConsultEnv
from aipo_env.protocol import Answer, Consult
from aipo_env.tasks.base import Task
from aipo_env.trajectory import Source
from algorithms.codec import TransformersCodec
from algorithms.policies import Policy
from algorithms.rollout import Roller, RolloutRequest
from algorithms.train_config import SamplingConfig

Row = tuple[list[int], list[bool]]
"""A sequence's ids, and which of them bear loss."""

_KINDS: Final = (
    ("{name} has {a} {things}, gets {b} more and gives {c} away. How many {things} are left?", "difference", "{a}+{b} {x}-{c}"),
    ("{b} boxes hold {a} {things} each; {c} more lie beside them. How many {things} is that?", "product", "{a}*{b} {x}+{c}"),
    ("A rectangle is {a} wide and {b} long. What is its area?", "area of a rectangle", "{a}*{b}"),
    ("A rectangle is {a} wide and {b} long. What is its perimeter?", "perimeter of a rectangle", "{a}+{b} 2*{x}"),
    ("{name} drives {a} miles an hour for {c} hours. How far does {name} get?", "distance, speed and time", "{a}*{c}"),
    ("What is the sum of the angles of a polygon with {a} sides, in degrees?", "angles of a polygon", "{a}-2 {x}*180"),
)  # fmt: skip
"""Problem, what a helper for knowledge is asked, and the steps; {x} is the step before."""
_NAMES: Final = ("Ana", "Ben", "Chloe", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jun")
_THINGS: Final = ("apples", "books", "cards", "coins", "eggs", "marbles", "pencils", "shells", "stamps", "tickets")
_UNASKED, _WRONG = 0.25, 0.3
"""Shares: of episodes in which nobody is asked, and of false claims among those that verify is asked about."""


@dataclasses.dataclass(frozen=True, slots=True)
class Exercise:
    """A problem and its solution."""

    problem: str
    fact: str
    steps: tuple[tuple[str, int], ...]
    """Each calculation and its value; the last one's is the answer."""

    @classmethod
    def of(cls, index: int) -> Exercise:
        """The exercise with this index."""
        rng = random.Random(f"exercise/{index}")
        problem, fact, steps = rng.choice(_KINDS)
        words: dict[str, object] = {"name": rng.choice(_NAMES), "things": rng.choice(_THINGS)}
        words |= {"a": rng.randint(12, 60), "b": rng.randint(3, 40), "c": rng.randint(2, 11)}
        done: list[tuple[str, int]] = []
        for step in steps.split():
            said = step.format(**words)
            words["x"] = _value(said)
            done.append((said, _value(said)))
        return cls(problem.format(**words), fact, tuple(done))


def _value(step: str) -> int:
    sign = next(char for char in step if char in "+-*")
    left, right = map(int, step.split(sign))
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


class Exercises:
    """The exercises as a task family without end."""

    name, split, num_tasks = "exercises", "train", None

    def task(self, index: int) -> Task:
        """The exercise with this index."""
        exercise = Exercise.of(index)
        return Task(f"exercises/{index}", exercise.problem, str(exercise.steps[-1][1]))

    def sample_index(self, rng: np.random.Generator) -> int:
        """Any of them."""
        return int(rng.integers(2**31))

    def grade(self, task: Task, answer: str) -> Grade:
        """Compares whole numbers."""
        return grade_answer(task.gold, answer, INTEGER)


def script(exercise: Exercise, helper: str | None, rng: random.Random) -> list[tuple[Consult | Answer, bool]]:
    """The turns of an episode, and whether each bears loss: a wrong calculation, which verify is to find, does not."""
    told = [f"{step} = {value}. " for step, value in exercise.steps]
    answer = Answer(str(exercise.steps[-1][1]), "".join(told))
    if helper is None:
        return [(answer, True)]
    if helper == "verify":
        step, value = exercise.steps[0]
        wrong = rng.random() < _WRONG
        claimed = value + rng.choice([-10, -1, 1, 10]) * wrong
        asked = Consult(helper, f"{step}={claimed}", f"{step} = {claimed}. ")
        # What was told before the question is not told again, unless it was wrong.
        return [(asked, not wrong), (answer if wrong else Answer(answer.text, "".join(told[1:])), True)]
    return [(Consult(helper, exercise.fact if helper == "knowledge" else exercise.problem), True), (answer, True)]


def make_row(game: ConsultGame, codec: TransformersCodec, rng: random.Random) -> Row:
    """One episode as a training sequence.

    Args:
        game: of `Exercises`, with the policy's codec.
        codec: the same.
        rng: draws the exercise, who is asked, and the slips.

    Raises:
        ConfigurationError: the rules leave no room for an episode.
    """
    index = rng.randrange(2**31)
    helper = None if rng.random() < _UNASKED else rng.choice(game.agent_names)
    turns = script(Exercise.of(index), helper, rng)
    episode = game.make_episode(index, seed=index)
    for action, _ in turns:
        episode.act(action)
        if episode.requests:
            run_sync(game.ask(episode))
        if episode.done and not isinstance(action, Answer):
            raise ConfigurationError(
                f"a warm-up's episodes take two turns and a few hundred characters, but {episode.stop_reason} ended one. "
                "Leave out what limits them so."
            )
    learnt = iter([learns for _, learns in turns])
    ids: list[int] = []
    loss: list[bool] = []
    for segment in episode.segments:
        ids += segment.token_ids
        loss += [segment.source is Source.POLICY and next(learnt)] * len(segment.token_ids)
    end = codec.tokenizer.eos_token_id
    return [*ids, min(codec.eos_ids) if end is None else int(end)], [*loss, True]


def count_asking(policy: Policy, env: ConsultEnv, episodes: int, max_tokens: int = 256) -> tuple[int, int]:
    """In how many episodes on exercises a policy asks, and in how many it answers."""
    roller = Roller(policy, env, SamplingConfig(max_tokens=max_tokens, batch_size=16))
    played = roller.rollout(
        [RolloutRequest(index, assisted=True, seed=index, group=index) for index in range(episodes)]
    )
    return sum(t.num_consults > 0 for t in played), sum(t.stop_reason == "answer" for t in played)
