"""The chat templates of real models on a vocabulary of bytes."""

from __future__ import annotations

import functools
import re

from algorithms.codec import TransformersCodec
from tests.algorithms.vocabularies import carrier
from tests.dialects import templates

HELPERS = {"verify": "checks a step", "knowledge": "gives a fact", "reasoning": "proposes the next step"}
_MARKER = re.compile(
    r"<\|[a-zA-Z_|]+\|?>|</?[a-z_]+>|<[a-z_]+\|>|<\|\"\|>|\[/?[A-Z_]+\]|<｜[^｜]*｜>|<[a-z_]+_of_[a-z]+>"
)
_ENDS = {
    "llama": "<|eot_id|>", "gptoss": "<|return|>", "glm": "<|endoftext|>", "gemma4": "<turn|>", "diffusion": "<turn|>",
    "gemma": "<end_of_turn>", "deepseek": "<｜end▁of▁sentence｜>", "cohere": "<|END_OF_TURN_TOKEN|>", "phi": "<|end|>",
    "muse": "<|eot|>",
}  # fmt: skip


@functools.cache
def codec(name: str) -> TransformersCodec:
    """A template on a token for each byte and one for each of its markers."""
    text = templates.template(name)
    end = next((end for family, end in _ENDS.items() if name.startswith(family)), "<|im_end|>")
    markers = sorted({*_MARKER.findall(text), "<BOS>", end})
    tokenizer = carrier(text, markers, end)
    tokenizer.add_special_tokens({"bos_token": "<BOS>"})
    return TransformersCodec(tokenizer)
