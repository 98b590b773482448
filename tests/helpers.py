"""Parts that several tests use: a tiny task family, a character codec, helpers whose replies are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aipo_env import ConsultRequest, Reply
from aipo_env.grading import Grade, Verdict
from aipo_env.tasks.base import Task, check_index


class SumTasks:
    """`2+3=` and the like; task i is i+1."""

    name = "sums"
    num_tasks = 100

    def task(self, index: int) -> Task:
        check_index(index, self.num_tasks, self.name)
        return Task(id=f"sums/{index}", problem=f"{index}+1=", gold=str(index + 1), metadata={"level": 1})

    def sample_index(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self.num_tasks))

    def grade(self, task: Task, answer: str) -> Grade:
        correct = answer.strip() == task.gold
        return Grade(correct, Verdict.CORRECT if correct else Verdict.WRONG, "test", answer)


class CharacterCodec:
    """One token per character (its code point); the ids above 2,000,000 are control tokens."""

    fingerprint = "characters"
    EOS = 2_000_000
    eos_ids = reserved_ids = frozenset({EOS})

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    encode_tag = encode

    def encode_prompt(self, prompt: str) -> list[int]:
        return [self.EOS + 1, *self.encode(prompt)]

    def encode_next_turn(self, text: str) -> list[int]:
        return [self.EOS + 2, *self.encode(text), self.EOS + 3]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i) for i in ids if i < self.EOS)


class Recorder:
    """A helper that says what it is told to, and keeps what it was asked."""

    def __init__(self, reply: str | Reply = "ok", name: str = "verify") -> None:
        self.name = name
        self.reply = reply if isinstance(reply, Reply) else Reply(reply)
        self.requests: list[ConsultRequest] = []

    async def respond(self, request: ConsultRequest) -> Reply:
        self.requests.append(request)
        return self.reply
