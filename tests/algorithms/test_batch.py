"""How a batch of trajectories is cut into micro-batches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from aipo_env import Segment, Source, TrainingSample, Trajectory, to_training_sample
from algorithms.batch import PASS_TOKENS, micro_batches


def sample(num_tokens: int) -> TrainingSample:
    """A prompt of two tokens, and the rest by the policy."""
    ids = tuple(range(2, num_tokens))
    segments = [Segment(Source.PROMPT, "", (0, 1)), Segment(Source.POLICY, "", ids, (-0.5,) * len(ids))]
    return to_training_sample(Trajectory("test-v0", "0", segments, reward=1.0))


@pytest.mark.parametrize(
    ("lengths", "size", "expected"),
    [
        ([5, 3, 4, 5, 3], 2, [[3, 3], [4, 5], [5]]),
        ([5] * 4, 8, [[5, 5, 5, 5]]),
        # Ten rows of 10 would be padded by 10 each for one of 20, then 130 for one more of 150.
        ([10] * 10 + [20, 150], 64, [[10] * 10 + [20], [150]]),
        ([10] * 20 + [20], 64, [[10] * 20, [20]]),
        ([], 4, []),
    ],
)
def test_like_lengths_go_together(lengths: list[int], size: int, expected: list[list[int]]) -> None:
    parts = micro_batches([sample(n) for n in lengths], np.arange(float(len(lengths))), size, pad_id=0)
    assert [part.attention_mask_BL.sum(dim=1).tolist() for part in parts] == expected
    rows = torch.cat([part.sequence_ids_T for part in parts]) if parts else torch.zeros(0)
    assert sorted(set(rows.tolist())) == list(range(len(lengths)))
    assert len(rows) == sum(n - 2 for n in lengths)
    for part in parts:
        assert torch.equal(part.advantages_T, part.sequence_ids_T.float())
        # No row added more padding than a pass is worth.
        counts = part.attention_mask_BL.sum(dim=1).tolist()
        assert all(i * (b - a) <= PASS_TOKENS for i, (a, b) in enumerate(itertools.pairwise(counts), 1))
