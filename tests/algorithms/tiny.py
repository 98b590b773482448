"""Tiny policies with the embedded tokenizer, of several architectures."""

from __future__ import annotations

import functools

import torch
from transformers import (
    AutoModelForCausalLM,
    FalconH1Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GraniteMoeHybridConfig,
    Lfm2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3NextConfig,
)

from algorithms.codec import TransformersCodec
from algorithms.policies import Policy
from algorithms.policies.embedded_model import build_tokenizer

ARCHITECTURES = ("llama", "qwen2", "gpt_neox")
HYBRIDS = ("qwen3_next", "qwen3_5", "lfm2", "granite_hybrid", "falcon_h1")
"""Those with layers of linear attention or a convolution beside, or in parallel with, attention."""


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


_LINEAR = {
    "head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
_ONE_KEY_HEAD = {"num_key_value_heads": 1}
_CONFIGS: dict[str, tuple[type[PretrainedConfig], dict[str, object]]] = {
    "llama": (LlamaConfig, _ONE_KEY_HEAD),
    "qwen2": (Qwen2Config, _ONE_KEY_HEAD),
    "qwen3": (Qwen3Config, {**_ONE_KEY_HEAD, "head_dim": 16}),
    "gpt_neox": (GPTNeoXConfig, {}),
    "gemma3": (
        Gemma3TextConfig,
        {**_ONE_KEY_HEAD, "head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "qwen3_next": (
        Qwen3NextConfig,
        {
            **_ONE_KEY_HEAD, **_LINEAR, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
    "qwen3_5": (Qwen3_5TextConfig, {**_ONE_KEY_HEAD, **_LINEAR}),
    "lfm2": (Lfm2Config, {**_ONE_KEY_HEAD, "layer_types": ["conv", "full_attention"]}),
    "granite_hybrid": (
        GraniteMoeHybridConfig,
        {
            **_ONE_KEY_HEAD, **_MAMBA, "mamba_expand": 2, "layer_types": ["mamba", "attention"], "num_local_experts": 0,
            "num_experts_per_tok": 0, "shared_intermediate_size": 32,
        },
    ),
    "falcon_h1": (FalconH1Config, {**_ONE_KEY_HEAD, **_MAMBA, "mamba_d_ssm": 64}),
}  # fmt: skip


def tiny_policy(architecture: str = "llama", seed: int = 0, hidden: int = 32) -> Policy:
    """A random policy of two layers; its end token is as likely as any other."""
    shape = {
        "vocab_size": len(tokenizer()), "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    kind, options = _CONFIGS[architecture]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(kind(**shape, **options))
    return Policy(architecture, model.float().eval(), TransformersCodec(tokenizer()))
