"""From finished trajectories to the flat tensors that the objective takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aipo_env.trajectory import Source, Trajectory
from algorithms.advantages import expand_to_tokens
from algorithms.objective import Normalizer

PASS_TOKENS = 128
"""Padding that costs about as much as the fixed part of a pass."""


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """Some sequences, padded on the right, and their loss-bearing tokens packed.

    Dimensions: B sequences, L padded length, T loss-bearing tokens (POLICY and AGENT) in row-major order.
    """

    input_ids_BL: Int[Tensor, "batch length"]
    attention_mask_BL: Int[Tensor, "batch length"]
    selected_BL: Bool[Tensor, "batch length"]
    """True at loss-bearing tokens."""
    sources_T: Int[Tensor, " tokens"]
    behaviour_logprobs_T: Float[Tensor, " tokens"]
    """POLICY: the sampler's log-probability. AGENT: log mu, 0.0 where unknown."""
    advantages_T: Float[Tensor, " tokens"]
    sequence_ids_T: Int[Tensor, " tokens"]
    prompt_lengths_B: list[int]
    """Tokens of each row's prompt."""


def micro_batches(
    trajectories: Sequence[Trajectory],
    advantages_S: Float[Tensor, " samples"],
    size: int,
    *,
    pad_id: int,
    agent_advantages_S: Float[Tensor, " samples"] | None = None,
    device: torch.device | str = "cpu",
) -> list[MicroBatch]:
    """Cuts a batch into micro-batches of at most `size` sequences, those of like length together.

    Every sequence lies whole in one micro-batch. The result depends on `size` only in how rows are grouped. A micro-batch ends
    before it is full where the next sequence would make its padding longer by more than a further pass is worth.

    Args:
        trajectories: token-exact ones.
        advantages_S: one advantage each.
        size: sequences in a micro-batch.
        pad_id: any id.
        agent_advantages_S: those of AGENT tokens, where they differ from the POLICY tokens'.
        device: where the tensors go.
    """
    if agent_advantages_S is None:
        agent_advantages_S = advantages_S
    lengths = [len(t.token_ids) for t in trajectories]
    order = sorted(range(len(trajectories)), key=lambda i: lengths[i])
    return [
        _pack([(i, trajectories[i]) for i in part], advantages_S, agent_advantages_S, pad_id, device)
        for part in _like_lengths(order, lengths, size)
    ]


def _like_lengths(order: Sequence[int], lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Cuts rows, the shortest first, into parts of at most `size`."""
    part: list[int] = []
    for row in order:
        if part and (len(part) == size or len(part) * (lengths[row] - lengths[part[-1]]) > PASS_TOKENS):
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def _pack(
    rows: Sequence[tuple[int, Trajectory]],
    advantages_S: Float[Tensor, " samples"],
    agent_advantages_S: Float[Tensor, " samples"],
    pad_id: int,
    device: torch.device | str,
) -> MicroBatch:
    length = max(len(t.token_ids) for _, t in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    sources = torch.full((len(rows), length), int(Source.PROMPT), dtype=torch.long)
    logprobs = torch.zeros(len(rows), length)
    sequences = torch.empty(len(rows), length, dtype=torch.long)
    for row, (index, trajectory) in enumerate(rows):
        count = len(trajectory.token_ids)
        ids[row, :count] = torch.tensor(trajectory.token_ids)
        mask[row, :count] = 1
        logprobs[row, :count] = torch.tensor(trajectory.logprobs)
        sequences[row] = index
        start = 0
        for segment in trajectory.segments:
            sources[row, start : start + len(segment.token_ids)] = int(segment.source)
            start += len(segment.token_ids)
    selected = (sources == Source.POLICY) | (sources == Source.AGENT)
    sequence_ids_T = sequences[selected]
    sources_T = sources[selected]
    advantages_T = torch.where(
        sources_T == Source.AGENT,
        expand_to_tokens(agent_advantages_S, sequence_ids_T),
        expand_to_tokens(advantages_S, sequence_ids_T),
    )
    return MicroBatch(
        input_ids_BL=ids.to(device),
        attention_mask_BL=mask.to(device),
        selected_BL=selected.to(device),
        sources_T=sources_T.to(device),
        behaviour_logprobs_T=logprobs[selected].to(device),
        advantages_T=advantages_T.to(device),
        sequence_ids_T=sequence_ids_T.to(device),
        prompt_lengths_B=[len(t.segments[0].token_ids) for _, t in rows],
    )


def count_tokens(trajectories: Sequence[Trajectory]) -> Normalizer:
    """What the objective divides by: counts over the whole batch of rollouts."""
    policy = [t.count(Source.POLICY) for t in trajectories]
    return Normalizer(
        num_policy_tokens=sum(policy),
        num_agent_tokens=sum(t.count(Source.AGENT) for t in trajectories),
        num_sequences=sum(count > 0 for count in policy),
    )


def group_ids(trajectories: Sequence[Trajectory]) -> Int[Tensor, " samples"]:
    """The group of each trajectory."""
    return torch.tensor([t.group for t in trajectories], dtype=torch.long)


def rewards(trajectories: Sequence[Trajectory]) -> Float[Tensor, " samples"]:
    """The reward of each trajectory."""
    return torch.tensor([t.reward for t in trajectories], dtype=torch.float32)


def outcomes(trajectories: Sequence[Trajectory]) -> Float[Tensor, " samples"]:
    """The reward of each trajectory without what help cost: what replies are judged by."""
    return torch.tensor([t.outcome for t in trajectories], dtype=torch.float32)


def policy_token_counts(trajectories: Sequence[Trajectory]) -> Iterator[int]:
    """How many tokens the policy wrote in each trajectory."""
    return (t.count(Source.POLICY) for t in trajectories)
