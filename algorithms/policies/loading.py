"""Loads a policy by name, from a directory, or from the hub."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from aipo_env.errors import DataNotFoundError
from algorithms.codec import TransformersCodec, stop_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

EMBEDDED = Path(__file__).parent / "embedded"
POLICIES = ("embedded", "smollm2")
"""Names that need no path: the tiny policy in this package, and SmolLM2-135M-Instruct."""


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

    def save(self, folder: Path) -> None:
        """Writes the model and its tokenizer as `transformers` does."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


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


def load_policy(name: str, device: str = "cpu") -> Policy:
    """Loads a policy in fp32.

    Args:
        name: "embedded", "smollm2", or a directory or hub id that `transformers` loads.
        device: a torch device.

    Raises:
        DataNotFoundError: when there is nothing under this name, with what was tried.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = policy_source(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise DataNotFoundError(
            f"no policy {name!r}: it is neither one of {', '.join(POLICIES)}, nor a directory with a model of "
            f"transformers, nor reachable on the hub ({type(error).__name__}: {str(error)[:200]})."
        ) from error
    return Policy(name, model.to(device), TransformersCodec(tokenizer, stop_ids(model.generation_config)))
