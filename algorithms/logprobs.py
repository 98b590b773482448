"""Log-probabilities of given tokens under a causal language model, for the rows that bear loss alone.

The output layer is the largest matrix product of a small model, and its result (rows x vocabulary, in fp32)
the largest tensor. So the rows are picked *before* the output layer. They are picked by a hook on that layer,
inside the model's own forward pass: whatever the architecture does to its logits afterwards (scaling,
soft-capping) still happens. A model that offers no output layer, or does not call it on (batch, length,
hidden), gives full logits, of which the rows are picked afterwards; the result is the same.

Where the logits of these rows would be large, they are never made: the rows go from the output layer's input to
their log-probabilities tile by tile (`algorithms/chunked_head.py`). The layer itself is then given one row only; what
the model makes of its values tells which transform the tiles need.

Dimensions: B sequences, L padded length, T selected tokens in row-major order, H hidden, V vocabulary.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aipo_agents.backends.cache_argument import cache_argument
from aipo_agents.backends.row_layers import keeps_states
from aipo_env.errors import ConfigurationError
from algorithms.chunked_head import LogitTransform, chunked_logprobs

CHUNKED_FROM = 1 << 25
"""Logits (rows x vocabulary) from which on they are computed tile by tile; fewer are faster in one piece."""
_NOT_IN_CHUNKS: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Models that do something unknown to their logits."""


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities of the selected tokens, packed in the order of `input_ids_BL[selected_BL]`."""

    logprobs_T: Float[Tensor, " tokens"]
    """log pi of each selected token given all tokens before it; fp32 or wider, differentiable."""
    entropy_T: Float[Tensor, " tokens"] | None
    """Entropy in nats of the distribution that each selected token is drawn from; None unless asked for."""


def token_logprobs(
    model: nn.Module,
    input_ids_BL: Int[Tensor, "batch length"],
    attention_mask_BL: Bool[Tensor, "batch length"] | Int[Tensor, "batch length"],
    selected_BL: Bool[Tensor, "batch length"],
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
    prompt_lengths_B: Sequence[int] | None = None,
    position_ids_BL: Int[Tensor, "batch length"] | None = None,
) -> TokenLogprobs:
    """Log-probabilities of the selected tokens of a right-padded batch.

    Per-token data of the batch is packed the same way: `sources_T = sources_BL[selected_BL]`.

    Args:
        model: a causal language model with the interface of `transformers`.
        input_ids_BL: token ids, padded on the right with any id.
        attention_mask_BL: 1 for tokens, 0 for padding.
        selected_BL: the tokens whose log-probability is wanted. A sequence's first token has none.
        temperature: what the logits are divided by; that of the sampler.
        with_entropy: also computes the entropy, differentiable as well.
        prompt_lengths_B: tokens of each row's prompt, none of them selected. Where rows have the same prompt, and
            the model keeps keys and values alone, each prompt is then computed once, forward and backward.
        position_ids_BL: for rows of several sequences, without `prompt_lengths_B`: places that begin anew with each; 0 at
            padding. By them the models that `algorithms.packing.require_packing` lets pass keep sequences apart.

    Raises:
        ConfigurationError: the batch is padded on the left, padding or a first token is selected, or the
            temperature is not above 0.
    """
    _check_batch(attention_mask_BL, selected_BL, position_ids_BL, temperature)
    # The logits at position t predict token t + 1.
    predicts_BL = torch.zeros_like(selected_BL)
    predicts_BL[:, :-1] = selected_BL[:, 1:]
    unshared_BL = predicts_BL
    shared = None if prompt_lengths_B is None else _shared_prompts(model, input_ids_BL, prompt_lengths_B)
    if shared is not None:
        predicts_BL, arguments = _after_prompts(model, input_ids_BL, attention_mask_BL, predicts_BL, shared)
    elif position_ids_BL is not None:
        # With a mask `transformers` would not look at the positions.
        arguments = {"input_ids": input_ids_BL, "position_ids": position_ids_BL, "use_cache": False}
    else:
        arguments = {"input_ids": input_ids_BL, "attention_mask": attention_mask_BL, "use_cache": False}
    token_ids_T = input_ids_BL[selected_BL]
    if (head := _plain_head(model, len(token_ids_T))) is not None:
        found = _in_chunks(model, head, arguments, predicts_BL, token_ids_T, temperature, with_entropy)
        if found is not None:
            return found
        if shared is not None:  # the prompts' cache has been used up
            predicts_BL, arguments = _after_prompts(model, input_ids_BL, attention_mask_BL, unshared_BL, shared)
    with _rows_before_output_layer(model, predicts_BL):
        logits = model(**arguments).logits
    # Never ambiguous: the last position predicts nothing, so one sequence of length L has fewer than L rows.
    logits_TV = logits[predicts_BL] if logits.shape[:2] == predicts_BL.shape else logits.squeeze(0)
    return logprobs_from_logits(logits_TV, token_ids_T, temperature=temperature, with_entropy=with_entropy)


def logprobs_from_logits(
    logits_TV: Float[Tensor, "tokens vocabulary"],
    token_ids_T: Int[Tensor, " tokens"],
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> TokenLogprobs:
    """Log-probabilities of `token_ids_T` under softmax(logits / temperature), in fp32 or wider."""
    logits_TV = logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))
    if temperature != 1.0:
        logits_TV = logits_TV / temperature
    # Not log_softmax, which would keep a second (T, V) tensor for the backward pass.
    log_normalizer_T = logits_TV.logsumexp(dim=-1)
    logprobs_T = logits_TV.gather(-1, token_ids_T.long().unsqueeze(-1)).squeeze(-1) - log_normalizer_T
    entropy_T = None
    if with_entropy:
        # An entry of -inf has probability 0 and adds nothing, but 0 * -inf is NaN.
        finite_TV = logits_TV.masked_fill(logits_TV == float("-inf"), 0.0)
        entropy_T = log_normalizer_T - (logits_TV.softmax(dim=-1) * finite_TV).sum(dim=-1)
    return TokenLogprobs(logprobs_T, entropy_T)


@dataclass(frozen=True)
class _SharedPrompts:
    """The distinct prompts of a batch, each without its last token (whose logits are wanted, row by row)."""

    lengths: list[int]
    """Of each row."""
    distinct: dict[tuple[int, ...], int]
    rows: list[int]
    """For each row of the batch, its prompt's place in `distinct`."""


def _shared_prompts(model: nn.Module, input_ids_BL: Tensor, prompt_lengths_B: Sequence[int]) -> _SharedPrompts | None:
    """The prompts, if sharing them saves work and the model can do it."""
    parameters = inspect.signature(model.forward).parameters
    # Activation checkpointing switches the cache off.
    # What `is_gradient_checkpointing` and its newer name `is_activation_checkpointing` look at.
    checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if checkpointing or cache_argument(model.forward) is None or "position_ids" not in parameters:
        return None
    # A state is written in place by the pass behind the prompt, while the gradient still needs what it was.
    if keeps_states(model.config):
        return None
    lengths = [length - 1 for length in prompt_lengths_B]
    ids = input_ids_BL.tolist()
    prompts = [tuple(row[:length]) for row, length in zip(ids, lengths, strict=True)]
    distinct = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    if min(lengths) < 1 or 2 * len(distinct) > len(prompts):
        return None
    return _SharedPrompts(lengths, distinct, [distinct[prompt] for prompt in prompts])


def _after_prompts(
    model: nn.Module, input_ids_BL: Tensor, attention_mask_BL: Tensor, predicts_BL: Tensor, shared: _SharedPrompts
) -> tuple[Tensor, dict[str, object]]:
    """Computes each prompt once; returns what is left to compute: which positions predict, and the model's arguments.

    Prompts are padded on the left and the rest on the right, so that both meet at one place of the cache.
    """
    from transformers import DynamicCache

    device = input_ids_BL.device
    longest = max(shared.lengths)
    prompts_UP = torch.zeros(len(shared.distinct), longest, dtype=torch.long)
    mask_UP = torch.zeros_like(prompts_UP)
    for prompt, row in shared.distinct.items():
        prompts_UP[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask_UP[row, longest - len(prompt) :] = 1
    prompts_UP, mask_UP = prompts_UP.to(device), mask_UP.to(device)
    padded = bool((mask_UP == 0).any())
    cache = DynamicCache(config=model.config)
    body = getattr(model, getattr(model, "base_model_prefix", ""), model)
    body(
        input_ids=prompts_UP,
        attention_mask=mask_UP if padded else None,
        position_ids=(mask_UP.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=True,
        **{cache_argument(body.forward) or "past_key_values": cache},
    )
    rows_B = torch.tensor(shared.rows, device=device)
    cache.reorder_cache(rows_B)
    lengths_B = torch.tensor(shared.lengths, device=device)
    # The last position of the longest row predicts nothing.
    width = input_ids_BL.shape[1] - 1 - min(shared.lengths)
    offsets_BL = lengths_B[:, None] + torch.arange(width, device=device)
    places_BL = offsets_BL.clamp(max=input_ids_BL.shape[1] - 1)
    inside_BL = offsets_BL < input_ids_BL.shape[1]
    mask_BL = attention_mask_BL.gather(1, places_BL).long() * inside_BL
    arguments: dict[str, object] = {
        "input_ids": input_ids_BL.gather(1, places_BL),
        # Nothing real stands behind padding on the right, so where no prompt is padded causality masks enough.
        "attention_mask": torch.cat([mask_UP[rows_B], mask_BL], dim=1) if padded else None,
        "position_ids": offsets_BL,
        cache_argument(model.forward) or "past_key_values": cache,
        "use_cache": True,
    }
    return predicts_BL.gather(1, places_BL) & inside_BL, arguments


def _plain_head(model: nn.Module, num_rows: int) -> nn.Linear | None:
    """The output layer, if it is a plain matrix product whose result for so many rows would be large."""
    layer = _output_layer(model)
    # An adapter, a quantised or a sharded layer is no nn.Linear, or has no plain weight.
    if type(layer) is not nn.Linear or type(layer.weight) is not nn.Parameter or model in _NOT_IN_CHUNKS:
        return None
    if num_rows * layer.out_features < CHUNKED_FROM or layer.weight.shape != (layer.out_features, layer.in_features):
        return None
    return layer


def _in_chunks(
    model: nn.Module,
    head: nn.Linear,
    arguments: dict[str, object],
    predicts_BL: Tensor,
    token_ids_T: Tensor,
    temperature: float,
    with_entropy: bool,
) -> TokenLogprobs | None:
    """The log-probabilities without the logits; None where the model does something unknown to its logits."""
    rows: list[Tensor] = []
    values: list[Tensor] = []

    def take_rows(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not args or args[0].shape[:-1] != predicts_BL.shape:
            return None
        rows.append(args[0][predicts_BL])
        return (rows[-1][None, :1].detach(), *args[1:])

    def see_values(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        values.append(output.detach().clone())  # some models change it in place

    handles = [head.register_forward_pre_hook(take_rows), head.register_forward_hook(see_values)]
    try:
        logits = model(**arguments).logits
    finally:
        for handle in handles:
            handle.remove()
    transform = None
    if len(rows) == len(values) == 1 and values[0].shape == logits.shape:
        transform = _find_transform(model, values[0], logits.detach())
    if transform is None:
        _NOT_IN_CHUNKS.add(model)
        return None
    logprobs_T, entropy_T = chunked_logprobs(
        rows[0],
        head.weight,
        head.bias,
        token_ids_T,
        temperature=temperature,
        transform=transform,
        with_entropy=with_entropy,
    )
    return TokenLogprobs(logprobs_T, entropy_T)


def _find_transform(model: nn.Module, values: Tensor, logits: Tensor) -> LogitTransform | None:
    """Which of the known transforms a model applies, by its effect on one row."""
    config = getattr(model, "config", None)
    text = getattr(config, "text_config", None) or config
    # What the config names comes first: on a row of tiny values a cap looks like none.
    scales = [getattr(text, "logit_scale", None), 1 / (getattr(text, "logits_scaling", None) or 1.0), 1.0]
    softcaps = dict.fromkeys([getattr(text, "final_logit_softcapping", None), None])
    known = [LogitTransform(float(scale), softcap) for softcap in softcaps for scale in scales if scale]
    wide = torch.promote_types(values.dtype, torch.float32)
    tolerance = 16 * torch.finfo(logits.dtype).eps
    for transform in known:
        if torch.allclose(transform.apply_(values.to(wide, copy=True)), logits.to(wide), tolerance, tolerance):
            return transform
    return None


def _output_layer(model: nn.Module) -> nn.Module | None:
    get_output_embeddings = getattr(model, "get_output_embeddings", None)
    layer = get_output_embeddings() if callable(get_output_embeddings) else None
    return layer if isinstance(layer, nn.Module) else None


@contextmanager
def _rows_before_output_layer(model: nn.Module, rows_BL: Bool[Tensor, "batch length"]) -> Iterator[None]:
    """Inside the context, the model's output layer sees (1, rows, H) where it would see (B, L, H)."""

    def keep_rows(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not args or args[0].shape[:-1] != rows_BL.shape:
            return None
        return (args[0][rows_BL].unsqueeze(0), *args[1:])

    output_layer = _output_layer(model)
    if output_layer is None:
        yield
        return
    handle = output_layer.register_forward_pre_hook(keep_rows)
    try:
        yield
    finally:
        handle.remove()


def _check_batch(
    attention_mask_BL: Tensor, selected_BL: Tensor, position_ids_BL: Tensor | None, temperature: float
) -> None:
    if not 0 < temperature < float("inf"):
        raise ConfigurationError(f"temperature must be above 0 and finite, but it is {temperature}; use the sampler's")
    attention_BL = attention_mask_BL.bool()
    if bool((attention_BL[:, 1:] & ~attention_BL[:, :-1]).any()):
        raise ConfigurationError(
            "token_logprobs takes batches padded on the right, but a token follows padding; pad on the right"
        )
    if bool((selected_BL & ~attention_BL).any()):
        raise ConfigurationError("only tokens can be selected, but selected_BL covers padding; select within the mask")
    first_BL = selected_BL[:, :1] if position_ids_BL is None else selected_BL & (position_ids_BL == 0)
    if bool(first_BL.any()):
        raise ConfigurationError(
            "the first token of a sequence has no log-probability, but selected_BL holds one; start the sequence with a prompt "
            "or a start-of-sequence token"
        )
