"""The embedded policy's tokenizer and architectures: models of about 0.3 million parameters over characters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from aipo_env import markup
from aipo_env.errors import unknown_id

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

Architecture = Literal["llama", "qwen3", "gpt_neox"]
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "qwen3", "gpt_neox")
"""Llama: RMSNorm, gated MLP, rotary positions. Qwen3: the same with normalised queries and keys, and grouped keys. GPT-NeoX:
LayerNorm, plain MLP in parallel with the attention, biases, untied output layer (and rotary positions over whole heads, which
have 24 dimensions alone)."""

HELPERS = ("verify", "knowledge", "reasoning")
PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable ASCII character and newline, and one per tag of the markup."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tags = [markup.CONSULT_CLOSE, markup.FEEDBACK_CLOSE, markup.BOX_OPEN]
    tags += [tag(name) for name in HELPERS for tag in (markup.consult_open, markup.feedback_open)]
    characters = ["\n", *map(chr, range(32, 127))]
    vocabulary = {token: i for i, token in enumerate([PAD, BOS, EOS, UNKNOWN, *tags, *characters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    # Special, so that text of a helper or a task which spells a tag out is read as characters.
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in [PAD, BOS, EOS, UNKNOWN, *tags]])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNKNOWN
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    architecture: Architecture = "llama",
    layers: int = 3,
    hidden: int = 96,
    heads: int = 4,
    seed: int = 0,
) -> PreTrainedModel:
    """A freshly initialised model; leaves the global random state as it was.

    Args:
        tokenizer: from `build_tokenizer`.
        architecture: one of `ARCHITECTURES`.
        layers: transformer layers.
        hidden: width; a multiple of `heads`.
        heads: attention heads.
        seed: decides the initial weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 512,
        "initializer_range": hidden**-0.5,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = _model_config(architecture, shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _model_config(architecture: Architecture, shape: dict[str, Any]) -> PreTrainedConfig:
    """The shape with what the architectures do not share."""
    from transformers import GPTNeoXConfig, LlamaConfig, Qwen3Config

    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    if architecture == "llama":
        return LlamaConfig(**shape, intermediate_size=2 * hidden, num_key_value_heads=heads, tie_word_embeddings=True)
    if architecture == "qwen3":
        return Qwen3Config(
            **shape,
            intermediate_size=2 * hidden,
            num_key_value_heads=max(1, heads // 2),
            head_dim=hidden // heads,
            tie_word_embeddings=True,
        )
    if architecture == "gpt_neox":
        rotary = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
        return GPTNeoXConfig(**shape, intermediate_size=3 * hidden, tie_word_embeddings=False, rope_parameters=rotary)
    raise unknown_id("architecture", architecture, ARCHITECTURES)
