"""The baselines behind a method that makes OpenRLHF's advantages; the real one runs in `tests/integration_openrlhf`.

Dimensions: S samples, B sequences, L tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from aipo_env.advantages import AdvantageEstimator, ScoredRollout, compute_advantages, sample_advantages
from aipo_env.errors import ConfigurationError
from aipo_env.trajectory import Source
from algorithms.cluster.baselines import install_baselines
from algorithms.cluster.settings import openrlhf_flags, our_estimator
from algorithms.config import ObjectiveConfig, check_modes
from algorithms.train_config import TrainConfig

P, A, T = int(Source.POLICY), int(Source.AGENT), int(Source.TEMPLATE)
SOURCES = torch.tensor([
    [P, P, A, A, P, T],
    [P, T, A, P, A, A],  # cut after a reply
    [P, P, P, T, T, T],
    [T, P, A, P, P, P],
])  # fmt: skip
"""Of one sample after the other."""
GROUP_SIZE = 4
SOLO = [[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]
REWARDS = [[0.0, 1.0, 1.0, 0.7], [0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.3, 1.0], [0.1, 0.1, 0.1, 0.1]]
"""Of groups with spread everywhere, between the modes alone, without a solo sample, and without spread."""
OUTCOMES = [[0.25, 1.5, 1.5, 0.95], [0.0, 0.0, 1.75, 1.5], [0.5, 0.0, 0.3, 0.5], [0.6, 0.1, 0.1, 0.35]]
"""The same without what help cost: they differ more than the rewards, but for the third group."""
ESTIMATORS: tuple[AdvantageEstimator, ...] = ("mean", "mean_std", "leave_one_out", "mean_whitened")
BASELINES = list(itertools.product(("mode", "group"), ("none", "solo", "group")))


@dataclasses.dataclass
class Experience:
    index: list[int]
    rewards: Tensor
    kl: Tensor | None
    action_mask: Tensor
    rollout_log_probs: Tensor
    info: dict[str, Tensor]
    sources: Tensor
    advantages: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))
    returns: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))


class Maker:
    """The group's advantages as OpenRLHF makes them: 0 behind the last action, then whitened where the estimator whitens."""

    def __init__(self, estimator: AdvantageEstimator, kl_coef: float = 0.0, **settings: object) -> None:
        flags = openrlhf_flags(ObjectiveConfig(advantage=estimator))
        values = {"gamma": 1, "no_std_norm": False, "clip_range": (-10, 10)} | settings
        advantage = SimpleNamespace(
            estimator=flags[1],
            gamma=values["gamma"],
            no_std_norm=values["no_std_norm"],
        )
        args = SimpleNamespace(
            algo=SimpleNamespace(advantage=advantage),
            rollout=SimpleNamespace(n_samples_per_prompt=GROUP_SIZE),
            reward=SimpleNamespace(clip_range=values["clip_range"], overlong_buffer_len=None),
        )
        self.strategy, self.kl_ctl = SimpleNamespace(args=args), SimpleNamespace(value=kl_coef)

    def compute_advantages_and_returns(self, experiences: list[Experience]) -> list[Experience]:
        args, estimator = self.strategy.args, our_estimator(self.strategy.args.algo.advantage.estimator)
        order = torch.tensor([place for e in experiences for place in e.index])
        raw = "mean" if estimator == "mean_whitened" else estimator
        rewards_S = torch.cat([e.rewards for e in experiences])
        shaped_S = torch.from_numpy(compute_advantages(rewards_S.numpy(), order.numpy() // GROUP_SIZE, raw))
        for experience, shaped_B in zip(experiences, shaped_S.split([len(e.index) for e in experiences]), strict=True):
            assert experience.kl is not None
            rewards_BL = -self.kl_ctl.value * experience.kl
            last_B = experience.action_mask.shape[1] - 1 - experience.action_mask.flip(1).argmax(1)
            if args.reward.clip_range:
                shaped_B = shaped_B.clamp(*args.reward.clip_range)
            rewards_BL[torch.arange(len(shaped_B)), last_B] += shaped_B
            experience.returns = (rewards_BL * experience.action_mask).flip(1).cumsum(1).flip(1)
            experience.advantages = experience.returns.clone()
            experience.info["return"] = rewards_BL.sum(1)
            experience.kl = None
        if estimator == "mean_whitened":
            values = torch.cat([e.returns[e.action_mask > 0] for e in experiences])
            deviation = 1.0 if args.algo.advantage.no_std_norm else values.std(correction=0)
            for experience in experiences:
                experience.advantages = (experience.advantages - values.mean()) / deviation
        return experiences


def experiences(sizes: tuple[int, ...] = (3, 5, 2, 6)) -> list[Experience]:
    """The samples in a random order and in parts of several sizes, as OpenRLHF batches them for scoring."""
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(len(REWARDS) * GROUP_SIZE, generator=generator)
    made = []
    for places in order.split(list(sizes)):
        sources = SOURCES[places % GROUP_SIZE]
        made.append(
            Experience(
                index=places.tolist(),
                rewards=torch.tensor(REWARDS).flatten()[places],
                kl=torch.rand(sources.shape, generator=generator),
                action_mask=(sources == P).long(),
                rollout_log_probs=(sources == A) * 1.5 - (sources == P) * 0.5,
                info={
                    "aipo/solo": torch.tensor(SOLO).flatten()[places].float(),
                    "aipo/outcome": torch.tensor(OUTCOMES).flatten()[places],
                    "aipo/faults": torch.zeros(len(places)),
                },
                sources=sources,
            )
        )
    return made


def config_of(policy_baseline: str, agent_baseline: str, **fields: object) -> ObjectiveConfig:
    fields = {"self_imitation": 0.0, **fields}
    return ObjectiveConfig(policy_baseline=policy_baseline, agent_baseline=agent_baseline, **fields)  # type: ignore[arg-type]


def run(maker: Maker, config: ObjectiveConfig, batch: list[Experience] | None = None) -> list[Experience]:
    install_baselines(maker, config)
    return maker.compute_advantages_and_returns(experiences() if batch is None else batch)


def samples(values: list[Tensor], batch: list[Experience]) -> Tensor:
    """One value per sample of each experience, in the order of the groups."""
    order = torch.tensor([place for experience in batch for place in experience.index])
    result = torch.empty(len(order))
    result[order] = torch.cat(values).float()
    return result


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("policy_baseline", "agent_baseline"), BASELINES)
@pytest.mark.parametrize(("scale", "imitation"), [(1.0, 0.0), (0.25, 0.0), (1.0, 0.5)])
def test_every_token_has_the_advantage_of_the_single_machine(
    estimator: AdvantageEstimator, policy_baseline: str, agent_baseline: str, scale: float, imitation: float
) -> None:
    """Where outcomes differ more than rewards, and where they differ less."""
    batch = experiences()
    for experience in batch:
        experience.info["aipo/outcome"] *= scale
    run(Maker(estimator), config_of(policy_baseline, agent_baseline, self_imitation=imitation), batch)
    counts = (SOURCES == P).sum(1).tolist()
    rollouts = [
        ScoredRollout(REWARDS[g][i], scale * OUTCOMES[g][i], g, SOLO[g][i] > 0, counts[i], False)
        for g, i in itertools.product(range(len(REWARDS)), range(GROUP_SIZE))
    ]
    config = TrainConfig(
        objective=config_of(policy_baseline, agent_baseline, advantage=estimator, self_imitation=imitation)
    )
    policy_S, agent_S = map(torch.from_numpy, sample_advantages(rollouts, **config.comparison))
    for experience in batch:
        places = torch.tensor(experience.index)
        for source, expected_S in ((P, policy_S), (A, agent_S)):
            expected_BL = expected_S[places][:, None].expand(experience.sources.shape)
            at = experience.sources == source
            torch.testing.assert_close(experience.advantages[at], expected_BL[at], rtol=1e-5, atol=1e-6)
    if estimator != "mean_whitened" and (policy_baseline, imitation) == ("mode", 0) and agent_baseline != "none":
        # Exactly: such samples cost no update. The second group's spread is between the modes alone.
        zero_S = samples([(e.advantages * (e.sources == P)).abs().sum(1) for e in batch], batch) == 0
        assert zero_S[4:8].all()
        assert not zero_S[8:12].all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_with_the_groups_baselines_not_a_bit_of_policy_tokens_changes(estimator: AdvantageEstimator) -> None:
    stock = Maker(estimator, kl_coef=0.1).compute_advantages_and_returns(experiences())
    ours = run(Maker(estimator, kl_coef=0.1), config_of("group", "group"))
    for mine, theirs in zip(ours, stock, strict=True):
        assert torch.equal(mine.returns, theirs.returns)
        assert torch.equal(mine.info["return"], theirs.info["return"])
        assert torch.equal(mine.advantages[mine.sources != A], theirs.advantages[mine.sources != A])


@pytest.mark.parametrize(("policy_baseline", "agent_baseline"), BASELINES)
def test_repair_09_penalties_count_from_a_token_on_and_not_for_replies(
    policy_baseline: str, agent_baseline: str
) -> None:
    """On top of the comparison of the rewards, which they do not enter."""
    config = config_of(policy_baseline, agent_baseline)
    free, batch, scored = run(Maker("mean"), config), experiences(), experiences()
    run(Maker("mean", kl_coef=0.25), config, batch)
    for mine, without, raw in zip(batch, free, scored, strict=True):
        assert raw.kl is not None
        penalties_BL = (-0.25 * raw.kl * raw.action_mask).flip(1).cumsum(1).flip(1)
        own, difference = mine.sources == P, mine.advantages - without.advantages
        torch.testing.assert_close(difference[own], penalties_BL[own], rtol=0, atol=1e-6)
        assert not difference[mine.sources == A].any()
        if policy_baseline == "mode":
            assert torch.equal(mine.info["return"], mine.returns[:, 0])


def test_a_negative_penalty_coefficient_counts_as_none() -> None:
    with_penalty, without = (run(Maker("mean", kl_coef=c), config_of("mode", "solo")) for c in (-1.0, 0.0))
    for mine, theirs in zip(with_penalty, without, strict=True):
        assert torch.equal(mine.returns, theirs.returns)


def test_the_reward_clip_acts_on_the_comparison() -> None:
    clipped = run(Maker("mean", clip_range=(-0.2, 0.3)), config_of("mode", "solo"))
    values = torch.cat([e.advantages[(e.sources == P) | (e.sources == A)] for e in clipped])
    assert (values.min().item(), values.max().item()) == pytest.approx((-0.2, 0.3))
    free = run(Maker("mean", clip_range=None), config_of("mode", "solo"), experiences((16,)))
    assert torch.cat([e.advantages.flatten() for e in free]).max() > 0.5


def test_without_the_deviation_whitening_subtracts_alone() -> None:
    config = config_of("mode", "solo")
    batches = experiences((16,)), experiences((16,))
    for [batch] in batches:
        batch.info["aipo/outcome"] *= 4  # a deviation of more than 1
    [whitened] = run(Maker("mean_whitened", no_std_norm=True), config, batches[0])
    [plain] = run(Maker("mean"), config, batches[1])
    policy = whitened.sources == P
    mean = plain.advantages[policy].mean()
    torch.testing.assert_close(whitened.advantages[policy], plain.advantages[policy] - mean)
    agent = (whitened.sources == A) & (torch.tensor(whitened.index) // GROUP_SIZE != 2)[:, None]
    torch.testing.assert_close(whitened.advantages[agent], plain.advantages[agent])


def test_masked_replies_need_no_baseline() -> None:
    """Then the executor's counter is not read, and estimators without groups are allowed."""
    config, batch = ObjectiveConfig(agent_loss="mask", policy_baseline="group"), experiences()
    for experience in batch:
        experience.info.clear()
    stock = Maker("mean").compute_advantages_and_returns(experiences())
    for mine, theirs in zip(run(Maker("mean"), config, batch), stock, strict=True):
        policy = mine.sources == P
        assert torch.equal(mine.advantages[policy], theirs.advantages[policy])


def test_a_sample_without_actions_has_the_advantage_of_its_reply() -> None:
    batch = experiences((16,))
    row = batch[0].index.index(10)  # whose place in the group has replies, and whose reward is not its group's
    batch[0].sources[row] = SOURCES[1]
    batch[0].rollout_log_probs[row] = (SOURCES[1] == A) * 1.5
    batch[0].action_mask[row] = 0
    [experience] = run(Maker("mean"), config_of("mode", "solo"), batch)
    replies = experience.sources[row] == A
    assert not experience.advantages[row][~replies].any()
    assert experience.advantages[row][replies].unique().numel() == 1


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_repair_11_what_a_fault_cut_is_compared_with_nothing(estimator: AdvantageEstimator) -> None:
    """Whatever its reward is, the others' advantages are the same."""
    found = []
    for reward in (0.0, 1.0):
        [batch] = experiences((16,))
        row = batch.index.index(1)
        batch.rewards[row], batch.info["aipo/outcome"][row], batch.info["aipo/faults"][row] = reward, reward, 1.0
        batch.action_mask[row], batch.rollout_log_probs[row] = 0, 0.0  # as the executor hands it over
        [scored] = run(Maker(estimator), config_of("mode", "solo"), [batch])
        scored.sources[row] = T
        values = [scored.advantages[scored.sources == source] for source in (P, A)]
        # OpenRLHF's own deviation, over the group's baseline, knows no faults.
        found.append([v / v.abs().max() for v in values] if estimator == "mean_whitened" else values)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ["reinforce", "flash_reinforce"])
def test_repair_09_without_groups_replies_are_judged_by_the_outcome_too(name: str) -> None:
    """What OpenRLHF's own numbers would be without the costs."""
    rewards_S = torch.tensor(REWARDS).flatten()
    outcomes_S = torch.tensor(OUTCOMES).flatten()
    counts_S = (SOURCES == P).sum(1).repeat(len(REWARDS))
    if name == "reinforce":
        returns_A, outcomes_A = rewards_S.repeat_interleave(counts_S), outcomes_S.repeat_interleave(counts_S)
        expected_S = (outcomes_S - outcomes_A.mean()) / max(returns_A.std(correction=0), outcomes_A.std(correction=0))
    else:
        expected_S = outcomes_S - outcomes_S.mean()

    class Groupless(Maker):
        """Returns without a baseline; what it makes of the advantages is not looked at."""

        def compute_advantages_and_returns(self, batch: list[Experience]) -> list[Experience]:
            for experience in batch:
                followed_BL = experience.action_mask.flip(1).cumsum(1).flip(1) > 0
                experience.returns = experience.rewards[:, None] * followed_BL
                experience.advantages = experience.returns.clone()
            return batch

    maker = Groupless("mean")
    maker.strategy.args.algo.advantage.estimator = name
    for experience in run(maker, config_of("group", "group")):
        expected_BL = expected_S[torch.tensor(experience.index)][:, None].expand(experience.sources.shape)
        at = experience.sources == A
        torch.testing.assert_close(experience.advantages[at], expected_BL[at])


@pytest.mark.parametrize(
    ("estimator", "config", "named"),
    [
        ("reinforce", config_of("mode", "solo"), r"policy_baseline mode and --aipo\.agent_baseline solo"),
        ("flash_reinforce", config_of("mode", "group"), r"say --aipo\.policy_baseline group,"),
        ("flash_reinforce", config_of("group", "solo"), r"say --aipo\.agent_baseline group,"),
        ("reinforce", ObjectiveConfig(agent_loss="mask"), r"say --aipo\.policy_baseline group,"),
        ("gae", ObjectiveConfig(), "critic"),
    ],
)
def test_estimators_without_groups_are_refused(estimator: str, config: ObjectiveConfig, named: str) -> None:
    maker = Maker("mean")
    maker.strategy.args.algo.advantage.estimator = estimator
    with pytest.raises(ConfigurationError, match=named):
        install_baselines(maker, config)


def test_estimators_without_groups_leave_the_comparison_to_openrlhf() -> None:
    masked = ObjectiveConfig(agent_loss="mask", policy_baseline="group")
    for config in (config_of("group", "group"), config_of("group", "none"), masked):
        maker = Maker("mean")
        maker.strategy.args.algo.advantage.estimator = "reinforce"
        stock = maker.compute_advantages_and_returns
        install_baselines(maker, config)
        assert maker.compute_advantages_and_returns != stock


@pytest.mark.parametrize(("num_samples", "num_solo"), [(2, 1), (3, 1), (3, 2), (8, 7)])
def test_repair_12_modes_without_a_second_sample_are_refused(num_samples: int, num_solo: int) -> None:
    shape = f"samples_per_prompt {num_samples} samples {num_solo} is solo and {num_samples - num_solo} assisted"
    with pytest.raises(ConfigurationError, match=shape):
        check_modes(ObjectiveConfig(policy_baseline="mode"), num_samples, num_solo)
    check_modes(ObjectiveConfig(policy_baseline="group"), num_samples, num_solo)


@pytest.mark.parametrize(("num_samples", "num_solo"), [(4, 2), (2, 2), (2, 0), (8, 4), (1, 1)])
def test_modes_with_a_second_sample_are_taken(num_samples: int, num_solo: int) -> None:
    check_modes(ObjectiveConfig(policy_baseline="mode"), num_samples, num_solo)
