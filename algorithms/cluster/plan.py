"""How large a training run is: memory of each GPU, and the time of a step, worked out from shapes before anything is rented.

Everything here is arithmetic with stated assumptions (`Assumptions`); `docs/cluster.md` derives the formulas. None of it was
measured on a GPU. Estimates of time say which part is the bottleneck and whether a run fits, not when it will end.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from aipo_env.errors import ConfigurationError, unknown_id

GIB = 2**30


@dataclasses.dataclass(frozen=True, slots=True)
class ModelShape:
    """The shape of a decoder with grouped-query attention and a gated MLP (Llama, Qwen2, Mistral, ...)."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    vocabulary: int
    tied: bool
    """Whether the input embedding is the output head."""

    @property
    def parameters(self) -> int:
        """How many there are (biases left out)."""
        attention = 2 * self.hidden * self.heads * self.head_size + 2 * self.hidden * self.kv_heads * self.head_size
        layer = attention + 3 * self.hidden * self.mlp + 2 * self.hidden
        return self.layers * layer + self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers, bf16."""
        return 2 * self.layers * self.kv_heads * self.head_size * 2


MODELS = {
    "1.5b": ModelShape(1536, 28, 12, 2, 128, 8960, 151_936, tied=True),
    "7b": ModelShape(3584, 28, 28, 4, 128, 18_944, 152_064, tied=False),
}
"""The shapes of Qwen2.5-1.5B and Qwen2.5-7B; any other model by its folder with a config.json."""


@dataclasses.dataclass(frozen=True, slots=True)
class Gpu:
    """What a GPU has."""

    memory_gib: float
    flops: float
    """Dense bf16 operations per second."""
    bandwidth: float
    """Bytes per second from its memory."""


GPUS = {
    "a100-80": Gpu(80.0, 312e12, 2.0e12),
    "h100": Gpu(80.0, 989e12, 3.35e12),
    "h200": Gpu(141.0, 989e12, 4.8e12),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Assumptions:
    """What cannot be read off a shape."""

    training_efficiency: float = 0.35
    """Share of the peak operations that a training step reaches."""
    prefill_efficiency: float = 0.5
    """Share of the peak operations that the prompt's pass reaches."""
    decode_efficiency: float = 0.6
    """Share of the memory's bandwidth that decoding reaches."""
    engine_overhead_gib: float = 4.0
    """Activations, graphs and buffers of a vLLM engine, per GPU."""
    trainer_overhead_gib: float = 6.0
    """CUDA context, communication buffers and fragmentation of the trainer, per GPU."""
    logit_bytes: int = 10
    """Per logit at the peak of a training pass: bf16 logits, an fp32 copy, and its gradient."""


@dataclasses.dataclass(frozen=True, slots=True)
class RunShape:
    """The run that is planned."""

    model: str = "7b"
    """"1.5b", "7b", or a folder with a config.json."""
    gpu: str = "h100"
    gpus: int = 8
    """GPUs of the policy, training and rollouts together."""
    placement: Literal["colocated", "async"] = "colocated"
    """"colocated": every GPU trains and rolls out, in turns. "async": half of them each, at the same time."""
    tensor_parallel: int = 1
    """GPUs of one vLLM engine."""
    zero_stage: Literal[2, 3] = 3
    offload_optimizer: bool = False
    """Whether Adam's state lies in the host's memory."""
    prompts_per_step: int = 128
    group_size: int = 16
    prompt_tokens: int = 300
    response_tokens: int = 2000
    """Mean tokens behind the prompt, replies included."""
    context: int = 8192
    """The longest sequence."""
    micro_tokens: int = 16_384
    """Tokens of a packed micro-batch on one GPU; at least the context."""
    gpu_utilization: float = 0.5
    """vLLM's share of a GPU's memory; colocated engines sleep while the trainer works."""
    consults_per_episode: float = 1.0
    solo_share: float = 0.5
    helper_model: str = "7b"
    helper_gpus: int = 1
    """GPUs that serve the helpers, beside `gpus`."""
    helper_tokens: int = 150
    """Mean tokens of a reply."""

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        counts = (
            "gpus",
            "tensor_parallel",
            "prompts_per_step",
            "group_size",
            "prompt_tokens",
            "response_tokens",
            "context",
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is at least 1, got {getattr(self, name)}.")
        if self.gpu not in GPUS:
            raise unknown_id("GPU", self.gpu, GPUS)
        if self.placement == "async" and self.gpus < 2:
            raise ConfigurationError("placement='async' needs 2 GPUs or more, one to train and one to roll out; got 1.")
        if self.rollout_gpus % self.tensor_parallel:
            raise ConfigurationError(
                f"{self.rollout_gpus} GPUs that roll out are not a multiple of tensor_parallel={self.tensor_parallel}."
            )
        if self.micro_tokens < self.context:
            raise ConfigurationError(
                f"micro_tokens={self.micro_tokens} holds no sequence of context={self.context}; make it at least as large."
            )
        if self.prompt_tokens + self.response_tokens > self.context:
            raise ConfigurationError(
                f"prompt_tokens + response_tokens = {self.prompt_tokens + self.response_tokens} is the mean of a sequence and "
                f"exceeds context={self.context}."
            )
        if not 0 < self.gpu_utilization <= 1 or not 0 <= self.solo_share <= 1:
            raise ConfigurationError(
                f"gpu_utilization and solo_share are shares; got {self.gpu_utilization} and {self.solo_share}."
            )

    @property
    def training_gpus(self) -> int:
        """GPUs that train."""
        return self.gpus if self.placement == "colocated" else self.gpus - self.rollout_gpus

    @property
    def rollout_gpus(self) -> int:
        """GPUs that roll out."""
        return self.gpus if self.placement == "colocated" else self.gpus // 2

    @property
    def episodes(self) -> int:
        """Rollouts of a step."""
        return self.prompts_per_step * self.group_size


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What a run takes."""

    parameters: int
    training_gib: dict[str, float]
    """Memory of a training GPU by what fills it."""
    rollout_gib: dict[str, float]
    """Memory of a GPU that rolls out, by what fills it."""
    sequences_in_flight: int
    """Episodes of mean length that the key-value caches of all engines hold together."""
    seconds: dict[str, float]
    """Of a step, by part."""
    step_seconds: float
    tokens_per_second: float
    """Prompt and response tokens of a step by its seconds."""
    helper_requests_per_second: float
    """That the helpers have to answer, so that the policy does not wait for them."""
    helper_capacity: float
    """Requests per second that `helper_gpus` can answer."""
    problems: list[str]
    """Why it would not run, or would run badly, each with what to change."""


def plan(run: RunShape, assumptions: Assumptions | None = None) -> Plan:
    """Works out memory and time of one step.

    Args:
        run: the run.
        assumptions: efficiencies and overheads; the defaults are cautious.
    """
    given = assumptions if assumptions is not None else Assumptions()
    gpu, shape, helper = GPUS[run.gpu], model_shape(run.model), model_shape(run.helper_model)
    training = _training_memory(run, shape, given)
    weights = 2 * shape.parameters / run.tensor_parallel / GIB
    cache = gpu.memory_gib * run.gpu_utilization - weights - given.engine_overhead_gib
    rollout = {"weights": weights, "engine": given.engine_overhead_gib, "key-value cache": max(0.0, cache)}
    mean_length = run.prompt_tokens + run.response_tokens
    held = int(max(0.0, cache) * run.rollout_gpus * GIB / (shape.kv_bytes_per_token * mean_length))
    seconds = _seconds(run, shape, gpu, given, held)
    together = run.placement == "colocated"
    step = sum(seconds.values()) if together else max(seconds["rollout"], seconds["training"]) + seconds["weight sync"]
    tokens = run.episodes * (run.prompt_tokens + run.response_tokens)
    asked = run.episodes * (1 - run.solo_share) * run.consults_per_episode
    capacity = _helper_capacity(run, helper, gpu, given)
    # Rollouts that go on beside training have the whole step.
    needed = asked / (seconds["rollout"] if together else step)
    problems = _problems(run, gpu, training, cache, held, needed, capacity)
    return Plan(shape.parameters, training, rollout, held, seconds, step, tokens / step, needed, capacity, problems)


def model_shape(model: str) -> ModelShape:
    """The shape of a model by its name here, or by its folder.

    Raises:
        ConfigurationError: for a folder whose config.json is not that of a decoder.
    """
    if model in MODELS:
        return MODELS[model]
    path = Path(model) / "config.json"
    if not path.exists():
        raise unknown_id("model", model, MODELS, "Or name a folder that holds a model's config.json.")
    return shape_of(json.loads(path.read_text(encoding="utf-8")), str(path))


def shape_of(config: Mapping[str, Any], source: str) -> ModelShape:
    """The shape that a model's configuration describes.

    Raises:
        ConfigurationError: for one that is not that of a decoder; it names the source.
    """
    try:
        heads = int(config["num_attention_heads"])
        return ModelShape(
            hidden=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or config["hidden_size"] // heads),
            mlp=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{source} does not describe a decoder whose size is known here: {error!r}."
        ) from error


def activation_bytes(shape: ModelShape, tokens: int, width: int = 2, *, recompute: bool) -> int:
    """What a pass keeps for the backward pass; where layers are computed again, their inputs, and one layer whole at a time."""
    layer = width * tokens * (8 * shape.hidden + 4 * shape.mlp)
    return width * tokens * shape.hidden * shape.layers + layer if recompute else shape.layers * layer


def _training_memory(run: RunShape, shape: ModelShape, given: Assumptions) -> dict[str, float]:
    size, shards, tokens = shape.parameters, run.training_gpus, run.micro_tokens
    return {
        "weights": 2 * size / (shards if run.zero_stage == 3 else 1) / GIB,
        "gradients": 2 * size / shards / GIB,
        "optimizer": 0.0 if run.offload_optimizer else 12 * size / shards / GIB,
        "activations": activation_bytes(shape, tokens, recompute=True) / GIB,
        "logits": given.logit_bytes * tokens * shape.vocabulary / GIB,
        "overhead": given.trainer_overhead_gib,
    }


def _seconds(run: RunShape, shape: ModelShape, gpu: Gpu, given: Assumptions, held: int) -> dict[str, float]:
    size, tokens = shape.parameters, run.episodes * (run.prompt_tokens + run.response_tokens)
    # 2 operations a weight and token forward, 4 backward, 2 for recomputing; 2 more for the old policy's log-probabilities.
    training = 10 * size * tokens / (run.training_gpus * gpu.flops * given.training_efficiency)
    prefill = 2 * size * run.episodes * run.prompt_tokens / (run.rollout_gpus * gpu.flops * given.prefill_efficiency)
    engines = run.rollout_gpus // run.tensor_parallel
    batch = max(1.0, min(run.episodes, held) / engines)
    mean_length = run.prompt_tokens + run.response_tokens / 2
    read = 2 * size + batch * mean_length * shape.kv_bytes_per_token
    token_step = read / (run.tensor_parallel * gpu.bandwidth * given.decode_efficiency)
    waves = math.ceil(run.episodes / engines / batch)
    return {
        "rollout": prefill + waves * run.response_tokens * token_step,
        "training": training,
        "weight sync": 2 * size / 50e9,
    }


def _helper_capacity(run: RunShape, helper: ModelShape, gpu: Gpu, given: Assumptions) -> float:
    if not run.helper_gpus:
        return 0.0
    batch = 64
    read = 2 * helper.parameters + batch * (run.context / 2) * helper.kv_bytes_per_token
    decode = run.helper_tokens * read / (gpu.bandwidth * given.decode_efficiency) / batch
    prefill = 2 * helper.parameters * (run.prompt_tokens + run.response_tokens) / (gpu.flops * given.prefill_efficiency)
    return run.helper_gpus / (decode + prefill)


def _problems(
    run: RunShape, gpu: Gpu, training: dict[str, float], cache: float, held: int, needed: float, capacity: float
) -> list[str]:
    found = []
    total = sum(training.values())
    if total > gpu.memory_gib:
        largest = max(training, key=lambda name: training[name])
        remedy = {
            "logits": "lower micro_tokens, or compute the log-probabilities in chunks",
            "activations": "lower micro_tokens",
            "optimizer": "offload_optimizer, or more GPUs",
            "weights": "zero_stage=3, or more GPUs",
        }.get(largest, "more GPUs")
        found.append(f"training needs {total:.0f} GiB of {gpu.memory_gib:g}; most are {largest}: {remedy}.")
    if cache <= 0:
        found.append(
            f"no memory is left for vLLM's cache: raise gpu_utilization ({run.gpu_utilization}) or tensor_parallel."
        )
    elif held < run.episodes:
        found.append(
            f"{run.episodes} episodes do not fit at once ({held} of mean length do): they queue, which costs time."
        )
    if needed > capacity:
        found.append(
            f"the helpers are asked {needed:.1f} times a second and can answer {capacity:.1f}: more helper_gpus, a smaller "
            "helper_model, or fewer consults."
        )
    return found
