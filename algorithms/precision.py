"""What a model is trained in: bf16 weights with fp32 masters behind them, 8-bit moments, activations computed twice."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from aipo_env.errors import ConfigurationError, DataFormatError, MissingDependencyError
from aipo_env.installation import install_command
from algorithms.train_config import TrainConfig


def lower(model: nn.Module) -> None:
    """Casts a model to bf16, but for adapters and what its class keeps in fp32; buffers (rotary frequencies) stay too."""
    kept = {"lora_A", "lora_B", *(getattr(model, "_keep_in_fp32_modules_strict", None) or ())}
    for name, parameter in model.named_parameters():
        if not kept & set(name.split(".")):
            parameter.data = parameter.data.to(torch.bfloat16)


class TrainedWeights:
    """The weights of a model that are trained. An optimizer moves `masters`: the same, or what lies behind them in fp32.

    Gradients are summed in fp32, whatever the model computes in.

    Args:
        model: its trained parameters are those that require a gradient.
        bfloat16: casts the model to bf16, as `lower` does.
        with_masters: whether weights that are cast keep masters.
    """

    def __init__(self, model: nn.Module, *, bfloat16: bool = False, with_masters: bool = True) -> None:
        weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.masters: dict[str, nn.Parameter] = dict(weights)
        if bfloat16:
            if with_masters:
                self.masters = {name: nn.Parameter(parameter.data.float()) for name, parameter in weights.items()}
            lower(model)
        self._pairs = list(zip(weights.values(), self.masters.values(), strict=True))
        for weight, _ in self._pairs:
            if weight.dtype == torch.bfloat16:
                if not hasattr(weight, "grad_dtype"):
                    raise MissingDependencyError(
                        "weights in bfloat16 need torch >= 2.10, which sums their gradients in fp32; this is "
                        f"{torch.__version__}. Upgrade torch, or train in float32."
                    )
                weight.grad_dtype = torch.float32

    def zero_gradients(self) -> None:
        """Sets gradients to zero, not to none: a batch without signal is a step with a zero gradient."""
        for weight, master in self._pairs:
            dtype = torch.promote_types(master.dtype, torch.float32)
            # One tensor of both; the backward passes add to it in place.
            weight.grad = torch.zeros_like(weight, dtype=dtype)
            if master is not weight:
                master.grad = weight.grad

    def drop_gradients(self) -> None:
        """Frees the gradients: rollouts need the memory."""
        for weight, master in self._pairs:
            weight.grad = master.grad = None

    @torch.no_grad()
    def update(self) -> None:
        """Makes the model's weights what the masters are, rounded."""
        for weight, master in self._pairs:
            if master is not weight:
                weight.copy_(master)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds; what is not trained is as the run began with it."""
        return {name: master.detach() for name, master in self.masters.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`.

        Raises:
            DataFormatError: for the state of another policy.
        """
        for name, master in self.masters.items():
            if name not in state or state[name].shape != master.shape:
                raise DataFormatError(f"the checkpoint is of another policy: it lacks {name}, which this run trains.")
            master.copy_(state[name])
        self.update()


def make_optimizer(config: TrainConfig, weights: TrainedWeights) -> torch.optim.Optimizer:
    """AdamW as a run's settings have it.

    Raises:
        MissingDependencyError: when `torchao` is needed and not installed.
    """
    options: dict[str, Any] = {"lr": config.learning_rate, "betas": config.betas, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(weights.masters.values(), **options)
    if importlib.util.find_spec("torchao") is None:
        raise MissingDependencyError(
            f"optimizer={config.optimizer!r} needs the package 'torchao': {install_command('lowbit')}"
        )
    from torchao.optim import AdamW8bit

    stochastic = config.optimizer == "adamw8bit_stochastic"
    made: torch.optim.Optimizer = AdamW8bit(weights.masters.values(), bf16_stochastic_round=stochastic, **options)
    return made


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets it in all groups, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


@contextlib.contextmanager
def rounding(config: TrainConfig, seed: int) -> Iterator[None]:
    """Around a step of the optimizer: its rounding is decided by the seed, and it is compiled on GPUs alone.

    On a CPU that would take a compiler, and half a minute.
    """
    if config.optimizer == "adamw":
        yield
        return
    on_cpu = torch.device(config.device).type == "cpu"
    with torch.random.fork_rng(), torch.compiler.set_stance("force_eager") if on_cpu else contextlib.nullcontext():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def recomputing(model: nn.Module, on: bool) -> Iterator[None]:
    """Inside, if `on`, layers keep their inputs alone for the backward pass, and are computed a second time in it.

    Raises:
        ConfigurationError: for a model whose layers cannot do that.
    """
    if not on:
        yield
        return
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigurationError(f"recompute=True needs layers that can do it, and {type(model).__name__} has none.")
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)
        # They recompute in training mode alone. What is in them is not to be in it: no dropout.
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False
