"""Tiny policies with the embedded tokenizer, of several architectures."""

from __future__ import annotations

import functools

import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from algorithms.codec import TransformersCodec
from algorithms.policies import Policy
from algorithms.policies.embedded_model import build_tokenizer

ARCHITECTURES = ("llama", "qwen2", "gpt_neox")


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def tiny_policy(architecture: str = "llama", seed: int = 0, hidden: int = 32) -> Policy:
    """A random policy of two layers; its end token is as likely as any other."""
    shape = {
        "vocab_size": len(tokenizer()), "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    configs: dict[str, type[PretrainedConfig]] = {"llama": LlamaConfig, "qwen2": Qwen2Config, "gpt_neox": GPTNeoXConfig}
    if architecture != "gpt_neox":
        shape["num_key_value_heads"] = 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(configs[architecture](**shape))
    return Policy(architecture, model.float().eval(), TransformersCodec(tokenizer()))
