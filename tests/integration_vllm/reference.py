"""What `transformers` says of ids that another engine sampled, from one plain forward pass on the same weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from algorithms.policies import Policy


def reference_logprobs(
    policy: Policy, token_ids: Sequence[int], start: int, *, temperature: float = 1.0, top_p: float = 1.0
) -> list[float]:
    """The log-probabilities of `token_ids[start:]`, each behind all ids before it, in the sampling distribution."""
    with torch.no_grad():
        kept = len(token_ids) - start + 1
        logits_TV = policy.model(input_ids=torch.tensor([list(token_ids)]), logits_to_keep=kept).logits[0]
    logprobs_TV = (logits_TV[:-1].double() / temperature).log_softmax(dim=-1)
    if top_p < 1:
        ordered_TV, order_TV = logprobs_TV.exp().sort(dim=-1, descending=True)
        outside_TV = ordered_TV.cumsum(dim=-1) - ordered_TV >= top_p
        logprobs_TV = logprobs_TV.masked_fill(outside_TV.scatter(1, order_TV, outside_TV), float("-inf"))
        logprobs_TV = logprobs_TV.log_softmax(dim=-1)
    sampled_T1 = torch.tensor(list(token_ids[start:]))[:, None]
    values: list[float] = logprobs_TV.gather(1, sampled_T1)[:, 0].tolist()
    return values


def largest_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest absolute difference of two equally long sequences."""
    return max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), default=0.0)
