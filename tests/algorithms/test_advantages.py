"""Advantages against the formulas of their papers and of the libraries, and their behaviour at the edges."""

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aipo_env.errors import ConfigurationError
from algorithms.advantages import (
    agent_advantages,
    compute_advantages,
    expand_to_tokens,
    informative_groups,
    leave_one_out_advantages,
    mean_advantages,
    mean_std_advantages,
    mean_whitened_advantages,
    overlong_penalty,
    sample_advantages,
)
from algorithms.config import ObjectiveConfig
from algorithms.train_config import SamplingConfig, TrainConfig

ESTIMATORS = ("mean", "mean_std", "leave_one_out")
# Two groups of three, interleaved.
REWARDS = torch.tensor([1.0, 0.0, 0.0, 2.0, 0.5, 0.5], dtype=torch.float64)
GROUPS = torch.tensor([7, 2, 7, 2, 7, 2])


def test_mean_by_hand():
    expected = torch.tensor([0.5, -5 / 6, -0.5, 7 / 6, 0.0, -1 / 3], dtype=torch.float64)
    torch.testing.assert_close(mean_advantages(REWARDS, GROUPS), expected)


def test_leave_one_out_by_hand():
    expected = torch.tensor([0.75, -1.25, -0.75, 1.75, 0.0, -0.5], dtype=torch.float64)
    torch.testing.assert_close(leave_one_out_advantages(REWARDS, GROUPS), expected)


def test_mean_std_by_hand():
    std = {7: statistics.stdev([1.0, 0.0, 0.5]), 2: statistics.stdev([0.0, 2.0, 0.5])}
    divisor = torch.tensor([std[int(g)] + 1e-4 for g in GROUPS], dtype=torch.float64)
    torch.testing.assert_close(mean_std_advantages(REWARDS, GROUPS), mean_advantages(REWARDS, GROUPS) / divisor)


def test_agreement_with_openrlhf_and_trl_on_equal_groups():
    """OpenRLHF 0.11.2 `experience_maker.py` (rloo, dr_grpo, group_norm), TRL 1.16.0 `scale_rewards`."""
    torch.manual_seed(0)
    table = torch.randn(5, 4, dtype=torch.float64)
    rewards, groups = table.flatten(), torch.arange(5).repeat_interleave(4)
    centered = table - table.mean(-1, keepdim=True)
    rloo = table - (table.sum(-1, keepdim=True) - table) / 3
    group_norm = centered / (table.std(-1, keepdim=True) + 1e-9)
    trl = centered / (table.std(-1, keepdim=True) + 1e-4)
    torch.testing.assert_close(mean_advantages(rewards, groups), centered.flatten())
    torch.testing.assert_close(leave_one_out_advantages(rewards, groups), rloo.flatten())
    torch.testing.assert_close(mean_std_advantages(rewards, groups, epsilon=1e-9), group_norm.flatten())
    torch.testing.assert_close(mean_std_advantages(rewards, groups), trl.flatten())


def test_agreement_with_openrlhf_on_whitening():
    """`reinforce_baseline`: the group mean, then mean and variance over all action tokens of the batch."""
    lengths = torch.tensor([3, 1, 4, 1, 5, 9])
    advantages = mean_advantages(REWARDS, GROUPS)
    tokens = advantages.repeat_interleave(lengths)
    expected = (advantages - tokens.mean()) * tokens.var(unbiased=False).clamp(min=1e-8).rsqrt()
    torch.testing.assert_close(mean_whitened_advantages(REWARDS, GROUPS, lengths), expected)
    assert mean_whitened_advantages(REWARDS, GROUPS, lengths).repeat_interleave(lengths).mean().abs() < 1e-12


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.integers(-2, 2)), min_size=1, max_size=12),
    st.sampled_from(ESTIMATORS),
    st.randoms(use_true_random=False),
)
def test_order_of_the_samples_does_not_matter(samples, estimator, random):
    rewards = torch.tensor([r for r, _ in samples], dtype=torch.float64)
    groups = torch.tensor([g for _, g in samples])
    order = list(range(len(samples)))
    random.shuffle(order)
    advantages = compute_advantages(rewards, groups, estimator)
    shuffled = compute_advantages(rewards[order], groups[order], estimator)
    torch.testing.assert_close(shuffled, advantages[order], rtol=1e-9, atol=1e-9)
    for group in groups.unique():
        assert advantages[groups == group].sum().abs() < 1e-6 * len(samples) * max(1.0, float(advantages.abs().max()))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(reward=st.floats(-100, 100, width=32), size=st.integers(1, 9))
def test_equal_rewards_and_single_samples_give_exactly_zero(estimator, reward, size):
    rewards = torch.full((size,), reward)
    advantages = compute_advantages(rewards, torch.zeros(size, dtype=torch.long), estimator)
    assert torch.equal(advantages, torch.zeros(size))


def test_a_rounded_mean_would_not_be_zero():
    """Why equal rewards are handled apart: there are sizes at which the plain formula leaves a rest."""
    rests = [torch.full((size,), 0.1) - torch.full((size,), 0.1).sum() / size for size in range(2, 50)]
    assert any(bool(rest.any()) for rest in rests)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("estimator", [*ESTIMATORS, "mean_whitened"])
def test_rewards_must_be_finite(estimator, bad):
    rewards = torch.tensor([0.0, bad, 1.0])
    with pytest.raises(ConfigurationError, match="sample 1 has"):
        compute_advantages(rewards, torch.zeros(3, dtype=torch.long), estimator, torch.ones(3, dtype=torch.long))
    with pytest.raises(ConfigurationError, match="sample 1 has"):
        informative_groups(rewards, torch.zeros(3, dtype=torch.long))


def test_whitening_needs_lengths_and_survives_a_flat_batch():
    with pytest.raises(ConfigurationError, match="needs num_tokens_S"):
        compute_advantages(REWARDS, GROUPS, "mean_whitened")
    flat = compute_advantages(torch.ones(4), torch.tensor([0, 0, 1, 1]), "mean_whitened", torch.tensor([3, 1, 0, 2]))
    assert torch.equal(flat, torch.zeros(4))
    no_tokens = compute_advantages(REWARDS, GROUPS, "mean_whitened", torch.zeros(6, dtype=torch.long))
    assert no_tokens.isfinite().all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_empty_batch(estimator):
    nothing = torch.zeros(0, dtype=torch.long)
    assert compute_advantages(torch.zeros(0), nothing, estimator).shape == (0,)
    assert informative_groups(torch.zeros(0), nothing).shape == (0,)


def test_dynamic_sampling_keeps_groups_that_differ():
    rewards = torch.tensor([1.0, 1.0, 0.0, 0.1, 0.1, 0.1, 5.0])
    groups = torch.tensor([0, 1, 1, 2, 2, 2, 3])
    assert informative_groups(rewards, groups).tolist() == [False, True, True, False, False, False, False]


def test_overlong_penalty_is_piecewise_linear():
    lengths = torch.tensor([0, 80, 81, 90, 100, 150])
    expected = torch.tensor([0.0, 0.0, -0.05, -0.5, -1.0, -1.0])
    torch.testing.assert_close(overlong_penalty(lengths, max_length=100, buffer_length=20), expected)
    torch.testing.assert_close(overlong_penalty(lengths, 100, 20, factor=0.5), 0.5 * expected)


@pytest.mark.parametrize(
    "options", [{"buffer_length": 0}, {"buffer_length": 101}, {"buffer_length": 9, "factor": -1.0}]
)
def test_overlong_penalty_refuses_impossible_buffers(options):
    with pytest.raises(ConfigurationError, match="shorten the buffer"):
        overlong_penalty(torch.tensor([3]), max_length=100, **options)


def test_expand_to_tokens():
    tokens = expand_to_tokens(torch.tensor([0.5, -1.0]), torch.tensor([1, 0, -1, 1]))
    assert tokens.tolist() == [-1.0, 0.5, 0.0, -1.0]
    assert expand_to_tokens(torch.zeros(0), torch.tensor([-1, -1])).tolist() == [0.0, 0.0]
    with pytest.raises(IndexError):
        expand_to_tokens(torch.tensor([0.5]), torch.tensor([1]))


SOLO = torch.tensor([True, True, False, False, True, False])


def test_solo_baseline_by_hand():
    """Group 7 has the rewards 1, 0, 0.5 (solo: 1 and 0.5), group 2 has 0, 2, 0.5 (solo: 0)."""
    expected = torch.tensor([0.25, 0.0, -0.75, 2.0, -0.25, 0.5], dtype=torch.float64)
    for estimator in ("mean", "leave_one_out"):
        torch.testing.assert_close(agent_advantages(REWARDS, GROUPS, SOLO, estimator), expected)
    std = {7: statistics.stdev([1.0, 0.0, 0.5]), 2: statistics.stdev([0.0, 2.0, 0.5])}
    divisor = torch.tensor([std[int(g)] + 1e-4 for g in GROUPS], dtype=torch.float64)
    torch.testing.assert_close(agent_advantages(REWARDS, GROUPS, SOLO, "mean_std"), expected / divisor)
    tokens = torch.tensor([3, 1, 4, 1, 5, 9])
    centered = mean_advantages(REWARDS, GROUPS).repeat_interleave(tokens)
    torch.testing.assert_close(
        agent_advantages(REWARDS, GROUPS, SOLO, "mean_whitened", tokens), expected / centered.std(correction=0)
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_solo_baseline_without_solo_samples_is_the_groups(estimator):
    none = torch.zeros(6, dtype=torch.bool)
    assert torch.equal(
        agent_advantages(REWARDS, GROUPS, none, estimator), compute_advantages(REWARDS, GROUPS, estimator)
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_help_that_changes_nothing_teaches_nothing(estimator):
    """Solo and assisted rollouts of a group all earn the same: 0.1 three times has a rounded mean."""
    rewards = torch.full((6,), 0.1)
    assert torch.equal(agent_advantages(rewards, GROUPS, SOLO, estimator), torch.zeros(6))


def test_the_solo_baseline_does_not_depend_on_the_assisted_rewards():
    other = torch.where(SOLO, REWARDS, REWARDS + 3.0)
    moved = agent_advantages(other, GROUPS, SOLO, "mean") - agent_advantages(REWARDS, GROUPS, SOLO, "mean")
    torch.testing.assert_close(moved, torch.where(SOLO, 0.0, 3.0).double())


def advantages_of(rewards, outcomes, solo, tokens=None, groups=None, **fields):
    """Of one group unless told otherwise, at the default baselines."""
    overlong = fields.pop("overlong_buffer", 0)
    config = TrainConfig(
        objective=ObjectiveConfig(**fields), overlong_buffer=overlong, sampling=SamplingConfig(max_tokens=10)
    )
    size = len(rewards)
    return sample_advantages(
        torch.tensor(rewards),
        torch.tensor(outcomes),
        torch.zeros(size, dtype=torch.long) if groups is None else torch.tensor(groups),
        torch.tensor(solo),
        torch.tensor([4] * size if tokens is None else tokens),
        config,
    )


@pytest.mark.parametrize("agent_baseline", ["solo", "group"])
@pytest.mark.parametrize("estimator", [*ESTIMATORS, "mean_whitened"])
def test_repair_09_what_help_and_length_cost_is_not_charged_to_replies(estimator, agent_baseline):
    """Everything is solved; asking cost 0.3, and one rollout is overlong. No reply is to blame."""
    own, replies = advantages_of(
        [1.0, 1.0, 0.7, 0.4],
        [1.0] * 4,
        [True, True, False, False],
        tokens=[4, 4, 4, 10],
        advantage=estimator,
        agent_baseline=agent_baseline,
        overlong_buffer=2,
    )
    if estimator != "mean_whitened" or agent_baseline == "solo":
        assert replies.tolist() == [0.0] * 4
    assert own[2] > own[3]


def test_repair_09_a_reply_that_helped_keeps_the_whole_difference():
    """Solo fails; with help both solve it, for 0.3 and 0.6."""
    own, replies = advantages_of([0.0, 0.0, 0.7, 0.4], [0.0, 0.0, 1.0, 1.0], [True, True, False, False])
    assert replies.tolist() == [0.0, 0.0, 1.0, 1.0]
    torch.testing.assert_close(own, torch.tensor([0.0, 0.0, 0.15, -0.15]))


def test_repair_09_costs_that_level_the_rewards_do_not_blow_replies_up():
    """The reward of the helped rollouts is that of the failures: its deviation is 0, that of the outcomes is not."""
    _, replies = advantages_of([0.0] * 4, [0.0, 0.0, 1.0, 1.0], [True, True, False, False], advantage="mean_std")
    torch.testing.assert_close(replies[2:], torch.full((2,), 1 / (3**-0.5 + 1e-4)))


def test_repair_15_costs_that_spread_the_rewards_are_in_the_unit_of_replies_too():
    rewards = [0.0, 0.0, 1.0, -3.0]
    _, replies = advantages_of(rewards, [0.0, 0.0, 1.0, 1.0], [True, True, False, False], advantage="mean_std")
    torch.testing.assert_close(replies[2:], torch.full((2,), 1 / (statistics.stdev(rewards) + 1e-4)))


@pytest.mark.parametrize("estimator", ["mean_std", "mean_whitened"])
def test_repair_15_policy_and_agent_advantages_have_one_unit(estimator):
    """At the default baselines: two solo rollouts fail, one helped rollout of two succeeds."""
    groups = [0, 0, 0, 0, 1, 1, 1, 1]
    rewards, solo = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0], [True, True, False, False] * 2
    raw = advantages_of(rewards, rewards, solo, groups=groups, advantage="mean")
    own, replies = advantages_of(rewards, rewards, solo, groups=groups, advantage=estimator)
    assert raw[0].tolist() == [0.0, 0.0, -0.5, 0.5, 0.0, 0.0, 0.0, 0.0]
    torch.testing.assert_close(own[3] - own[2], replies[3] - replies[2])
    if estimator == "mean_std":
        unit = statistics.stdev([0.0, 0.0, 0.0, 1.0]) + 1e-4
        torch.testing.assert_close(own[:4], raw[0][:4] / unit)
        torch.testing.assert_close(replies[:4], raw[1][:4] / unit)


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "mean_whitened"])
def test_repair_15_modes_without_spread_stay_finite(estimator):
    """All solo rollouts fail and all helped ones succeed: the deviation within a mode is 0."""
    own, replies = advantages_of(
        [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [True, True, False, False], advantage=estimator
    )
    assert own.tolist() == [0.0] * 4
    assert 1.0 <= float(replies.max()) <= 2.0
