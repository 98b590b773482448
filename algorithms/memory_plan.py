"""What memory a run of `aipo train` takes, worked out before it starts, and what to change where it does not fit.

The parameters are counted on the model itself, made without memory; the rest is arithmetic on its shape, shared with
`aipo plan`. `python -m tests.algorithms.measure_memory` compares it with what tiny runs take on a CPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import aipo_env
from aipo_env.console import print_json
from aipo_env.errors import DataNotFoundError, OutOfMemoryError
from aipo_env.registry import parse_agents
from algorithms.cluster.plan import GIB, ModelShape, activation_bytes, shape_of
from algorithms.logprobs import CHUNKED_FROM
from algorithms.policies.adapters import base_of
from algorithms.policies.loading import TINY, in_bfloat16, policy_source
from algorithms.rollout_command import load_codec
from algorithms.train_config import LoraConfig, TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CACHE_FACTOR = 2
"""Of the caches of the episodes that run: room for more tokens, and as many kept rows for turns that go on from them."""
LOGIT_BYTES = 12
"""Per logit of a pass that computes them: the values, an fp32 copy or its exponentials, and the gradient."""

Memory = dict[str, dict[str, float]]
"""Of each phase, "rollout" and "update", GiB by what fills them."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a run's memory depends on, beside its settings."""

    shape: ModelShape
    parameters: int
    linear_width: int
    """Inputs and outputs of all layers that may get an adapter: its parameters by rank."""
    attention_layers: int
    prompt_tokens: int
    """Of the longest prompt that was looked at."""

    @classmethod
    def of(cls, model: PreTrainedModel, env: aipo_env.ConsultEnv, prompts: int = 32) -> Subject:
        """Counts a model's parameters, without those of an adapter, and looks at an environment's first prompts."""
        head, text = model.get_output_embeddings(), model.config.get_text_config(decoder=True).to_dict()
        linear = [
            module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module is not head and "lora_" not in name
        ]
        kinds = text.get("layer_types") or ["attention"] * int(text["num_hidden_layers"])
        number = min(prompts, env.tasks.num_tasks or prompts)
        return cls(
            shape_of(text, type(model).__name__),
            sum(parameter.numel() for name, parameter in model.named_parameters() if "lora_" not in name),
            sum(layer.in_features + layer.out_features for layer in linear),
            sum("attention" in kind and "linear" not in kind for kind in kinds),
            max(len(env.game.make_episode(index).trajectory().token_ids) for index in range(number)),
        )


def look_at(config: TrainConfig) -> Subject:
    """What a run is to train, without its weights.

    Raises:
        DataNotFoundError: when there is no such policy.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    name = config.policy
    while (base := base_of(Path(name))) is not None:
        name = base
    codec = load_codec(config.policy)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(policy_source(name)))
    except (OSError, ValueError) as error:
        raise DataNotFoundError(f"no model of the policy {name!r} could be made: {str(error)[:200]}") from error
    options: dict[str, Any] = dict(config.env_options)
    with contextlib.closing(
        aipo_env.make(config.env, codec=codec, agents=parse_agents(config.agents), **options)
    ) as env:
        return Subject.of(model, env)


def memory(config: TrainConfig, subject: Subject) -> Memory:
    """What each phase of a run holds at its peak; what is freed for it is not in it."""
    bf16 = in_bfloat16(config.dtype, subject.parameters < TINY, config.device)
    width, shape, stochastic = 2 if bf16 else 4, subject.shape, config.optimizer == "adamw8bit_stochastic"
    adapter = config.lora.rank * subject.linear_width
    trained = adapter or subject.parameters
    length = subject.prompt_tokens + config.sampling.max_tokens
    episodes = config.prompts_per_step * config.samples_per_prompt
    rows, batch = min(config.sampling.batch_size, episodes), min(config.micro_batch_size, episodes)
    copies = 2 if config.objective.kl_coef > 0 and not adapter else 1
    cache = shape.kv_bytes_per_token // 2 * width * subject.attention_layers // shape.layers
    held = {
        "weights": width * subject.parameters * copies + 4 * adapter,
        "masters": 4 * trained if bf16 and not adapter and not stochastic else 0,
        "moments": (8 if config.optimizer == "adamw" else 2) * trained,
    }
    # A packed row holds several samples, as good as without their prompts at worst.
    scored = batch * (length if config.packing else config.sampling.max_tokens)
    sampling = {"cache": cache * rows * length * CACHE_FACTOR, "head": rows * shape.vocabulary * LOGIT_BYTES}
    if config.sampler == "vllm":
        # It has weights of its own and keeps no rows; on a GPU it sleeps in the update.
        sampling |= {"cache": sampling["cache"] // CACHE_FACTOR, "engine": width * subject.parameters}
        if config.device.startswith("cpu") or not config.engine_args.get("enable_sleep_mode", True):
            held |= {name: sampling.pop(name) for name in ("cache", "engine")}
    phases: dict[str, dict[str, float]] = {
        "rollout": {} if "/" in config.sampler else dict(sampling),
        "update": {
            "gradients": 4 * trained,
            "activations": activation_bytes(shape, batch * length, width, recompute=config.recompute),
            "head": min(scored * shape.vocabulary, CHUNKED_FROM) * LOGIT_BYTES
            + 4 * shape.hidden * (scored + shape.vocabulary),
        },
    }
    return {phase: {part: size / GIB for part, size in (held | own).items() if size} for phase, own in phases.items()}


def peak(found: Memory) -> float:
    """GiB of the phase that takes most."""
    return max(sum(parts.values()) for parts in found.values())


def changes(config: TrainConfig, subject: Subject, gib: float) -> tuple[list[str], float]:
    """The options to change so that a run takes at most `gib`, and what it takes then, which is more where nothing helps.

    First what changes no result, then the precision of the optimizer and of the weights, then adapters.
    """
    chosen: dict[str, str] = {}
    while (before := peak(found := memory(config, subject))) > gib:
        fullest = max(found, key=lambda phase: sum(found[phase].values()))
        for option, value, changed in _alternatives(config):
            # The other phase may take nearly as much: its turn is next.
            if sum(memory(changed, subject)[fullest].values()) < 0.98 * before:
                config, chosen[option] = changed, value
                break
        else:
            break
    return [f"{option} {value}".strip() for option, value in chosen.items()], before


def _alternatives(config: TrainConfig) -> Iterator[tuple[str, str, TrainConfig]]:
    change = dataclasses.replace
    batch, rows = config.micro_batch_size // 2, config.sampling.batch_size // 2
    if batch >= 8:
        yield "--micro-batch-size", str(batch), change(config, micro_batch_size=batch)
    if rows >= 16:
        yield "--sampling.batch-size", str(rows), change(config, sampling=change(config.sampling, batch_size=rows))
    if not config.recompute:
        yield "--recompute", "", change(config, recompute=True)
    if batch >= 1:
        yield "--micro-batch-size", str(batch), change(config, micro_batch_size=batch)
    if config.optimizer == "adamw":
        yield "--optimizer", "adamw8bit", change(config, optimizer="adamw8bit")
    if config.dtype != "bfloat16":
        yield "--dtype", "bfloat16", change(config, dtype="bfloat16")
    if not config.lora.rank and config.optimizer != "adamw8bit_stochastic":
        yield "--lora.rank", "16", change(config, lora=LoraConfig(rank=16))


def available(device: str) -> float:
    """GiB that a device has free: a GPU, or this machine."""
    if torch.device(device).type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0]) / GIB
    if not (meminfo := Path("/proc/meminfo")).exists():  # macOS: what there is, since nothing says what is free
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    with meminfo.open() as file:
        return float(next(line.split()[1] for line in file if line.startswith("MemAvailable:"))) * 1024 / GIB


def describe(config: TrainConfig, subject: Subject, gib: float) -> str:
    """What a run takes, whether it fits, and what to change where it does not."""
    found = memory(config, subject)
    fits = peak(found) <= gib
    lines = [f"{subject.parameters / 1e6:,.1f} million parameters; prompts of up to {subject.prompt_tokens} tokens"]
    for phase, parts in found.items():
        listed = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items())
        lines.append(f"{phase}: {_gib(sum(parts.values()))} GiB ({listed})")
    lines.append(f"{_gib(peak(found))} of {_gib(gib)} GiB are taken: it {'fits' if fits else 'does not fit'}.")
    if not fits:
        options, size = changes(config, subject, gib)
        if options:
            lines.append(f"! With {' '.join(options)} it takes {_gib(size)} GiB.")
        if size > gib:
            lines.append("! A smaller policy, a larger GPU, or several of them (docs/cluster.md) would do.")
    return "\n".join(lines)


def show(config: TrainConfig, gib: float | None, *, json: bool) -> int:
    """Prints the plan of a run; returns 1 where it does not fit.

    Args:
        config: of the run.
        gib: of its device; None for what that has free.
        json: prints "parameters", "memory" by phase, "available", and the "changes" with what the run "then" takes.
    """
    subject = look_at(config)
    gib = available(config.device) if gib is None else gib
    found = memory(config, subject)
    if json:
        options, then = changes(config, subject, gib)
        told = {"parameters": subject.parameters, "memory": found, "available": gib, "changes": options, "then": then}
        print_json(told)
    else:
        print(describe(config, subject, gib))
    return int(peak(found) > gib)


@contextlib.contextmanager
def explained(config: TrainConfig, model: PreTrainedModel, env: aipo_env.ConsultEnv) -> Iterator[None]:
    """Turns a lack of memory into an error that says what takes it, and what to change.

    Raises:
        OutOfMemoryError: with the words of the plan.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # What torch raises on a CPU has no type of its own.
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "not enough memory" not in str(error):
            raise
        subject = Subject.of(model, env)
        # It did not fit, whatever the plan says.
        plan = describe(config, subject, 0.67 * peak(memory(config, subject)))
        raise OutOfMemoryError(
            f"the run needs more memory than {config.device} has ({str(error).partition(chr(10))[0][:160]}). By the plan, with "
            f"what saves a third:\n{plan}\nThe last checkpoint is intact. The same command goes on from it, with another "
            "--micro-batch-size or --recompute too; with other changes choose another --out."
        ) from error


def _gib(size: float) -> str:
    return f"{size:.1f}" if size >= 1 else f"{size:.2g}"
