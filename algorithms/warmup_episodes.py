"""Episodes of our own in which a scripted policy asks and boxes: what a policy that never asks is warmed up on.

The problems are procedural, in words, of one or two steps. The script states its steps, asks one of the helpers (or none),
reads the reply and answers. The environment plays them, so that prompt, tags and replies stand where they will stand in
training; loss falls on what the script says alone.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Final

import numpy as np

from aipo_env.errors import ConfigurationError
from aipo_env.grading import INTEGER, Grade, grade_answer
from aipo_env.gym_env import ConsultEnv
from aipo_env.protocol import Answer, Consult, TokenAction
from aipo_env.tasks.base import Task
from aipo_env.trajectory import Source
from algorithms.codec import TransformersCodec
from algorithms.policies import Policy
from algorithms.rollout import LocalSampler
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
    ("{name} found {a} {things} yesterday and {b} today. How many {things} did {name} find in all?", "addition", "{a}+{b}"),
    ("{name} had {s} {things} and gave {b} of them away. How many {things} does {name} have now?", "subtraction", "{s}-{b}"),
    ("{name} has {s} {things}, and a friend has {b}. How many more {things} does {name} have?", "comparison", "{s}-{b}"),
    ("A basket held {b} {things}. {name} put more in, and now it holds {s}. How many did {name} put in?", "a part", "{s}-{b}"),
    ("Each bag holds {c} {things}. How many {things} are in {b} bags?", "multiplication", "{b}*{c}"),
    ("{name} shares {p} {things} equally among {c} friends. How many {things} does each get?", "division", "{p}/{c}"),
    ("{name} packs {p} {things} into boxes of {c}. How many boxes are filled?", "division", "{p}/{c}"),
)  # fmt: skip
"""Problem, what a helper for knowledge is asked, and the steps; {x} is the step before, {s} is a + b, {p} b * c."""
_NAMES: Final = ("Ana", "Ben", "Chloe", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jun")
_THINGS: Final = ("apples", "books", "cards", "coins", "eggs", "marbles", "pencils", "shells", "stamps", "tickets")
PROBED = 16
"""Episodes that a policy plays by itself, to see whether it asks."""
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
        a, b, c = rng.randint(12, 60), rng.randint(3, 40), rng.randint(2, 11)
        words |= {"a": a, "b": b, "c": c, "s": a + b, "p": b * c}
        done: list[tuple[str, int]] = []
        for step in steps.split():
            said = step.format(**words)
            words["x"] = _value(said)
            done.append((said, _value(said)))
        return cls(problem.format(**words), fact, tuple(done))


def _value(step: str) -> int:
    sign = next(char for char in step if char in "+-*/")
    left, right = map(int, step.split(sign))
    return {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[sign]


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


def row_maker(env: ConsultEnv, codec: TransformersCodec, seed: int) -> Callable[[], Row]:
    """Makes one episode after the other into training sequences.

    Args:
        env: of `Exercises`, with the policy's codec; its prompt, tags and helpers are what the policy gets to know.
        codec: the same.
        seed: decides the exercises, who is asked, and the slips.
    """
    game, dialect, rng = env.game, env.game.dialect, random.Random(f"warm-up/{seed}")
    end = codec.tokenizer.eos_token_id
    end = min(codec.eos_ids) if end is None else int(end)

    def make_row() -> Row:
        index = rng.randrange(2**31)
        helper = None if rng.random() < _UNASKED else rng.choice(game.agent_names)
        turns = script(Exercise.of(index), helper, rng)
        episode = game.make_episode(index, seed=index)
        for action, _ in turns:
            if episode.done:
                break
            ids = dialect.ids(dialect.render(action, game.config, episode.segments))
            # A turn that asks ends with its tag, where the dialect has one.
            stops = isinstance(action, Answer) or not dialect.closing
            game.play_sync([episode], [TokenAction([*ids, end] if stops else ids)])
        if episode.stop_reason != "answer":
            why = episode.stop_reason or episode.last_action
            raise ConfigurationError(
                f"a warm-up's episodes are two short turns, and one ended otherwise here: {str(why)[:300]}. Leave out "
                "rules that limit them so; where a chat template opens a thought, they do not fit."
            )
        learnt = iter([learns for _, learns in turns])
        row = [(s, s.source is Source.POLICY and next(learnt)) for s in episode.segments]
        bears = [learns for segment, learns in row for _ in segment.token_ids]
        return [i for segment, _ in row for i in segment.token_ids], bears

    return make_row


def ask_rate(policy: Policy, env: ConsultEnv) -> float:
    """In which share of episodes on exercises a policy asks by itself."""
    sampler = LocalSampler(policy, SamplingConfig(max_tokens=256, batch_size=PROBED))
    played = sampler.rollout(env, range(PROBED), group_size=1, seed=0)
    return sum(trajectory.num_consults > 0 for trajectory in played) / PROBED
