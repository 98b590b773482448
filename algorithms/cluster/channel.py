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

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aipo_env.errors import DataFormatError
from aipo_env.trajectory import Segment, Source, Trajectory

_BOUNDARY = 0.5  # no value lies between 0 and 1
_TOLERANCE = 1e-3  # a sampler's log-probability may round to a little above 0


class ChannelContents(NamedTuple):
    """What `decode` reads; every tensor has the shape of the channel."""

    is_agent: Bool[Tensor, ...]
    """True at AGENT tokens."""
    log_mu: Float[Tensor, ...]
    """log mu at AGENT tokens, 0 where it is unknown and at every other token."""
    behaviour_logprobs: Float[Tensor, ...]
    """Log-probability under what produced the token: the sampler's at POLICY tokens, log mu at AGENT tokens, else 0."""


def encode(trajectory: Trajectory) -> list[float]:
    """The channel of a trajectory, aligned with its `token_ids`.

    A helper's log-probability that is none (not finite, or above 0) counts as unknown: a helper's server must not be able to
    stop the training.

    Raises:
        DataFormatError: a POLICY token has no log-probability, or one that is none; that is the sampler's mistake.
    """
    values: list[float] = []
    for segment in trajectory.segments:
        if segment.source is Source.POLICY:
            values += _policy_values(segment)
        elif segment.source is Source.AGENT:
            values += [_agent_value(x) for x in segment.logprobs or (0.0,) * len(segment.token_ids)]
        else:
            values += [0.0] * len(segment.token_ids)
    return values


def action_ranges(trajectory: Trajectory) -> list[tuple[int, int]]:
    """The half-open ranges of POLICY tokens within `token_ids`: OpenRLHF's actions. Adjacent ones are joined."""
    ranges: list[tuple[int, int]] = []
    start = 0
    for segment in trajectory.segments:
        end = start + len(segment.token_ids)
        if segment.source is Source.POLICY and end > start:
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            ranges.append((start, end))
        start = end
    return ranges


def decode(channel: Float[Tensor, ...]) -> ChannelContents:
    """The inverse of `encode` on OpenRLHF's `rollout_log_probs`, of any shape.

    Zero padding reads as "not AGENT, log-probability 0".
    """
    is_agent = channel > _BOUNDARY
    log_mu = torch.where(is_agent, 1 - channel, torch.zeros_like(channel))
    return ChannelContents(is_agent, log_mu, torch.where(is_agent, log_mu, channel))


def _policy_values(segment: Segment) -> list[float]:
    if len(segment.logprobs) != len(segment.token_ids):
        raise DataFormatError(
            f"POLICY tokens need the sampler's log-probabilities: {len(segment.token_ids)} ids came without. Ask the "
            "engine for them (vLLM: SamplingParams(logprobs=0)) and pass them on in the action."
        )
    for value in segment.logprobs:
        if not -math.inf < value <= _TOLERANCE:
            raise DataFormatError(
                f"a sampled token has a finite log-probability of at most 0, got {value}. Is the sampler's 'logprobs' a "
                "probability, or another token's?"
            )
    return [min(float(value), 0.0) for value in segment.logprobs]


def _agent_value(log_mu: float) -> float:
    return 1.0 - log_mu if -math.inf < log_mu < 0.0 else 1.0
