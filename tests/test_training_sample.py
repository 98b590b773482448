"""What a trainer gets of an episode: whose tokens, under which probability, and nothing of what says nothing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo_env import Segment, Source, Trajectory, to_training_sample
from aipo_env.errors import DataFormatError
from tests.cluster.generated import trajectories

PROMPT = Segment(Source.PROMPT, "p", (1, 2, 3))


def of(*segments: Segment, **fields: object) -> Trajectory:
    return Trajectory("test-v0", "0", [PROMPT, *segments], **fields)  # type: ignore[arg-type]


@given(trajectories(), st.none() | st.integers(0, 30))
def test_a_sample_is_the_record_token_by_token(trajectory: Trajectory, max_length: int | None) -> None:
    sample = to_training_sample(trajectory, max_length)
    kept = slice(max_length)
    assert sample.token_ids.tolist() == trajectory.token_ids[kept]
    assert sample.sources.tolist() == trajectory.sources[kept]
    told = np.array(trajectory.logprobs[kept])
    for source, values in ((Source.POLICY, sample.logprobs), (Source.AGENT, sample.mu_logprobs)):
        assert values[sample.sources == source].tolist() == told[sample.sources == source].tolist()
        assert not values[sample.sources != source].any()
        assert sample.count(source) == sum(s == source for s in trajectory.sources[kept])
    assert sample.policy_tokens == sample.count(Source.POLICY)
    assert sample.prompt_length == len(trajectory.segments[0].token_ids[kept])


def test_what_it_earned_and_how_it_was_played() -> None:
    parts = {"outcome": 1.0, "consult_cost": -0.25}
    played = of(Segment(Source.POLICY, "", (5,), (-1.0,)), reward=0.75, reward_parts=parts, group=7, assisted=False)
    sample = to_training_sample(played)
    assert (sample.reward, sample.outcome, sample.reward_parts) == (0.75, 1.0, parts)
    assert (sample.group, sample.solo, sample.faulted) == (7, True, False)
    assert not to_training_sample(dataclasses.replace(played, assisted=True)).solo


@pytest.mark.parametrize("log_mu", [math.nan, math.inf, -math.inf, 0.5])
def test_a_helpers_nonsense_counts_as_unknown(log_mu: float) -> None:
    reply = Segment(Source.AGENT, "", (5, 6), (log_mu, -2.0), mu_known=True)
    sample = to_training_sample(of(reply))
    assert sample.mu_logprobs.tolist() == [0.0] * 4 + [-2.0]
    assert sample.mu_known.tolist() == [False] * 3 + [True] * 2


@pytest.mark.parametrize("logprob", [math.nan, math.inf, -math.inf, 0.5])
def test_a_samplers_nonsense_is_refused(logprob: float) -> None:
    with pytest.raises(DataFormatError, match="finite log-probability"):
        to_training_sample(of(Segment(Source.POLICY, "", (5,), (logprob,))))


def test_a_samplers_silence_is_told_and_its_rounding_mended() -> None:
    silent = Segment(Source.POLICY, "", (5, 6))
    told = Segment(Source.POLICY, "", (7,), (1e-6,))
    reply = Segment(Source.AGENT, "", (8,))
    assert str(to_training_sample(of(told, silent, reply)).logprobs.tolist()) == str([0.0] * 4 + [math.nan] * 2 + [0.0])


@pytest.mark.parametrize("fault", ["error", "timeout"])
def test_of_what_a_fault_cut_the_prompt_is_left(fault: str) -> None:
    sample = to_training_sample(of(Segment(Source.POLICY, "", (5, 6)), reward=1.0, stop_reason=fault))
    assert sample.faulted
    assert sample.token_ids.tolist() == [1, 2, 3]
    assert sample.policy_tokens == 0
    assert set(sample.sources.tolist()) == {Source.PROMPT}
