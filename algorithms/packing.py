"""Whether a model keeps sequences apart that lie in one row: some do not, and do not say so.

`transformers` masks attention by positions that begin anew with each sequence. What carries a state along the row, as
linear attention and convolutions do, takes it from one sequence into the next.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from aipo_env.errors import ConfigurationError
from algorithms.logprobs import token_logprobs
from algorithms.policies import Policy
from algorithms.rollout import evaluating

_ROWS = ([60], [40, 20], [30, 26, 1, 1, 1, 1])
"""Lengths of the sequences in each row of the probe; the last ones are as padding is."""
_BOUND, _BF16_BOUND = 1e-4, 0.1
"""Mean differences of log-probabilities, in nats, that pass for rounding."""


def require_packing(policy: Policy) -> None:
    """Refuses a policy whose sequences see each other in a packed row.

    A few random sequences go through the model packed and apart: their log-probabilities have to agree up to rounding. As
    rounding hides small leaks, those behind another sequence have to have a gradient of exactly zero by its tokens as well.

    Args:
        policy: as it is trained, in its precision.

    Raises:
        ConfigurationError: for such a policy, with what was found.
    """
    model, embeddings = policy.model, policy.model.get_input_embeddings()
    kinds = sorted(set(getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ()))
    told = f"{policy.name} ({', '.join([model.config.model_type, *kinds])})"
    # Attention in chunks is cut by places in the row, further apart than the probe reaches.
    if "position_ids" not in inspect.signature(model.forward).parameters or "chunked_attention" in kinds:
        raise ConfigurationError(
            f"packing=True needs a model whose attention goes by positions, unlike {told}; leave it out."
        )
    device, bound = model.device, _BF16_BOUND if embeddings.weight.dtype == torch.bfloat16 else _BOUND
    generator = torch.Generator().manual_seed(0)
    ids_BL = torch.randint(embeddings.num_embeddings, (len(_ROWS), sum(_ROWS[0])), generator=generator).to(device)
    positions_BL = torch.stack([torch.cat([torch.arange(n) for n in lengths]) for lengths in _ROWS]).to(device)
    first_BL = (positions_BL == 0).cumsum(dim=1) == 1
    embedded: list[Tensor] = []

    def keep(module: nn.Module, args: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    with evaluating(model):
        handle = embeddings.register_forward_hook(keep)
        try:
            packed_T = _logprobs(model, ids_BL, positions_BL)
        finally:
            handle.remove()
        apart = [one[None] for row, lengths in zip(ids_BL, _ROWS, strict=True) for one in row.split(lengths)]
        with torch.no_grad():
            apart_T = torch.cat([_logprobs(model, one) for one in apart])
    [gradient_BLH] = torch.autograd.grad(packed_T[~first_BL[positions_BL > 0]].sum(), embedded)
    differences_T = (packed_T.detach() - apart_T).abs()
    mean, leaks = float(differences_T.mean()), bool(gradient_BLH[first_BL].any())
    if leaks or not mean <= bound:
        raise ConfigurationError(
            f"packing=True needs a model that keeps the sequences of a row apart. The log-probabilities of {told} differ by "
            f"{mean:.2g} nats on average and up to {float(differences_T.max()):.2g} from those of each sequence alone, where "
            f"{bound:g} on average is allowed{', and depend on the sequence before' if leaks else ''}. Leave packing out."
        )


def _logprobs(model: nn.Module, ids_BL: Tensor, positions_BL: Tensor | None = None) -> Tensor:
    """Of all tokens but the first of each sequence."""
    places_BL = torch.arange(ids_BL.shape[1], device=ids_BL.device)[None] if positions_BL is None else positions_BL
    return token_logprobs(
        model, ids_BL, torch.ones_like(ids_BL), places_BL > 0, position_ids_BL=positions_BL
    ).logprobs_T
