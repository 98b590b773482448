"""The side channel by itself; `tests/integration_openrlhf/test_experience_roundtrip.py` sends it through OpenRLHF."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aipo_env.errors import DataFormatError
from aipo_env.training_sample import TrainingSample, to_training_sample
from aipo_env.trajectory import Segment, Source, Trajectory
from algorithms.cluster.channel import action_ranges, decode, encode
from tests.cluster.generated import expected_log_mu, logprob, trajectories


def sample_of(*segments: Segment) -> TrainingSample:
    return to_training_sample(Trajectory("test-v0", "0", list(segments)))


@given(trajectories())
def test_sources_and_logprobs_come_back(trajectory: Trajectory) -> None:
    channel = torch.tensor(encode(to_training_sample(trajectory)), dtype=torch.float32)
    contents = decode(channel)
    sources = np.array(trajectory.sources)
    assert contents.is_agent.tolist() == (sources == Source.AGENT).tolist()
    assert np.array_equal(contents.log_mu.numpy(), expected_log_mu(trajectory))
    logprobs = np.asarray(trajectory.logprobs, dtype=np.float32)
    policy = sources == Source.POLICY
    assert np.array_equal(contents.behaviour_logprobs.numpy()[policy], logprobs[policy])
    assert np.array_equal(contents.behaviour_logprobs.numpy()[~policy], contents.log_mu.numpy()[~policy])


@given(logprob)
def test_log_mu_is_rounded_by_no_more_than_float32_rounds(log_mu: float) -> None:
    channel = encode(sample_of(Segment(Source.AGENT, "", (7,), (log_mu,))))
    decoded = float(decode(torch.tensor(channel, dtype=torch.float32)).log_mu)
    assert abs(decoded - log_mu) <= 2.0**-23 * max(1.0, -log_mu)


@given(trajectories())
def test_action_ranges_are_the_policy_tokens(trajectory: Trajectory) -> None:
    ranges = action_ranges(to_training_sample(trajectory))
    covered = {i for start, end in ranges for i in range(start, end)}
    assert covered == {i for i, source in enumerate(trajectory.sources) if source is Source.POLICY}
    assert all(end < next_start for (_, end), (next_start, _) in itertools.pairwise(ranges))


def test_adjacent_policy_segments_are_one_action() -> None:
    policy = Segment(Source.POLICY, "", (5, 6), (-1.0, -2.0))
    assert action_ranges(sample_of(Segment(Source.PROMPT, "", (1,)), policy, policy)) == [(1, 5)]


def test_an_unknown_mu_is_exactly_one_and_padding_is_nobody() -> None:
    assert encode(sample_of(Segment(Source.AGENT, "", (5,)))) == [1.0]
    contents = decode(torch.zeros(2, 3))
    assert not contents.is_agent.any()
    assert not contents.behaviour_logprobs.any()


@pytest.mark.parametrize("log_mu", [math.nan, math.inf, -math.inf, 0.5])
def test_a_helpers_nonsense_counts_as_unknown(log_mu: float) -> None:
    assert encode(sample_of(Segment(Source.AGENT, "", (5,), (log_mu,)))) == [1.0]


@pytest.mark.parametrize("logprob", [math.nan, math.inf, -math.inf, 0.5])
def test_a_samplers_nonsense_is_refused(logprob: float) -> None:
    with pytest.raises(DataFormatError, match="finite log-probability"):
        encode(sample_of(Segment(Source.POLICY, "", (5,), (logprob,))))


def test_policy_tokens_without_logprobs_are_refused() -> None:
    with pytest.raises(DataFormatError, match="some came without"):
        encode(sample_of(Segment(Source.POLICY, "", (5, 6))))


def test_a_samplers_rounding_above_zero_never_reads_as_a_helper() -> None:
    channel = encode(sample_of(Segment(Source.POLICY, "", (5,), (1e-6,))))
    assert channel == [0.0]


@given(st.lists(logprob, min_size=1, max_size=8))
def test_half_precision_keeps_the_sources(log_mus: list[float]) -> None:
    """Nobody casts the field today; if somebody does, probabilities lose digits and no token changes its owner."""
    agent = Segment(Source.AGENT, "", tuple(range(1, len(log_mus) + 1)), tuple(log_mus))
    policy = Segment(Source.POLICY, "", (1,), (-0.25,))
    channel = torch.tensor(encode(sample_of(policy, agent)), dtype=torch.bfloat16)
    assert decode(channel.float()).is_agent.tolist() == [False] + [True] * len(log_mus)
