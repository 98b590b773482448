"""Drawing tokens for rows that each have their own sampling settings and their own stream of random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw(
    logits_BV: Tensor, temperatures: Sequence[float], top_ps: Sequence[float], generators: Sequence[torch.Generator]
) -> tuple[list[int], list[float]]:
    """Draws one token a row.

    A row's draw takes one number from its own generator, so that it does not depend on which rows stand beside it.

    Args:
        logits_BV: one row of logits for each sequence.
        temperatures: of each row; 0 is greedy.
        top_ps: of each row; 1 keeps all tokens.
        generators: of each row.

    Returns:
        The ids, and their natural log-probabilities under the distribution that was drawn from (0 for a greedy row: its
        distribution has one token).
    """
    rows = len(logits_BV)
    device = logits_BV.device
    temperature_B1 = torch.tensor(temperatures, dtype=logits_BV.dtype, device=device)[:, None]
    greedy_B = temperature_B1[:, 0] == 0
    logprobs_BV = (logits_BV / temperature_B1.masked_fill(temperature_B1 == 0, 1.0)).log_softmax(dim=-1)
    if min(top_ps) < 1:
        top_p_B1 = torch.tensor(top_ps, dtype=logits_BV.dtype, device=device)[:, None]
        ordered_BV, order_BV = logprobs_BV.exp().sort(dim=-1, descending=True)
        # The token that crosses the threshold stays in; top_p = 1 cuts nothing, whatever the sum rounds to.
        outside_BV = (ordered_BV.cumsum(dim=-1) - ordered_BV >= top_p_B1) & (top_p_B1 < 1)
        logprobs_BV = logprobs_BV.masked_fill(outside_BV.scatter(1, order_BV, outside_BV), float("-inf"))
        logprobs_BV = logprobs_BV.log_softmax(dim=-1)
    # One uniform number a row against the cumulative distribution, in fp64 so that rare tokens keep their share.
    cumulative_BV = logprobs_BV.double().exp().cumsum(dim=-1)
    draws_B1 = torch.stack([torch.rand(1, dtype=torch.float64, generator=generators[row]) for row in range(rows)])
    ids_B = torch.searchsorted(cumulative_BV, draws_B1.to(device) * cumulative_BV[:, -1:], right=True)[:, 0]
    ids_B = torch.where(greedy_B, logits_BV.argmax(dim=-1), ids_B.clamp(max=logits_BV.shape[1] - 1))
    chosen_B = logprobs_BV.gather(1, ids_B[:, None])[:, 0].masked_fill(greedy_B, 0.0)
    return ids_B.tolist(), chosen_B.tolist()
