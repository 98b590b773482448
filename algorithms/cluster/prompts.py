"""Task sets as the prompt files that OpenRLHF reads, and the labels by which the executor finds a prompt's task again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aipo_env.errors import ConfigurationError, DataFormatError
from aipo_env.game import ConsultGame
from aipo_env.registry import make_game, parse_agents
from aipo_env.tasks.base import is_confidential
from aipo_env.training_split import evaluation_env, require_training_split
from algorithms.cluster.options import ClusterConfig
from algorithms.codec import TransformersCodec

PROMPT_KEY, LABEL_KEY = "prompt", "label"
"""The keys of a row; OpenRLHF is told them by --data.input_key and --data.label_key."""


@dataclasses.dataclass(frozen=True, slots=True)
class PromptLabel:
    """What travels with a prompt in OpenRLHF's label: which task it is. No gold answer."""

    task: int
    """The task's index in its family."""
    evaluation: bool = False
    """Whether it is a task of the evaluation, which is always solo."""
    epoch: int = 0
    """How often the run had gone over its prompts before; it is not in the exported file (`algorithms/cluster/epochs.py`)."""

    def to_text(self) -> str:
        """The label as OpenRLHF carries it."""
        return json.dumps({k: v for k, v in dataclasses.asdict(self).items() if k != "epoch" or v})

    @classmethod
    def from_text(cls, text: object) -> PromptLabel:
        """The inverse of `to_text`; raises DataFormatError on anything else."""
        try:
            row = json.loads(text) if isinstance(text, str) else None
        except ValueError:
            row = None
        if isinstance(row, dict) and {"task", "evaluation"} <= row.keys() <= {"task", "evaluation", "epoch"}:
            task, evaluation, epoch = row["task"], row["evaluation"], row.get("epoch", 0)
            if isinstance(task, int) and isinstance(evaluation, bool) and isinstance(epoch, int):
                return cls(task, evaluation, epoch)
        raise DataFormatError(
            f"a prompt's label names its task, as {cls(0).to_text()}; came: {str(text)[:100]!r}. Leave --data.prompt_dataset "
            "and --eval.dataset to the entry point, which exports them from --aipo.env."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class PromptFile:
    """An exported file."""

    path: Path
    num_prompts: int
    num_too_long: int
    """Prompts that were left out, because no token would have been left for the policy."""


def training_game(config: ClusterConfig, codec: TransformersCodec | None = None) -> ConsultGame:
    """The game that is trained on.

    Raises:
        ConfigurationError: for options that do not fit, helpers that nobody plays, or a split that is for evaluation.
    """
    game = _make(config, codec, config.env, config.env_options)
    require_training_split(game.tasks, config.env, allow_test_split=config.allow_test_split)
    return game


def evaluation_game(config: ClusterConfig, codec: TransformersCodec | None = None) -> ConsultGame:
    """The game of the evaluation: the same rules and prompt, whose episodes are played without help."""
    return _make(config, codec, *evaluation_env(config.env, config.env_options, config.eval_env, config.eval_options))


def export_prompts(
    game: ConsultGame,
    tasks: Sequence[int],
    folder: Path,
    *,
    evaluation: bool = False,
    codec: TransformersCodec | None = None,
    max_length: int | None = None,
) -> PromptFile:
    """Writes the prompts of tasks as JSON Lines; equal contents give the same file.

    Args:
        game: makes the prompts.
        tasks: indices of its tasks.
        folder: where the file goes; its name has a hash of the contents.
        evaluation: marks the labels.
        codec: counts a prompt's tokens, with the chat template.
        max_length: prompts that leave no token below it are left out; needs the codec.

    Raises:
        ConfigurationError: no prompt is left, or the tasks are confidential.
    """
    if is_confidential(game.tasks):
        raise ConfigurationError(
            f"the tasks of {game.env_id} are confidential, and OpenRLHF reads prompts from a file and prints samples of them. "
            "Evaluate them with `aipo eval`; or, if the file and the logs stay with you, allow it with the family's option "
            "(--aipo.env_options keep_texts 1, or --aipo.eval_options)."
        )
    lines: list[str] = []
    for index in tasks:
        prompt = game.make_episode(index, assisted=False).transcript
        if codec is not None and max_length is not None and len(codec.encode_prompt(prompt)) >= max_length:
            continue
        row = {PROMPT_KEY: prompt, LABEL_KEY: PromptLabel(index, evaluation).to_text(), "datasource": "solo"}
        lines.append(json.dumps(row, ensure_ascii=False))
    if not lines:
        raise ConfigurationError(
            f"no prompt of {game.env_id} is left to train or evaluate on: {len(tasks)} tasks, all of them at least "
            f"--data.max_len {max_length} tokens long. Raise --data.max_len, or name more tasks."
        )
    contents = "\n".join(lines) + "\n"
    kind = "eval" if evaluation else "train"
    digest = hashlib.sha256(contents.encode()).hexdigest()[:16]
    path = folder / f"{game.env_id.replace('/', '.')}-{kind}-{digest}.jsonl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed: another run that starts now sees all of it or none.
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", encoding="utf-8", delete=False) as file:
            file.write(contents)
        os.replace(file.name, path)
    return PromptFile(path, len(lines), len(tasks) - len(lines))


def task_range(game: ConsultGame, count: int | None, flag: str) -> range:
    """The first `count` tasks of a game; all of them for None.

    Raises:
        ConfigurationError: the family has fewer, or no end.
    """
    total = game.tasks.num_tasks
    if count is None and total is None:
        raise ConfigurationError(
            f"{game.env_id} has no end: say with {flag} how many of its tasks to take, e.g. {flag} 10000."
        )
    if count is not None and total is not None and count > total:
        raise ConfigurationError(
            f"{flag} {count} asks for more tasks than {game.env_id} has, {total}; lower it or leave it out."
        )
    size = total if count is None else count
    assert size is not None
    return range(size)


def _make(
    config: ClusterConfig, codec: TransformersCodec | None, env_id: str, options: Mapping[str, Any]
) -> ConsultGame:
    reserved = {"codec", "agents", "consult_timeout"} & options.keys()
    if reserved:
        raise ConfigurationError(
            f"{', '.join(sorted(reserved))} cannot stand in --aipo.env_options; use --aipo.agents and --aipo.consult_timeout "
            "(the tokenizer is the policy's own)."
        )
    game = make_game(
        env_id,
        codec=codec,
        agents=parse_agents(config.agents),
        consult_timeout=config.consult_timeout,
        **options,
    )
    game.require_agents(game.agent_names)
    return game
