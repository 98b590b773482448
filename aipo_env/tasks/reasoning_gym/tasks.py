"""A data set of reasoning-gym as a task family."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from aipo_env.errors import ConfigurationError, GradingError, MissingDependencyError, unknown_id
from aipo_env.grading import Grade, Verdict
from aipo_env.installation import install_command
from aipo_env.tasks.base import Task, check_index
from aipo_env.tasks.reasoning_gym.names import DATASETS, installed
from aipo_env.tasks.reasoning_gym.process import PROCESS

GENERATE_SECONDS = 60.0
SCORE_SECONDS = 5.0
"""A scorer that takes longer is killed, and the answer is wrong."""


class ReasoningGymTasks:
    """An endless family of tasks of one data set; task i is a function of (config, seed, split, i) alone.

    An answer is correct when it is the gold answer, or scores exactly 1.0 (reasoning-gym pays parts of the reward for
    texts that contain the answer); where the package's scorer cannot be trusted, a rule of our own decides. Data sets in
    which several answers are right may have no gold answer; `gold` is then empty.

    Args:
        split: "train" or "test"; they never share a seed. A data set with few different problems may still state one in
            both.
        dataset: its name in reasoning-gym, for example "chain_sum".
        seed: another seed is another sequence of problems.
        config: fields of the data set's configuration, for example `{"min_terms": 3}`.
    """

    num_tasks = None

    def __init__(
        self,
        split: str = "train",
        *,
        dataset: str,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if split not in ("train", "test"):
            raise unknown_id(f"rg/{dataset} split", split, ["train", "test"])
        if dataset not in DATASETS:
            hint = "Data sets whose scorers nobody read yet, and 'composite', are not offered."
            raise unknown_id("reasoning-gym data set", dataset, DATASETS, hint)
        if not installed():
            raise MissingDependencyError(
                f"rg/{dataset} needs the package reasoning-gym, which is not installed. Install it with: "
                f"{install_command('rg')}"
            )
        config = dict(config or {})
        if taken := config.keys() & {"seed", "size"}:
            raise ConfigurationError(
                f"the family sets {', '.join(sorted(taken))} itself: leave that out of its config. Its own option seed decides "
                "the tasks, which are chosen by their index."
            )
        self.name = f"rg/{dataset}"
        self.split, self.dataset, self.seed, self.config = split, dataset, seed, config
        try:
            options = json.dumps(config, sort_keys=True)
        except TypeError as error:
            raise ConfigurationError(
                f"config holds what JSON cannot: {error}. Use numbers, texts and lists."
            ) from error
        digest = f"/{hashlib.blake2b(options.encode(), digest_size=4).hexdigest()}" if config else ""
        self._prefix = f"{self.name}{digest}/{split}/{seed}/"
        if config:
            self.task(0)  # a field that does not exist is the user's mistake, and told at once

    def task(self, index: int) -> Task:
        """The task with this index."""
        index = check_index(index, None, self.name)
        try:
            reply = PROCESS.ask(self._request(index), GENERATE_SECONDS)
        except TimeoutError as error:
            raise GradingError(
                f"{self.name}: no problem was generated within {GENERATE_SECONDS:g} s. Ask for smaller ones with config=."
            ) from error
        if "error" in reply:
            raise ConfigurationError(
                f"reasoning-gym refuses the configuration {self.config} of {self.dataset}: {reply['error'][:300]}. See "
                f"its fields in help(reasoning_gym.factory.DATASETS[{self.dataset!r}][1])."
            )
        metadata = {"dataset": self.dataset, "category": reply["category"]}
        return Task(f"{self._prefix}{index}", reply["problem"], reply["gold"], metadata)

    def sample_index(self, rng: np.random.Generator) -> int:
        """Draws the index of a task."""
        return int(rng.integers(2**31))

    def grade(self, task: Task, answer: str) -> Grade:
        """Correct for the gold answer, or one that scores 1.0; see the class."""
        if not task.id.startswith(self._prefix):
            raise ConfigurationError(
                f"{self._prefix}... cannot grade {task.id!r}: it was made by another family, split, seed or config."
            )
        if task.gold and answer.strip() == task.gold.strip():
            return Grade(True, Verdict.CORRECT, "rg:exact", answer)
        if not answer.strip() and task.gold:
            return Grade(False, Verdict.NO_ANSWER, "rg:empty", None)
        if len(answer) > 200_000:
            return Grade(False, Verdict.WRONG, "rg:guard", answer[:100])
        index = int(task.id.rsplit("/", 1)[1])
        # The process may have to make the entry again, and no answer is late for that.
        self.task(index)
        try:
            reply = PROCESS.ask(self._request(index) | {"answer": answer}, SCORE_SECONDS)
        except TimeoutError:
            return Grade(False, Verdict.TIMEOUT, "rg:scorer", answer)
        correct = bool(reply["correct"])
        return Grade(correct, Verdict.CORRECT if correct else Verdict.WRONG, reply["rule"], answer)

    def _request(self, index: int) -> dict[str, Any]:
        digest = hashlib.blake2b(f"{self.seed}/{index}".encode(), digest_size=4).digest()
        # 32 bits, which is what numpy's global seed takes; the lowest one is the split.
        seed = int.from_bytes(digest, "big") & ~1 | (self.split == "test")
        return {"name": self.dataset, "config": self.config, "seed": seed}
