"""OpenRLHF's learner with our AGENT term against the single-machine trainer, and against OpenRLHF alone.

The trajectories are random, with several turns, notices, replies of known and unknown mu, and episodes cut after a reply.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aipo_env.trajectory import Segment, Source, Trajectory
from algorithms.cluster.policy_loss import AIPOPolicyLoss
from algorithms.cluster.settings import agent_part, openrlhf_flags
from algorithms.config import ObjectiveConfig
from algorithms.policies import Policy
from algorithms.train_config import SamplingConfig, TrainConfig
from algorithms.trainer import Trainer
from tests.algorithms.tiny import tiny_policy, tokenizer
from tests.integration_openrlhf.pipeline import load_actor, train

GROUP_SIZE, NUM_GROUPS = 4, 4
VARIANTS = ("mask", "clone", "is", "luffy", "aipo")
ALGORITHMS = ("grpo", "dapo", "gspo", "group_mean", "rloo", "reinforce_baseline")
RELATIVE = 1e-5


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


@pytest.fixture(scope="module")
def actor(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return openrlhf_actor(policy, tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return openrlhf_actor(tiny_policy(seed=9), tmp_path_factory.mktemp("reference"))


def openrlhf_actor(policy: Policy, folder: Path, **options: bool) -> Any:
    policy.model.save_pretrained(folder)
    actor = load_actor(folder, **options)
    actor.model.load_state_dict(policy.model.state_dict())  # OpenRLHF loaded them in half precision
    return actor


@pytest.fixture(scope="module")
def moved(policy: Policy) -> dict[str, Tensor]:
    """Weights some updates later: ratios leave the clips, and replies the trust region."""
    generator = torch.Generator().manual_seed(4)
    return {
        name: value + 0.02 * torch.randn(value.shape, generator=generator)
        for name, value in policy.model.state_dict().items()
    }


def trajectories(reward_scale: float = 1.0) -> list[Trajectory]:
    generator = torch.Generator().manual_seed(11)
    vocabulary = len(tokenizer())

    def segment(source: Source, longest: int = 7) -> Segment:
        count = int(torch.randint(1, longest, (), generator=generator))
        ids = torch.randint(3, vocabulary, (count,), generator=generator).tolist()
        # A sampler that differs a little from the policy, a helper that differs more. Multiples of 1/64 pass the channel
        # unrounded.
        noise = torch.randn(count, generator=generator)
        center, spread = (-math.log(vocabulary), 0.3) if source is Source.POLICY else (-3.0, 0.8)
        logprobs = (center + noise * spread).clamp(max=-0.25).mul(64).round().div(64).tolist()
        known = source is Source.AGENT and bool(torch.rand((), generator=generator) < 0.6)
        kept = logprobs if source is Source.POLICY or known else ()
        return Segment(source, "", tuple(ids), tuple(kept), mu_known=known)

    made = []
    for index in range(GROUP_SIZE * NUM_GROUPS):
        segments = [segment(Source.PROMPT, 12)]
        for _ in range(1 + index % 3):
            segments += [
                segment(Source.POLICY),
                segment(Source.TEMPLATE, 3),
                segment(Source.AGENT),
                segment(Source.POLICY, 5),
            ]
        if index % 5 == 0:
            segments = segments[:-1]  # cut after a reply
        group = index // GROUP_SIZE
        solo = index % 2 == 0 and group < NUM_GROUPS - 1  # the last group has no solo sample
        if solo:
            segments = [s for s in segments if s.source is not Source.AGENT]
        reward = reward_scale * float(torch.rand((), generator=generator) < 0.5)
        # What help cost is charged to the policy's tokens alone.
        cost = 0.0 if solo else -0.25 * reward_scale
        made.append(
            Trajectory("test-v0", "0", segments, reward + cost, {"consult_cost": cost}, group=group, assisted=not solo)
        )
    return made


def single_machine(
    policy: Policy, batch: Sequence[Trajectory], config: ObjectiveConfig, out: Path, moved: dict[str, Tensor] | None
) -> dict[str, Tensor]:
    """The gradient of `Trainer.update`; with `moved`, of its second update, which starts from those weights."""
    own = Policy(policy.name, copy.deepcopy(policy.model), policy.codec)
    trainer = Trainer(
        TrainConfig(
            out=out,
            objective=config,
            micro_batch_size=3,
            max_grad_norm=float("inf"),
            updates_per_batch=1 if moved is None else 2,
            sampling=SamplingConfig(max_tokens=64),
        ),
        policy=own,
    )
    trainer.optimizer = moves = Moves(own.model, [] if moved is None else [moved])
    trainer.update(batch)
    return moves.gradients


class Moves(torch.optim.Optimizer):
    """Puts given weights in the place of a model's, step by step, and changes nothing when there are none left.

    The trainer frees its gradients; those of the last step are in `gradients`.
    """

    def __init__(self, model: torch.nn.Module, weights: list[dict[str, Tensor]]) -> None:
        super().__init__(model.parameters(), {"lr": 0.0})
        self.model, self.weights = model, weights

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        self.gradients = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}
        if self.weights:
            self.model.load_state_dict(self.weights.pop())


def relative_difference(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest over parameters of |difference| / |gradient|."""
    assert mine.keys() == theirs.keys()
    assert all(theirs[name].any() for name in theirs)
    return max(float((mine[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


def scale_of(config: ObjectiveConfig) -> float:
    """Rewards so large that OpenRLHF's std + 1e-9 and our std + 1e-4 are the same number where OpenRLHF divides."""
    return 1e4 if config.policy_rule.advantage == "mean_std" and config.policy_baseline == "group" else 1.0


@pytest.mark.parametrize("off_policy", [False, True], ids=["first update", "later update"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_equal_the_single_machine_trainers(
    policy: Policy, actor: Any, moved: dict[str, Tensor], variant: str, algorithm: str, off_policy: bool, tmp_path: Path
) -> None:
    config = ObjectiveConfig(algorithm=algorithm, delta=0.001).with_agent_loss(variant)
    if algorithm == "gspo":
        config = dataclasses.replace(config, clip_low=0.05, clip_high=0.05)  # so that some sequences stay inside
    batch, updated = trajectories(scale_of(config)), moved if off_policy else None
    expected = single_machine(policy, batch, config, tmp_path, updated)
    [step] = train(
        batch,
        actor,
        openrlhf_flags(config),
        agent_part(config),
        group_size=GROUP_SIZE,
        micro_batches=2,
        updated=updated,
    )
    [gradient] = step.gradients
    assert relative_difference(gradient, expected) < RELATIVE
    if off_policy:
        assert 0 < step.status["ppo_clip_ratio"] < 1
        if variant in ("clone", "aipo"):
            assert 0 < step.metrics["agent/trust_region_fraction"] < 1


@pytest.mark.parametrize("agent_baseline", ["none", "solo", "group"])
@pytest.mark.parametrize("policy_baseline", ["mode", "group"])
@pytest.mark.parametrize("algorithm", ["grpo", "dapo", "rloo", "reinforce_baseline"])
def test_baselines_equal_the_single_machine_trainers(
    policy: Policy, actor: Any, algorithm: str, policy_baseline: str, agent_baseline: str, tmp_path: Path
) -> None:
    config = ObjectiveConfig(algorithm=algorithm, policy_baseline=policy_baseline, agent_baseline=agent_baseline)
    if scale_of(config) != 1:
        # Outcomes of such a size beside advantages of about 1 would leave no digits to the comparison.
        if agent_baseline == "none":
            pytest.skip("test_the_advantages_differ_by_the_epsilon_alone has it")
        config = dataclasses.replace(config, self_imitation=0.0)
    batch = trajectories(scale_of(config))

    def gradient_on_openrlhf(config: ObjectiveConfig) -> dict[str, Tensor]:
        [step] = train(batch, actor, openrlhf_flags(config), agent_part(config), group_size=GROUP_SIZE, micro_batches=2)
        return step.gradients[0]

    gradient = gradient_on_openrlhf(config)
    assert relative_difference(gradient, single_machine(policy, batch, config, tmp_path, None)) < RELATIVE
    # And not because the batch could not tell the baselines apart.
    others = {
        "policy_baseline": {"mode", "group"} - {policy_baseline},
        "agent_baseline": {"none", "solo", "group"} - {agent_baseline},
    }
    for field, value in [(field, value) for field, values in others.items() for value in sorted(values)]:
        other = dataclasses.replace(config, **{field: value})
        assert relative_difference(gradient, gradient_on_openrlhf(other)) > 1e-2, field


@pytest.mark.parametrize(("micro_batches", "ranks"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 2)])
@pytest.mark.parametrize("algorithm", ["grpo", "dapo", "gspo"])
def test_micro_batches_and_ranks_agree(
    policy: Policy, actor: Any, algorithm: str, micro_batches: int, ranks: int, tmp_path: Path
) -> None:
    config = ObjectiveConfig(algorithm=algorithm)
    batch = trajectories(scale_of(config))
    expected = single_machine(policy, batch, config, tmp_path, None)
    steps = train(
        batch,
        actor,
        openrlhf_flags(config),
        agent_part(config),
        group_size=GROUP_SIZE,
        micro_batches=micro_batches,
        ranks=ranks,
    )
    assert [step.micro_batches for step in steps] == [micro_batches] * ranks
    for step in steps:
        assert relative_difference(step.gradients[0], expected) < RELATIVE
    assert all(step.metrics == steps[0].metrics for step in steps)


@pytest.mark.parametrize("ranks", [1, 2])
def test_packed_and_dynamic_batches_agree(policy: Policy, ranks: int, tmp_path: Path) -> None:
    config, batch = ObjectiveConfig(), trajectories()
    expected = single_machine(policy, batch, config, tmp_path / "out", None)
    packing = openrlhf_actor(policy, tmp_path / "policy", packing=True)
    tokens = max(len(t.token_ids) for t in batch)
    flags = [*openrlhf_flags(config), "--ds.packing_samples", "--train.dynamic_batch_enable"]
    flags += ["--train.max_tokens_per_gpu", 2 * tokens, "--rollout.max_tokens_per_gpu", 2 * tokens]
    steps = train(batch, packing, flags, agent_part(config), group_size=GROUP_SIZE, ranks=ranks)
    for step in steps:
        assert step.micro_batches > 1
        assert relative_difference(step.gradients[0], expected) < RELATIVE


SETTINGS = {
    "ppo": [],
    "dual clip": ["--actor.dual_clip", 1.2],
    "gspo": ["--actor.policy_loss_type", "gspo", "--actor.eps_clip", 0.02],
    "mean over sequences": ["--actor.loss_agg_mode", "seq-mean-token-mean"],
    "token ratios cut": [
        *("--algo.advantage.is_correction_level", "token", "--algo.advantage.is_correction_mode", "clip"),
        *("--algo.advantage.is_correction_threshold", 0.8, 1.2),
    ],
    "token ratios dropped": [
        *("--algo.advantage.is_correction_level", "token", "--algo.advantage.is_correction_threshold", 0.8, 1.2)
    ],
    "sequence ratios dropped": [
        *("--algo.advantage.is_correction_level", "seq", "--algo.advantage.is_correction_threshold", 0.95, 1.1)
    ],
    "divergence of tokens": [
        *("--algo.advantage.is_correction_level", "token", "--algo.advantage.is_correction_gating", "tv"),
        *("--algo.advantage.is_correction_threshold", 0.003),
    ],
    "divergence of sequences": [
        *("--algo.advantage.is_correction_level", "seq", "--algo.advantage.is_correction_gating", "binary_kl"),
        *("--algo.advantage.is_correction_threshold", 0.0006),
    ],
    "gspo with rollout ratios": [
        *("--actor.policy_loss_type", "gspo", "--algo.advantage.is_correction_level", "token", "--actor.eps_clip", 0.5)
    ],
    "KL in the reward": ["--algo.kl.init_coef", 0.1],
    "KL in the reward, whitened": ["--algo.kl.init_coef", 0.1, "--algo.advantage.estimator", "reinforce_baseline"],
    "KL loss": ["--algo.kl.init_coef", 0.1, "--algo.kl.use_loss", "--algo.kl.estimator", "k3"],
    "unbiased KL loss": ["--algo.kl.init_coef", 0.1, "--algo.kl.use_loss", "--algo.kl.unbiased_gradient"],
    "whitening": ["--algo.advantage.estimator", "reinforce_baseline"],
    "no standard deviation": ["--algo.advantage.estimator", "reinforce_baseline", "--algo.advantage.no_std_norm"],
    "reinforce": ["--algo.advantage.estimator", "reinforce"],
    "rloo": ["--algo.advantage.estimator", "rloo"],
    "group_norm": ["--algo.advantage.estimator", "group_norm"],
    "flash_reinforce": ["--algo.advantage.estimator", "flash_reinforce"],
    "two epochs": ["--train.max_epochs", 2],
    "stop properly": ["--reward.stop_properly_penalty_coef", 0.5],
    "entropy": ["--actor.entropy_coef", 0.01],
}  # fmt: skip


@pytest.mark.parametrize("agent", ["mask", "weight 0", "no agent tokens"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_policy_tokens_get_what_openrlhf_alone_gives_them(
    actor: Any, reference: Any, moved: dict[str, Tensor], setting: str, agent: str
) -> None:
    """Bit for bit, gradients and every logged number: OpenRLHF's flags act on POLICY tokens as if there were no AGENT term."""
    flags = ["--algo.advantage.estimator", "dr_grpo", "--algo.kl.init_coef", 0, *SETTINGS[setting]]
    batch = trajectories()
    without = [dataclasses.replace(t, segments=[hidden(s) for s in t.segments]) for t in batch]
    plain: dict[str, Any] = {"policy_baseline": "group", "agent_baseline": "group", "self_imitation": 0.0}
    config = {
        "mask": ObjectiveConfig(agent_loss="mask", policy_baseline="group"),
        "weight 0": ObjectiveConfig(agent_weight=0.0, **plain),
        "no agent tokens": ObjectiveConfig(**plain),
    }[agent]
    options: dict[str, Any] = {"group_size": GROUP_SIZE, "micro_batches": 2, "updated": moved}
    options["reference"] = reference if "KL" in setting else None
    [stock] = train(without, actor, flags, None, **options)
    [ours] = train(without if agent == "no agent tokens" else batch, actor, flags, config, **options)
    # Where the KL penalty is in the reward, we sum the return in another order (`_mend_logged_return`).
    assert ours.status.pop("return") == pytest.approx(stock.status.pop("return"), abs=1e-6)
    assert ours.status == stock.status
    if "dropped" in setting or "cut" in setting or "divergence" in setting:
        assert 0.1 < stock.status["is_filter_ratio"] < 0.9
    assert len(ours.gradients) == len(stock.gradients) == (2 if setting == "two epochs" else 1)
    for mine, theirs in zip(ours.gradients, stock.gradients, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
        assert any(theirs[name].any() for name in theirs)


def hidden(segment: Segment) -> Segment:
    """A reply as the stock executor records it: feedback of the environment, which bears no loss."""
    return Segment(Source.TEMPLATE, "", segment.token_ids) if segment.source is Source.AGENT else segment


@pytest.mark.parametrize("token_level", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dual_clip": 1.5},
        {"policy_loss_type": "gspo"},
        {"is_correction_level": "token", "is_correction_mode": "clip"},
        {"is_correction_level": "seq"},
    ],
    ids=str,
)
def test_the_loss_equals_policy_loss_bit_for_bit(options: dict[str, Any], token_level: bool) -> None:
    from openrlhf.models import PolicyLoss

    stock = PolicyLoss(token_level_loss=token_level, **options)
    loss_fn = AIPOPolicyLoss(stock, ObjectiveConfig(agent_weight=0.0))
    generator = torch.Generator().manual_seed(1)
    log_probs = -torch.rand(5, 33, generator=generator) * 4
    old, rollout = (log_probs + 0.3 * torch.randn(log_probs.shape, generator=generator) for _ in range(2))
    advantages = torch.randn(5, 1, generator=generator).expand_as(log_probs).clone()
    mask = (torch.arange(33) < torch.tensor([33, 12, 1, 20, 7])[:, None]).long()
    counts = {"dp_size": 2, "batch_num_tokens": torch.tensor(61.5), "global_batch_size": torch.tensor(7.0)}
    results = []
    for function in (loss_fn, stock):
        leaf = log_probs.clone().requires_grad_()
        out = function(
            leaf, old, advantages, action_mask=mask, rollout_log_probs=rollout.clamp(max=0.0) * mask, **counts
        )
        results.append([*(x for x in out if x is not None), *torch.autograd.grad(out[0], leaf)])
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("agent_baseline", ["none", "group"])
def test_the_advantages_differ_by_the_epsilon_alone(
    policy: Policy, actor: Any, agent_baseline: Any, tmp_path: Path
) -> None:
    """`group_norm` divides by std + 1e-9, `mean_std` by std + 1e-4: with rewards 0 and 1, two parts in 10,000.

    So it is with the group's baselines alone: the others are computed by our `mean_std`.
    """
    config = ObjectiveConfig(algorithm="grpo", policy_baseline="group", agent_baseline=agent_baseline)
    batch = trajectories()
    expected = single_machine(policy, batch, config, tmp_path, None)
    [step] = train(batch, actor, openrlhf_flags(config), agent_part(config), group_size=GROUP_SIZE)
    assert 1e-5 < relative_difference(step.gradients[0], expected) < 4e-4
