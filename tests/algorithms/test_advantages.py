"""Advantages against the formulas of their papers and of the libraries, and their behaviour at the edges."""

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose as equal_to_tolerance

from aipo_env.advantages import (
    ScoredRollout,
    agent_advantages,
    compute_advantages,
    informative_groups,
    overlong_penalty,
    sample_advantages,
)
from aipo_env.errors import ConfigurationError
from algorithms.config import ObjectiveConfig
from algorithms.train_config import SamplingConfig, TrainConfig


def assert_allclose(found, expected, rtol=1e-5, atol=1e-7):
    equal_to_tolerance(found, expected, rtol=rtol, atol=atol)


ESTIMATORS = ("mean", "mean_std", "leave_one_out")
# Two groups of three, interleaved.
REWARDS = np.array([1.0, 0.0, 0.0, 2.0, 0.5, 0.5])
GROUPS = np.array([7, 2, 7, 2, 7, 2])


def test_mean_by_hand():
    expected = np.array([0.5, -5 / 6, -0.5, 7 / 6, 0.0, -1 / 3])
    assert_allclose(compute_advantages(REWARDS, GROUPS, "mean"), expected)


def test_leave_one_out_by_hand():
    expected = np.array([0.75, -1.25, -0.75, 1.75, 0.0, -0.5])
    assert_allclose(compute_advantages(REWARDS, GROUPS, "leave_one_out"), expected)


def test_mean_std_by_hand():
    std = {7: statistics.stdev([1.0, 0.0, 0.5]), 2: statistics.stdev([0.0, 2.0, 0.5])}
    divisor = np.array([std[int(g)] + 1e-4 for g in GROUPS])
    assert_allclose(
        compute_advantages(REWARDS, GROUPS, "mean_std"), compute_advantages(REWARDS, GROUPS, "mean") / divisor
    )


def test_agreement_with_openrlhf_and_trl_on_equal_groups():
    """OpenRLHF 0.11.2 `experience_maker.py` (rloo, dr_grpo, group_norm), TRL 1.16.0 `scale_rewards`."""
    table = np.random.default_rng(0).normal(size=(5, 4))
    rewards, groups = table.ravel(), np.arange(5).repeat(4)
    centered = table - table.mean(-1, keepdims=True)
    deviation = table.std(-1, ddof=1, keepdims=True)
    rloo = table - (table.sum(-1, keepdims=True) - table) / 3
    assert_allclose(compute_advantages(rewards, groups, "mean"), centered.ravel(), atol=1e-12)
    assert_allclose(compute_advantages(rewards, groups, "leave_one_out"), rloo.ravel(), atol=1e-12)
    # OpenRLHF adds 1e-9 to the deviation.
    assert_allclose(
        compute_advantages(rewards, groups, "mean_std"), (centered / (deviation + 1e-4)).ravel(), atol=1e-12
    )


def test_agreement_with_openrlhf_on_whitening():
    """`reinforce_baseline`: the group mean, then mean and variance over all action tokens of the batch."""
    lengths = np.array([3, 1, 4, 1, 5, 9])
    advantages = compute_advantages(REWARDS, GROUPS, "mean")
    tokens = advantages.repeat(lengths)
    expected = (advantages - tokens.mean()) / np.sqrt(max(tokens.var(), 1e-8))
    whitened = compute_advantages(REWARDS, GROUPS, "mean_whitened", lengths)
    assert_allclose(whitened, expected)
    assert abs(whitened.repeat(lengths).mean()) < 1e-12


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.integers(-2, 2)), min_size=1, max_size=12),
    st.sampled_from(ESTIMATORS),
    st.randoms(use_true_random=False),
)
def test_order_of_the_samples_does_not_matter(samples, estimator, random):
    rewards = np.array([r for r, _ in samples])
    groups = np.array([g for _, g in samples])
    order = list(range(len(samples)))
    random.shuffle(order)
    advantages = compute_advantages(rewards, groups, estimator)
    shuffled = compute_advantages(rewards[order], groups[order], estimator)
    assert_allclose(shuffled, advantages[order], rtol=1e-9, atol=1e-9)
    for group in set(groups.tolist()):
        bound = 1e-6 * len(samples) * max(1.0, float(np.abs(advantages).max()))
        assert abs(advantages[groups == group].sum()) < bound


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(reward=st.floats(-100, 100, width=32), size=st.integers(1, 9))
def test_equal_rewards_and_single_samples_give_exactly_zero(estimator, reward, size):
    rewards = np.full(size, reward)
    advantages = compute_advantages(rewards, np.zeros(size, int), estimator)
    assert np.array_equal(advantages, np.zeros(size))


def test_a_rounded_mean_would_not_be_zero():
    """Why equal rewards are handled apart: there are sizes at which the plain formula leaves a rest."""
    rests = [np.full(size, np.float32(0.1)) - np.full(size, np.float32(0.1)).sum() / size for size in range(2, 50)]
    assert any(bool(rest.any()) for rest in rests)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("estimator", [*ESTIMATORS, "mean_whitened"])
def test_rewards_must_be_finite(estimator, bad):
    rewards = np.array([0.0, bad, 1.0])
    with pytest.raises(ConfigurationError, match="sample 1 has"):
        compute_advantages(rewards, np.zeros(3, int), estimator, np.ones(3, int))
    with pytest.raises(ConfigurationError, match="sample 1 has"):
        informative_groups(rewards, np.zeros(3, int))


def test_whitening_needs_lengths_and_survives_a_flat_batch():
    with pytest.raises(ConfigurationError, match="needs num_tokens_S"):
        compute_advantages(REWARDS, GROUPS, "mean_whitened")
    flat = compute_advantages(np.ones(4), np.array([0, 0, 1, 1]), "mean_whitened", np.array([3, 1, 0, 2]))
    assert np.array_equal(flat, np.zeros(4))
    no_tokens = compute_advantages(REWARDS, GROUPS, "mean_whitened", np.zeros(6, int))
    assert np.isfinite(no_tokens).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_empty_batch(estimator):
    nothing = np.zeros(0, int)
    assert compute_advantages(np.zeros(0), nothing, estimator).shape == (0,)
    assert informative_groups(np.zeros(0), nothing).shape == (0,)


def test_dynamic_sampling_keeps_groups_that_differ():
    rewards = np.array([1.0, 1.0, 0.0, 0.1, 0.1, 0.1, 5.0])
    groups = np.array([0, 1, 1, 2, 2, 2, 3])
    assert informative_groups(rewards, groups).tolist() == [False, True, True, False, False, False, False]


def test_overlong_penalty_is_piecewise_linear():
    lengths = np.array([0, 80, 81, 90, 100, 150])
    expected = np.array([0.0, 0.0, -0.05, -0.5, -1.0, -1.0])
    assert_allclose(overlong_penalty(lengths, max_length=100, buffer_length=20), expected)
    assert_allclose(overlong_penalty(lengths, 100, 20, factor=0.5), 0.5 * expected)


@pytest.mark.parametrize(
    "options", [{"buffer_length": 0}, {"buffer_length": 101}, {"buffer_length": 9, "factor": -1.0}]
)
def test_overlong_penalty_refuses_impossible_buffers(options):
    with pytest.raises(ConfigurationError, match="shorten the buffer"):
        overlong_penalty(np.array([3]), max_length=100, **options)


SOLO = np.array([True, True, False, False, True, False])


def test_solo_baseline_by_hand():
    """Group 7 has the rewards 1, 0, 0.5 (solo: 1 and 0.5), group 2 has 0, 2, 0.5 (solo: 0)."""
    expected = np.array([0.25, 0.0, -0.75, 2.0, -0.25, 0.5])
    for estimator in ("mean", "leave_one_out"):
        assert_allclose(agent_advantages(REWARDS, GROUPS, SOLO, estimator), expected)
    std = {7: statistics.stdev([1.0, 0.0, 0.5]), 2: statistics.stdev([0.0, 2.0, 0.5])}
    divisor = np.array([std[int(g)] + 1e-4 for g in GROUPS])
    assert_allclose(agent_advantages(REWARDS, GROUPS, SOLO, "mean_std"), expected / divisor)
    tokens = np.array([3, 1, 4, 1, 5, 9])
    centered = compute_advantages(REWARDS, GROUPS, "mean").repeat(tokens)
    assert_allclose(agent_advantages(REWARDS, GROUPS, SOLO, "mean_whitened", tokens), expected / centered.std())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_solo_baseline_without_solo_samples_is_the_groups(estimator):
    none = np.zeros(6, bool)
    assert np.array_equal(
        agent_advantages(REWARDS, GROUPS, none, estimator), compute_advantages(REWARDS, GROUPS, estimator)
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_help_that_changes_nothing_teaches_nothing(estimator):
    """Solo and assisted rollouts of a group all earn the same: 0.1 three times has a rounded mean."""
    rewards = np.full(6, 0.1)
    assert np.array_equal(agent_advantages(rewards, GROUPS, SOLO, estimator), np.zeros(6))


def test_the_solo_baseline_does_not_depend_on_the_assisted_rewards():
    other = np.where(SOLO, REWARDS, REWARDS + 3.0)
    moved = agent_advantages(other, GROUPS, SOLO, "mean") - agent_advantages(REWARDS, GROUPS, SOLO, "mean")
    assert_allclose(moved, np.where(SOLO, 0.0, 3.0))


def advantages_of(rewards, outcomes, solo, tokens=None, groups=None, **fields):
    """Of one group unless told otherwise, replies compared with the solo rollouts, without self-imitation."""
    fields = {"agent_baseline": "solo", "self_imitation": 0.0, **fields}
    overlong = fields.pop("overlong_buffer", 0)
    config = TrainConfig(
        objective=ObjectiveConfig(**fields), overlong_buffer=overlong, sampling=SamplingConfig(max_tokens=10)
    )
    size = len(rewards)
    columns = (rewards, outcomes, groups or [0] * size, solo, tokens or [4] * size, [False] * size)
    return sample_advantages([ScoredRollout(*row) for row in zip(*columns, strict=True)], **config.comparison)


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
    assert_allclose(own, np.array([0.0, 0.0, 0.15, -0.15]))


def test_repair_09_costs_that_level_the_rewards_do_not_blow_replies_up():
    """The reward of the helped rollouts is that of the failures: its deviation is 0, that of the outcomes is not."""
    _, replies = advantages_of([0.0] * 4, [0.0, 0.0, 1.0, 1.0], [True, True, False, False], advantage="mean_std")
    assert_allclose(replies[2:], np.full(2, 1 / (3**-0.5 + 1e-4)))


def test_repair_15_costs_that_spread_the_rewards_are_in_the_unit_of_replies_too():
    rewards = [0.0, 0.0, 1.0, -3.0]
    _, replies = advantages_of(rewards, [0.0, 0.0, 1.0, 1.0], [True, True, False, False], advantage="mean_std")
    assert_allclose(replies[2:], np.full(2, 1 / (statistics.stdev(rewards) + 1e-4)))


@pytest.mark.parametrize("estimator", ["mean_std", "mean_whitened"])
def test_repair_15_policy_and_agent_advantages_have_one_unit(estimator):
    """At the default baselines: two solo rollouts fail, one helped rollout of two succeeds."""
    groups = [0, 0, 0, 0, 1, 1, 1, 1]
    rewards, solo = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0], [True, True, False, False] * 2
    raw = advantages_of(rewards, rewards, solo, groups=groups, advantage="mean")
    own, replies = advantages_of(rewards, rewards, solo, groups=groups, advantage=estimator)
    assert raw[0].tolist() == [0.0, 0.0, -0.5, 0.5, 0.0, 0.0, 0.0, 0.0]
    assert_allclose(own[3] - own[2], replies[3] - replies[2])
    if estimator == "mean_std":
        unit = statistics.stdev([0.0, 0.0, 0.0, 1.0]) + 1e-4
        assert_allclose(own[:4], raw[0][:4] / unit)
        assert_allclose(replies[:4], raw[1][:4] / unit)


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "mean_whitened"])
def test_repair_15_modes_without_spread_stay_finite(estimator):
    """All solo rollouts fail and all helped ones succeed: the deviation within a mode is 0."""
    own, replies = advantages_of(
        [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [True, True, False, False], advantage=estimator
    )
    assert own.tolist() == [0.0] * 4
    assert 1.0 <= float(replies.max()) <= 2.0


def test_a_rollout_that_a_fault_cut_is_compared_with_none():
    rows = [(1.0, False), (0.0, False), (50.0, True), (0.5, False)]
    samples = [ScoredRollout(reward, reward, 0, False, 4, faulted) for reward, faulted in rows]
    own, replies = sample_advantages(samples, agent_baseline="solo")
    assert_allclose(own, [0.5, -0.5, 0.0, 0.0])
    assert_allclose(replies, [0.5, -0.5, 0.0, 0.0])
    assert own.dtype == replies.dtype == np.float32


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "mean_whitened"])
def test_without_a_baseline_a_reply_gets_the_outcome(estimator):
    """Nothing fades when solo succeeds, nothing is pushed away, and no estimator rescales it; a fault counts for nothing."""
    outcomes, solo = [1.0, 0.0, 1.0, -0.5, 0.25], [True, False, False, False, False]
    _, replies = advantages_of(np.array(outcomes) - 0.1, outcomes, solo, agent_baseline="none", advantage=estimator)
    assert_allclose(replies, [1.0, 0.0, 1.0, 0.0, 0.25])
    assert ObjectiveConfig().agent_baseline == "none"
    assert (ObjectiveConfig().imitation, ObjectiveConfig(agent_loss="mask").imitation) == (1.0, 0.0)
    cut = [ScoredRollout(1.0, 1.0, 0, False, 4, faulted) for faulted in (True, False)]
    assert_allclose(sample_advantages(cut, self_imitation=2.0), [[0.0, 2.0], [0.0, 1.0]])


@pytest.mark.parametrize("agent_baseline", ["none", "solo", "group"])
@pytest.mark.parametrize("estimator", [*ESTIMATORS, "mean_whitened"])
def test_self_imitation_adds_what_assisted_rollouts_earned(estimator, agent_baseline):
    """To the policy's own tokens, not to replies; nothing for solo rollouts and for failures; without what help cost."""
    outcomes, solo = [1.0, 0.0, 1.0, -0.5, 0.25], [True, False, False, False, False]
    settings = {"agent_baseline": agent_baseline, "advantage": estimator}
    rewards = np.array(outcomes) - np.array([0.0, 0.3, 0.3, 0.0, 0.0])
    own, replies = advantages_of(rewards, outcomes, solo, **settings)
    more, same = advantages_of(rewards, outcomes, solo, self_imitation=0.5, **settings)
    assert_allclose(more - own, [0.0, 0.0, 0.5, 0.0, 0.125], atol=1e-6)
    assert_allclose(same, replies)
