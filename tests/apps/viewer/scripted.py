"""Traces for the viewer, played through the real environment: a family of sums, a tokenizer, and a policy that writes, asks and errs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import aipo_env
from aipo_env import ConsultRequest, Reply, TokenAction, Trajectory, TurnRequest
from aipo_env.errors import ServiceError
from aipo_env.grading import Grade, Verdict
from aipo_env.protocol import Action
from aipo_env.tasks.base import Task, check_index

_TEXT = (
    "we add the digits from the right and carry what is left then look at the next place so that the sum of both numbers is known "
    "first let me check this step again because it may be wrong and the helper said otherwise therefore the result follows"
)
_WORDS = _TEXT.split()
_PIECE = re.compile(r"<[^<>]{1,40}>|\s?\w{1,4}|\s+|.", re.DOTALL)


class WordCodec:
    """Pieces of a few characters, numbered as they come; the ids from 2,000,000 are control tokens."""

    fingerprint = "words"
    EOS = 2_000_000
    eos_ids = reserved_ids = frozenset({EOS})

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._pieces: list[str] = []

    def encode(self, text: str) -> list[int]:
        ids = []
        for piece in _PIECE.findall(text):
            if piece not in self._ids:
                self._ids[piece] = len(self._pieces)
                self._pieces.append(piece)
            ids.append(self._ids[piece])
        return ids

    encode_tag = encode

    def encode_prompt(self, prompt: str) -> list[int]:
        return [self.EOS + 1, *self.encode(prompt)]

    def encode_next_turn(self, text: str) -> list[int]:
        return [self.EOS + 2, *self.encode(text), self.EOS + 3]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._pieces[i] for i in ids if i < self.EOS)

    def name(self, token: int) -> str:
        return {self.EOS: "<|end|>", self.EOS + 1: "<|begin|>"}.get(token, f"<|{token}|>")


class LevelSums:
    """Sums of two numbers; the level is how many digits they have."""

    name = "sums"

    def __init__(self, num_tasks: int) -> None:
        self.num_tasks = num_tasks

    def task(self, index: int) -> Task:
        check_index(index, self.num_tasks, self.name)
        level = 1 + index % 5
        left, right = np.random.default_rng(index).integers(10 ** (level - 1), 10**level, size=2).tolist()
        problem = f"Anna counts {left} beads and Ben counts {right} beads. How many do they have together? Compute {left}+{right}."
        return Task(f"sums/{index:05d}", problem, str(left + right), {"level": level, "subject": "adding"})

    def sample_index(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self.num_tasks))

    def grade(self, task: Task, answer: str) -> Grade:
        correct = answer.strip() == task.gold
        return Grade(correct, Verdict.CORRECT if correct else Verdict.WRONG, "test", answer)


class Helper:
    """Says the sum, more or less; one of them is down at times."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def respond(self, request: ConsultRequest) -> Reply:
        rng = np.random.default_rng(request.seed)
        if self.name == "reasoning" and rng.random() < 0.2:
            return Reply("", error="no reply within 2 s")
        return Reply(
            f"From {self.name}: {' '.join(rng.choice(_WORDS, size=20))}. Both together make {_sum(request.transcript)}."
        )


class Writer:
    """Writes some lines, asks up to two helpers, answers; what it asks nobody about it gets wrong more often.

    Args:
        codec: whose ids it writes.
        skill: added to the chance of being right.
        faults_from: from this task on a few of its episodes end in a fault.
    """

    name = "writer"

    def __init__(self, codec: WordCodec, skill: float = 0.0, faults_from: int | None = None) -> None:
        self.codec, self.skill, self.faults_from = codec, skill, faults_from

    async def act(self, request: TurnRequest) -> Action:
        rng = np.random.default_rng(request.seed)
        number = int(request.task_id.rpartition("/")[2])
        if self.faults_from is not None and number >= self.faults_from and rng.random() < 0.1:
            raise ServiceError("the policy's server answered 503 three times")
        text = " ".join(rng.choice(_WORDS, size=int(rng.integers(40, 120)))).capitalize() + ".\n"
        if request.assisted and request.turn < 2 and rng.random() < 0.6 - 0.3 * request.turn:
            agent = str(rng.choice(["verify", "knowledge", "reasoning"]))
            text += f'<consult agent="{agent}">How many is it, {number}?</consult>'
        elif rng.random() < 0.95:
            right = rng.random() < 0.4 + self.skill + 0.4 * request.turn
            text += f"So the answer is \\boxed{{{_sum(request.transcript) + (0 if right else 1)}}}."
        ids = [*self.codec.encode(text), self.codec.EOS]
        return TokenAction(ids, (-rng.exponential(0.4, size=len(ids))).tolist())


def _sum(transcript: str) -> int:
    found = re.search(r"Compute (\d+)\+(\d+)\.", transcript)
    assert found is not None
    return int(found[1]) + int(found[2])


def play(
    folder: Path,
    codec: WordCodec,
    num_tasks: int,
    samples: int = 8,
    *,
    tasks_per_step: int | None = None,
    skill: float = 0.0,
    faults_from: int | None = None,
) -> Path:
    """Plays the first tasks and writes traces.jsonl into a folder.

    Args:
        folder: of the run.
        codec: shared by the runs of a page.
        num_tasks: groups.
        samples: episodes of each.
        tasks_per_step: writes the traces as those of a training run with so many groups in a step, and its config.json.
        skill: of the policy.
        faults_from: as for `Writer`.
    """
    env = aipo_env.make(
        "rulebook-consult",
        tasks=LevelSums(num_tasks),
        codec=codec,
        agents={name: Helper(name) for name in ("verify", "knowledge", "reasoning")},
    )

    def finish(trajectory: Trajectory) -> Trajectory:
        if tasks_per_step is not None:
            trajectory.metadata["step"] = 1 + trajectory.group // tasks_per_step
        return trajectory

    traces = folder / "traces.jsonl"
    # One at a time: which episode ends first would otherwise be chance, and with it the order of the rows.
    options = {"group_size": samples, "solo_share": 0.5, "max_in_flight": 1}
    aipo_env.collect_rollouts(env, Writer(codec, skill, faults_from), traces=traces, finish=finish, **options)
    if tasks_per_step is not None:
        write_config(folder, prompts_per_step=tasks_per_step, samples_per_prompt=samples)
    return traces


def write_config(folder: Path, **options: object) -> None:
    """The config.json of a training run, as the trainer writes it."""
    import dataclasses

    from algorithms.train_config import TrainConfig

    config = TrainConfig(out=folder, **options)  # type: ignore[arg-type]
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1, sort_keys=True, default=str))
