"""Adapters of a low rank (LoRA, arXiv 2106.09685), through the library `peft`: trained in place of a policy's weights."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aipo_env.errors import ConfigurationError, DataFormatError, MissingDependencyError
from aipo_env.installation import install_command
from algorithms.train_config import LoraConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from algorithms.policies.loading import Policy

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter, as `peft` names them."""
_PREFIX = "base_model.model."
"""Of the weights' names in them."""


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether `add_adapter` was called for a model."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def add_adapter(policy: Policy, lora: LoraConfig, seed: int) -> None:
    """Puts a fresh adapter into a policy's model; from then on nothing but the adapter is trained.

    At first it changes nothing: one of its two factors is zero.

    Args:
        policy: is changed in place.
        lora: rank, scale and place.
        seed: decides the other factor; the global random state stays as it was.

    Raises:
        ConfigurationError: for targets that the model has not, or that are not taken here.
        MissingDependencyError: when `peft` is not installed.
    """
    _require_peft()
    import peft
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    if (Path(policy.name) / CONFIG).is_file():
        raise ConfigurationError(
            f"{policy.name} is an adapter already, merged into its policy when it is loaded, and another one on top of it "
            f'would have no policy on the disk to belong to. Write it whole first: load_policy("{policy.name}").save(folder).'
        )
    targets = "all-linear" if lora.targets == ("all-linear",) else list(lora.targets)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.scale,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    model = policy.model
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model.add_adapter(config)
    except ValueError as error:
        raise ConfigurationError(
            f"lora.targets names layers that get an adapter, and {' '.join(lora.targets)} does not fit {policy.name}: {error} "
            "Name layers by the ends of their names, such as q_proj v_proj."
        ) from error
    if any(
        isinstance(layer, BaseTunerLayer) for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    ):
        raise ConfigurationError(
            f"lora.targets {' '.join(lora.targets)} takes in the embedding or the output layer. They may be one weight, which "
            "an adapter on one of them would part; leave them out."
        )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    # The name that `load_policy` takes; a folder's wherever it is read from.
    base = str(Path(policy.name).absolute()) if Path(policy.name).is_dir() else policy.name
    model.peft_config["default"].base_model_name_or_path = base


def save_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Writes a model's adapter as `peft` does, and the model's generation settings."""
    import peft
    from safetensors.torch import save_file

    # Not `save_pretrained`, which asks the hub about the vocabulary of the weights below.
    weights = peft.get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"base_model.model.{name}": w.contiguous() for name, w in weights.items()}, folder / WEIGHTS, {"format": "pt"}
    )
    saved = dataclasses.replace(model.peft_config["default"], inference_mode=True)
    saved.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def remove_adapter(folder: Path) -> None:
    """Removes an adapter's files from a folder."""
    for name in (CONFIG, WEIGHTS):
        (folder / name).unlink()


@contextlib.contextmanager
def without_adapter(model: PreTrainedModel) -> Iterator[None]:
    """Inside, a model is what it was before its adapter, if it has one."""
    if not has_adapter(model):
        yield
        return
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


def base_of(folder: Path) -> str | None:
    """The policy that the adapter in a folder belongs to, as `load_policy` takes it; None where none lies there."""
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (ValueError, KeyError) as error:
        raise DataFormatError(
            f"{path} must say which policy the adapter belongs to, and does not ({error!r})."
        ) from error


def merge_adapter(base: Policy, folder: Path) -> PreTrainedModel:
    """The model of a policy with the adapter in a folder added to its weights; the policy is used up.

    Raises:
        DataFormatError: when the adapter does not fit the policy.
        MissingDependencyError: when `peft` is not installed.
    """
    _require_peft()
    import peft
    from safetensors.torch import load_file

    try:
        tuner = peft.LoraModel(base.model, peft.LoraConfig.from_pretrained(folder), "default")
        weights = {name.removeprefix(_PREFIX): weight for name, weight in load_file(folder / WEIGHTS).items()}
        left = peft.set_peft_model_state_dict(base.model, weights, "default")
        unknown = [*left.unexpected_keys, *(name for name in left.missing_keys if "lora_" in name)]
        if unknown:
            raise KeyError(unknown[0])
        model: PreTrainedModel = tuner.merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise DataFormatError(
            f"the adapter in {folder} does not fit the policy {base.name} ({str(error)[:200]}). Was that one changed since?"
        ) from error
    return model.requires_grad_(True)


def _require_peft() -> None:
    if importlib.util.find_spec("peft") is None:
        raise MissingDependencyError(f"adapters (LoRA) need the package 'peft': {install_command('lora')}")
