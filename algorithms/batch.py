"""From training samples to the flat tensors that the objective takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aipo_env.advantages import Floats
from aipo_env.training_sample import TrainingSample
from aipo_env.trajectory import Source
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
    samples: Sequence[TrainingSample],
    advantages_S: Floats,
    size: int,
    *,
    pad_id: int,
    agent_advantages_S: Floats | None = None,
    device: torch.device | str = "cpu",
) -> list[MicroBatch]:
    """Cuts a batch into micro-batches of at most `size` sequences, those of like length together.

    Every sequence lies whole in one micro-batch. The result depends on `size` only in how rows are grouped. A micro-batch ends
    before it is full where the next sequence would make its padding longer by more than a further pass is worth.

    Args:
        samples: of the batch.
        advantages_S: one advantage each.
        size: sequences in a micro-batch.
        pad_id: any id.
        agent_advantages_S: those of AGENT tokens, where they differ from the POLICY tokens'.
        device: where the tensors go.
    """
    own_S = torch.as_tensor(advantages_S, dtype=torch.float32)
    reply_S = own_S if agent_advantages_S is None else torch.as_tensor(agent_advantages_S, dtype=torch.float32)
    lengths = [len(sample.token_ids) for sample in samples]
    order = sorted(range(len(samples)), key=lambda i: lengths[i])
    return [
        _pack([(i, samples[i]) for i in part], own_S, reply_S, pad_id, device)
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
    rows: Sequence[tuple[int, TrainingSample]],
    own_S: Float[Tensor, " samples"],
    reply_S: Float[Tensor, " samples"],
    pad_id: int,
    device: torch.device | str,
) -> MicroBatch:
    length = max(len(sample.token_ids) for _, sample in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    sources = torch.full((len(rows), length), int(Source.PROMPT), dtype=torch.long)
    logprobs = torch.zeros(len(rows), length)
    sequences = torch.empty(len(rows), length, dtype=torch.long)
    for row, (index, sample) in enumerate(rows):
        count = len(sample.token_ids)
        ids[row, :count] = torch.from_numpy(sample.token_ids)
        mask[row, :count] = 1
        # Each token has one of the two, and 0 for the other.
        logprobs[row, :count] = torch.from_numpy(sample.logprobs + sample.mu_logprobs)
        sources[row, :count] = torch.from_numpy(sample.sources)
        sequences[row] = index
    selected = (sources == Source.POLICY) | (sources == Source.AGENT)
    sequence_ids_T = sequences[selected]
    sources_T = sources[selected]
    return MicroBatch(
        input_ids_BL=ids.to(device),
        attention_mask_BL=mask.to(device),
        selected_BL=selected.to(device),
        sources_T=sources_T.to(device),
        behaviour_logprobs_T=logprobs[selected].to(device),
        advantages_T=torch.where(sources_T == Source.AGENT, reply_S[sequence_ids_T], own_S[sequence_ids_T]).to(device),
        sequence_ids_T=sequence_ids_T.to(device),
        prompt_lengths_B=[sample.prompt_length for _, sample in rows],
    )


def count_tokens(samples: Sequence[TrainingSample]) -> Normalizer:
    """What the objective divides by: counts over the whole batch of rollouts."""
    return Normalizer(
        num_policy_tokens=sum(sample.policy_tokens for sample in samples),
        num_agent_tokens=sum(sample.count(Source.AGENT) for sample in samples),
        num_sequences=sum(sample.policy_tokens > 0 for sample in samples),
    )
