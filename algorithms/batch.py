"""From training samples to the flat tensors that the objective takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aipo_env.advantages import Floats
from aipo_env.training_sample import TrainingSample
from aipo_env.trajectory import Source
from algorithms.objective import Normalizer

PASS_TOKENS = 128
"""Padding that costs about as much as the fixed part of a pass."""


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """Rows of one sequence or several, padded on the right, and their loss-bearing tokens packed.

    Dimensions: B rows, L padded length, T loss-bearing tokens (POLICY and AGENT) in row-major order.
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
    prompt_lengths_B: list[int] | None
    """Tokens of each row's prompt; None where a row holds several sequences."""
    position_ids_BL: Int[Tensor, "batch length"] | None
    """Where a row holds several sequences: places in them, which begin anew with each; 0 at padding."""


def micro_batches(
    samples: Sequence[TrainingSample],
    advantages_S: Floats,
    size: int,
    *,
    pad_id: int,
    agent_advantages_S: Floats | None = None,
    device: torch.device | str = "cpu",
    packing: bool = False,
) -> list[MicroBatch]:
    """Cuts a batch into micro-batches of at most `size` rows, those of like length together.

    Every sequence lies whole in one row. The result depends on `size` only in how rows are grouped. A micro-batch ends
    before it is full where the next row would make its padding longer by more than a further pass is worth.

    Args:
        samples: of the batch.
        advantages_S: one advantage each.
        size: rows in a micro-batch.
        pad_id: any id.
        agent_advantages_S: those of AGENT tokens, where they differ from the POLICY tokens'; a reply gets its credit of them.
        device: where the tensors go.
        packing: puts as many sequences into a row as fit in the length of the longest of the batch (`algorithms.packing`).
    """
    own_S = torch.as_tensor(advantages_S, dtype=torch.float32)
    reply_S = own_S if agent_advantages_S is None else torch.as_tensor(agent_advantages_S, dtype=torch.float32)
    lengths = [len(sample.token_ids) for sample in samples]
    rows = _fill(lengths) if packing else [[index] for index in range(len(samples))]
    return [_pack(part, samples, own_S, reply_S, pad_id, device) for part in _like_lengths(rows, lengths, size)]


def _fill(lengths: Sequence[int]) -> list[list[int]]:
    """Puts sequences, the longest first, each into the first row that has room for it; all rows have room for the longest."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, left in enumerate(room) if left >= lengths[index]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(max(lengths))
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows


def _like_lengths(rows: Sequence[list[int]], lengths: Sequence[int], size: int) -> Iterator[list[list[int]]]:
    """Cuts rows, the shortest first, into parts of at most `size`."""
    part: list[list[int]] = []
    last = 0
    filled = [(sum(lengths[index] for index in row), row) for row in rows]
    for length, row in sorted(filled, key=lambda pair: pair[0]):
        if part and (len(part) == size or len(part) * (length - last) > PASS_TOKENS):
            yield part
            part = []
        part.append(row)
        last = length
    if part:
        yield part


def _pack(
    rows: Sequence[Sequence[int]],
    samples: Sequence[TrainingSample],
    own_S: Float[Tensor, " samples"],
    reply_S: Float[Tensor, " samples"],
    pad_id: int,
    device: torch.device | str,
) -> MicroBatch:
    def padded(of: Callable[[int], Tensor], fill: int = 0) -> Tensor:
        """What the samples have token by token, row by row."""
        return pad_sequence([torch.cat([of(index) for index in row]) for row in rows], True, fill)

    lengths = [len(sample.token_ids) for sample in samples]
    sources = padded(lambda index: torch.from_numpy(samples[index].sources), int(Source.PROMPT))
    # Each token has one of the two, and 0 for the other.
    logprobs = padded(lambda index: torch.from_numpy(samples[index].logprobs + samples[index].mu_logprobs).float())
    packed = any(len(row) > 1 for row in rows)
    selected = (sources == Source.POLICY) | (sources == Source.AGENT)
    sequence_ids_T = padded(lambda index: torch.full((lengths[index],), index))[selected]
    sources_T = sources[selected]
    reply_T = reply_S[sequence_ids_T] * padded(lambda index: torch.from_numpy(samples[index].credit).float())[selected]
    return MicroBatch(
        input_ids_BL=padded(lambda index: torch.from_numpy(samples[index].token_ids), pad_id).to(device),
        attention_mask_BL=padded(lambda index: torch.ones(lengths[index], dtype=torch.long)).to(device),
        selected_BL=selected.to(device),
        sources_T=sources_T.to(device),
        behaviour_logprobs_T=logprobs[selected].to(device),
        advantages_T=torch.where(sources_T == Source.AGENT, reply_T, own_S[sequence_ids_T]).to(device),
        sequence_ids_T=sequence_ids_T.to(device),
        prompt_lengths_B=None if packed else [samples[index].prompt_length for [index] in rows],
        position_ids_BL=padded(lambda index: torch.arange(lengths[index])).to(device) if packed else None,
    )


def count_tokens(samples: Sequence[TrainingSample]) -> Normalizer:
    """What the objective divides by: counts over the whole batch of rollouts."""
    return Normalizer(
        num_policy_tokens=sum(sample.policy_tokens for sample in samples),
        num_agent_tokens=sum(sample.count(Source.AGENT) for sample in samples),
        num_sequences=sum(sample.policy_tokens > 0 for sample in samples),
    )
