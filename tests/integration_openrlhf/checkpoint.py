"""The embedded policy in a form that vLLM's CPU attention takes: heads of 32 dimensions in place of 24, the same function."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from algorithms.policies.loading import EMBEDDED

HEAD_DIM = 32


def write_checkpoint(folder: Path) -> Path:
    """Writes the policy and its tokenizer.

    New dimensions of queries, keys and values are zero. Rotary embedding turns dimension i with i + head_dim / 2 by the
    frequency theta ** (-2i / head_dim), so the old ones go to where their partners are, and theta is raised to the power that
    keeps the old frequencies. Queries are scaled, since attention divides by the root of the head's size.
    """
    old = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    config = LlamaConfig.from_pretrained(EMBEDDED)
    size, heads = config.head_dim, config.num_attention_heads
    places = torch.cat([torch.arange(size // 2), HEAD_DIM // 2 + torch.arange(size // 2)])
    config.head_dim = HEAD_DIM
    config.rope_parameters = {
        "rope_type": "default",
        "rope_theta": config.rope_parameters["rope_theta"] ** (HEAD_DIM / size),
    }
    new = LlamaForCausalLM(config)

    def widen_rows(weight: Tensor) -> Tensor:
        wide = weight.new_zeros(heads, HEAD_DIM, weight.shape[1])
        wide[:, places] = weight.unflatten(0, (heads, size))
        return wide.flatten(0, 1)

    state = dict(old.state_dict())
    for name, weight in state.items():
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            scale = (HEAD_DIM / size) ** 0.5 if name.endswith("q_proj.weight") else 1.0
            state[name] = widen_rows(weight) * scale
        elif name.endswith("o_proj.weight"):
            state[name] = widen_rows(weight.T.contiguous()).T.contiguous()
    new.load_state_dict(state)
    new.save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED).save_pretrained(folder)
    return folder
