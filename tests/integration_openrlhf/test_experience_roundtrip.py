"""The side channel through OpenRLHF's own functions: nothing is lost, moved or rounded, however samples are grouped and padded."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo_env.trajectory import Source, Trajectory
from algorithms.cluster.channel import decode
from tests.cluster.generated import expected_log_mu, trajectories
from tests.integration_openrlhf.pipeline import (
    Experience,
    NaiveReplayBuffer,
    RemoteExperienceMaker,
    balance_experiences,
    get_seqlen_balanced_partitions,
    make_experience_batch,
    split_experience_batch,
    to_experience,
)

PAD = 0  # a token that no generated trajectory contains

batches = st.lists(trajectories(), min_size=1, max_size=6).map(
    lambda made: [dataclasses.replace(t, task_id=str(index)) for index, t in enumerate(made)]
)
sizes = st.integers(1, 4)


def concatenated(batch: Sequence[Trajectory], size: int) -> list[Experience]:
    """Rollout samples merged into batches, as for scoring (`Experience.concat_experiences`)."""
    args = SimpleNamespace(
        train=SimpleNamespace(dynamic_batch_enable=False), rollout=SimpleNamespace(micro_batch_size=size)
    )
    maker = SimpleNamespace(args=args, tokenizer=SimpleNamespace(pad_token_id=PAD))
    return RemoteExperienceMaker.split_rollout_samples(maker, [to_experience(t) for t in batch])


def chunks(items: Sequence[Experience], size: int) -> list[list[Experience]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def stored(experiences: Sequence[Experience], size: int, **options: bool) -> NaiveReplayBuffer:
    """The replay buffer, which splits batches and removes their padding."""
    buffer = NaiveReplayBuffer(size, **options)
    for experience in experiences:
        buffer.append(experience)
    return buffer


def assert_intact(experiences: Sequence[Experience], batch: Sequence[Trajectory]) -> None:
    """Every trajectory is there once, and each of its tokens has its source and its value."""
    seen = []
    for experience in experiences:
        contents = decode(experience.rollout_log_probs)
        for row, name in enumerate(experience.prompts):
            trajectory = batch[int(name)]
            seen.append(name)
            length = len(trajectory.token_ids)
            assert experience.attention_mask[row].tolist() == [1] * length + [0] * (
                experience.sequences.shape[1] - length
            )
            assert experience.sequences[row, :length].tolist() == trajectory.token_ids
            # The first token is no action and has no place in the action tensors.
            sources = np.array(trajectory.sources)[1:]
            policy, agent = sources == Source.POLICY, sources == Source.AGENT
            kept = slice(0, length - 1)
            assert np.array_equal(experience.action_mask[row, kept].numpy() > 0, policy)
            assert np.array_equal(contents.is_agent[row, kept].numpy(), agent)
            assert np.array_equal(contents.log_mu[row, kept].numpy(), expected_log_mu(trajectory)[1:])
            logprobs = np.asarray(trajectory.logprobs, dtype=np.float32)[1:]
            assert np.array_equal(contents.behaviour_logprobs[row, kept].numpy()[policy], logprobs[policy])
            for tensor in (experience.action_mask, experience.rollout_log_probs, contents.is_agent):
                assert not tensor[row, length - 1 :].any()
    assert sorted(seen) == sorted(t.task_id for t in batch)


@given(batches, sizes)
def test_merge(batch: list[Trajectory], size: int) -> None:
    assert_intact(concatenated(batch, size), batch)


@given(batches, sizes, sizes)
def test_split_and_stack_again(batch: list[Trajectory], first: int, second: int) -> None:
    """Without the removal of padding in between: padded rows are padded further."""
    items = [item for experience in concatenated(batch, first) for item in split_experience_batch(experience)]
    assert_intact([make_experience_batch(part) for part in chunks(items, second)], batch)


@given(batches, sizes, sizes, st.booleans(), st.randoms(use_true_random=False))
def test_replay_buffer(batch: list[Trajectory], first: int, second: int, packing: bool, shuffle: random.Random) -> None:
    buffer = stored(concatenated(batch, first), second, packing_samples=packing)
    order = list(range(len(buffer)))
    shuffle.shuffle(order)
    parts = chunks([buffer[index] for index in order], second)
    assert_intact([buffer.collate_fn(part) for part in parts], batch)


@given(batches, sizes)
def test_replay_buffer_holds_no_padding(batch: list[Trajectory], size: int) -> None:
    for item in stored(concatenated(batch, size), 1).items:
        length = len(batch[int(item.prompts[0])].token_ids)
        assert item.sequences.shape == (length,)
        assert item.rollout_log_probs.shape == (length - 1,)


@settings(deadline=None)
@given(batches, sizes, st.integers(1, 3), st.integers(1, 3))
def test_balancing_and_dynamic_batches(batch: list[Trajectory], size: int, ranks: int, parts: int) -> None:
    actor = SimpleNamespace(num_nodes=1, num_gpus_per_node=ranks)
    ds = SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1)
    balanced = balance_experiences(concatenated(batch, size), SimpleNamespace(actor=actor, ds=ds))
    trained = []
    for experience in balanced:
        buffer = stored([experience], 1, packing_samples=True, dynamic_batch=True)
        lengths = [int(item.total_length) for item in buffer.items]
        buffer.dynamic_indices = get_seqlen_balanced_partitions(lengths, min(parts, len(lengths)), equal_size=False)
        trained += [buffer.collate_fn([buffer[index]]) for index in range(len(buffer))]
    assert_intact(trained, batch)


@given(trajectories(), st.integers(2, 30))
def test_context_that_is_too_short_cuts_both_alike(trajectory: Trajectory, max_length: int) -> None:
    experience = to_experience(trajectory, max_length)
    sources = np.array(trajectory.sources)[1:max_length]
    contents = decode(experience.rollout_log_probs[0])
    assert np.array_equal(contents.is_agent.numpy(), sources == Source.AGENT)
    assert np.array_equal(experience.action_mask[0].numpy() > 0, sources == Source.POLICY)
