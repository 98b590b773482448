"""Loads a policy by name, from a directory, or from the hub."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from aipo_agents.backends.tokenizing import stop_ids
from aipo_env.errors import ConfigurationError, DataNotFoundError
from algorithms.codec import TransformersCodec
from algorithms.policies.adapters import base_of, has_adapter, merge_adapter, save_adapter
from algorithms.train_config import Dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from aipo_env import ConsultEnv
    from aipo_env.dialects.base import TokenCodec

EMBEDDED = Path(__file__).parent / "embedded"
TINY = 10_000_000
POLICIES = ("embedded", "smollm2")
"""Names that need no path: the tiny policy in this package, and SmolLM2-135M-Instruct."""
READABLE = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWX@#~&+;=")
"""The characters of problems and answers that the embedded policy learnt; all others are noise to it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """What is sampled and trained."""

    name: str
    model: PreTrainedModel
    codec: TransformersCodec

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The model's tokenizer."""
        return self.codec.tokenizer

    @property
    def eos_ids(self) -> frozenset[int]:
        """The ids that end a turn: the tokenizer's and those of the model's generation settings."""
        return self.codec.eos_ids | stop_ids(self.model.generation_config)

    @property
    def tiny(self) -> bool:
        """Whether it is of the embedded one's kind: below `TINY` parameters."""
        return bool(self.model.num_parameters() < TINY)

    def save(self, folder: Path) -> None:
        """Writes the model and its tokenizer as `transformers` does; of a model with an adapter (`adapters`) that one alone."""
        if has_adapter(self.model):
            save_adapter(self.model, folder)
        else:
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def warn_unreadable(codec: TokenCodec | None, env: ConsultEnv, num_tasks: int = 8) -> None:
    """Says which characters of the first tasks' prompts and answers the embedded policy never learnt; it scores 0 on such.

    Args:
        codec: of the policy: those with the embedded one's vocabulary are it, or were trained from it.
        env: whose tasks are looked at.
        num_tasks: how many of them.
    """
    if not isinstance(codec, TransformersCodec) or codec.tokenizer.get_vocab() != _embedded_vocabulary():
        return
    number = num_tasks if env.tasks.num_tasks is None else min(num_tasks, env.tasks.num_tasks)
    texts = (env.make_episode(index).transcript + env.game.task(index).gold for index in range(number))
    if unread := sorted(set("".join(texts)) - READABLE):
        logging.getLogger("aipo_env").warning(
            "the embedded policy cannot read %s, which tasks of %s hold: it knows digits, A to X, @#~& and +;= alone. Put "
            "problems so (style terse for rulebook), with the option prompt bare, or choose another policy.",
            " ".join(map(repr, unread)) if len(unread) < 9 else repr("".join(unread)), env.game.env_id,
        )  # fmt: skip


@functools.cache
def _embedded_vocabulary() -> dict[str, int]:
    from transformers import PreTrainedTokenizerFast

    return dict(PreTrainedTokenizerFast.from_pretrained(EMBEDDED).get_vocab())


def policy_source(name: str) -> str | os.PathLike[str]:
    """What `transformers` and vLLM load a policy from: its folder, or its hub id.

    Args:
        name: as for `load_policy`.
    """
    if name == "embedded":
        return EMBEDDED
    if name == "smollm2":
        from algorithms.policies.smollm2 import smollm2_folder

        return smollm2_folder()
    return name


def load_policy(name: str, device: str = "cpu", *, dtype: Dtype = "float32") -> Policy:
    """Loads a policy; an adapter is merged into the policy that it belongs to.

    Args:
        name: "embedded", "smollm2", a directory or hub id that `transformers` loads, or a directory with an adapter.
        device: a torch device.
        dtype: of its weights; "auto" as `in_bfloat16` has it.

    Raises:
        ConfigurationError: when this machine has no such device.
        DataNotFoundError: when there is nothing under this name, with what was tried.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"the device {device!r} cannot be used here: {str(error).partition(chr(10))[0]}. Use --device cpu, or a machine "
            "and a build of torch that have it."
        ) from error
    if (base := base_of(Path(name))) is not None:
        policy = load_policy(base, device, dtype=dtype)
        return dataclasses.replace(policy, name=name, model=merge_adapter(policy, Path(name)))
    source, why = policy_source(name), None
    if not isinstance(source, Path) and not Path(name).exists():
        why = _ask_hub(name)
    local = {} if why is None else {"local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **local)
        tokenizer = AutoTokenizer.from_pretrained(source, **local)
    except (OSError, ValueError) as error:
        reason = why or error
        near = difflib.get_close_matches(name, POLICIES, n=1)
        advice = f"Did you mean {near[0]!r}?" if near else "Name a folder that exists, or the id of a model."
        raise DataNotFoundError(
            f"no policy {name!r}: it is neither one of {', '.join(POLICIES)}, nor a directory with a model of transformers, "
            f"nor on the hub or in its cache ({type(reason).__name__}: {' '.join(str(reason).split())[:200]}). {advice}"
        ) from error
    policy = Policy(name, model, TransformersCodec(tokenizer, stop_ids(model.generation_config)))
    if in_bfloat16(dtype, policy.tiny, device):
        from algorithms.precision import lower

        lower(model)
    model.to(device)
    return policy


def in_bfloat16(dtype: Dtype, tiny: bool, device: str) -> bool:
    """Whether a policy's weights are bf16; "auto" means on anything but a CPU, and not those of a tiny one."""
    return dtype == "bfloat16" or (dtype == "auto" and not tiny and not device.startswith("cpu"))


def default_learning_rate(policy: Policy, *, adapter: bool) -> float:
    """AdamW's peak where a run names none: 3e-4 for tiny policies, what is usual for language models for larger ones.

    That of an `adapter` is ten times as high ("LoRA Without Regret", Thinking Machines 2025).
    """
    return (3e-4 if policy.tiny else 1e-6) * (10 if adapter else 1)


def _ask_hub(name: str) -> Exception | None:
    """Asks the hub once for a model; returns why it gives none, so that only what is cached can be used.

    `transformers` by itself asks for each of a dozen files, and for each several times.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=10)
    except Exception as error:  # of whatever HTTP client the library has
        return error
    return None
