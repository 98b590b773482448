"""The side channel through OpenRLHF: who wrote a token, and under which probability, in one float per token.

OpenRLHF 0.11.2 carries one float32 per token from the rollout to the loss, `rollout_log_probs`. Log-probabilities use its
non-positive half, so the other half is free to mark the helpers' tokens:

    value <= 0   POLICY: the sampler's log-probability. PROMPT, TEMPLATE and padding are 0 and no action.
    value >= 1   AGENT: 1 - log mu; exactly 1 where mu is unknown (log mu = 0)

What was encoded arrives bit for bit: OpenRLHF pads with zeros, cuts, stacks and moves the field, but does not compute with
it (only its own loss does, which never sees a marked value). The one rounding is `1 - log mu` in float32: at most one part
in 2^23 of max(1, |log mu|), as large as the rounding of the log-probability itself.

Actions, in OpenRLHF's sense, are POLICY tokens alone. Then every number that OpenRLHF derives from its action mask
(token counts, advantage whitening, KL, entropy, sequence ratios) leaves AGENT tokens out, and the channel adds them back
where the AGENT term needs them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aipo_env.errors import DataFormatError
from aipo_env.training_sample import TrainingSample
from aipo_env.trajectory import Source

_BOUNDARY = 0.5  # no value lies between 0 and 1


class ChannelContents(NamedTuple):
    """What `decode` reads; every tensor has the shape of the channel."""

    is_agent: Bool[Tensor, ...]
    """True at AGENT tokens."""
    log_mu: Float[Tensor, ...]
    """log mu at AGENT tokens, 0 where it is unknown and at every other token."""
    behaviour_logprobs: Float[Tensor, ...]
    """Log-probability under what produced the token: the sampler's at POLICY tokens, log mu at AGENT tokens, else 0."""


def encode(sample: TrainingSample) -> list[float]:
    """The channel of a sample, aligned with its `token_ids`.

    Raises:
        DataFormatError: a POLICY token has no log-probability; that is the sampler's mistake.
    """
    if np.isnan(sample.logprobs).any():
        raise DataFormatError(
            "POLICY tokens need the sampler's log-probabilities, and some came without. Ask the engine for them (vLLM: "
            "SamplingParams(logprobs=0)) and pass them on in the action."
        )
    values: list[float] = np.where(sample.sources == Source.AGENT, 1 - sample.mu_logprobs, sample.logprobs).tolist()
    return values


def action_ranges(sample: TrainingSample) -> list[tuple[int, int]]:
    """The half-open ranges of POLICY tokens within `token_ids`: OpenRLHF's actions."""
    edges = np.flatnonzero(np.diff(sample.sources == Source.POLICY, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def decode(channel: Float[Tensor, ...]) -> ChannelContents:
    """The inverse of `encode` on OpenRLHF's `rollout_log_probs`, of any shape.

    Zero padding reads as "not AGENT, log-probability 0".
    """
    is_agent = channel > _BOUNDARY
    log_mu = torch.where(is_agent, 1 - channel, torch.zeros_like(channel))
    return ChannelContents(is_agent, log_mu, torch.where(is_agent, log_mu, channel))
