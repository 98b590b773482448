"""The embedded policy's architecture and tokenizer: a Llama-type model of about 0.3 million parameters over characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aipo_env import markup

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

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
    tokenizer: PreTrainedTokenizerFast, *, layers: int = 3, hidden: int = 96, heads: int = 4, seed: int = 0
) -> LlamaForCausalLM:
    """A freshly initialised model; leaves the global random state as it was."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=hidden**-0.5,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
