"""The AGENT term around a policy loss with OpenRLHF's signature; the real one is in `tests/integration_openrlhf`.

Dimensions: B sequences, L tokens.
"""

import dataclasses
import math
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from aipo_env.errors import ConfigurationError
from aipo_env.trajectory import Source
from algorithms.cluster.policy_loss import AIPOPolicyLoss, install_policy_loss, reveal_log_probs
from algorithms.cluster.settings import agent_part, check_openrlhf_settings, openrlhf_flags
from algorithms.config import ObjectiveConfig
from algorithms.objective import PADDING, batch_normalizer, objective_loss

P, A, T, _ = int(Source.POLICY), int(Source.AGENT), int(Source.TEMPLATE), PADDING
SOURCES = torch.tensor([
    [P, P, A, A, P, P, _, _],
    [P, T, A, P, A, A, P, P],
    [P, P, P, _, _, _, _, _],
    [P, A, T, A, P, A, A, A],  # cut after a reply
])  # fmt: skip
VARIANTS = ("mask", "clone", "is", "luffy", "aipo")


class ClippedLoss(nn.Module):
    """PPO's token mean with the arguments and results of OpenRLHF's `PolicyLoss`."""

    def forward(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        action_mask: Tensor,
        rollout_log_probs: Tensor,
        dp_size: int = 1,
        batch_num_tokens: Tensor | None = None,
        global_batch_size: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        self.seen = dict(locals())
        ratio = (log_probs - old_log_probs).clamp(-20, 20).exp()
        loss = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.28) * advantages)
        count = action_mask.sum()
        total = (loss * action_mask).sum()
        loss = total / count if batch_num_tokens is None else total / batch_num_tokens * dp_size
        return loss, 0 * total.detach() / count, ((old_log_probs - log_probs) * action_mask).sum() / count, None, None


@dataclasses.dataclass
class Batch:
    logprobs: Tensor
    old: Tensor
    advantages: Tensor
    """As OpenRLHF computes them, 0 behind the last action; at AGENT tokens their own, as `baselines.py` writes them."""
    token_advantages: Tensor
    """The same for the single-machine objective: at every token of its kind the sequence's."""
    channel: Tensor
    sources: Tensor

    @property
    def mask(self) -> Tensor:
        return (self.sources == Source.POLICY).long()

    def rows(self, indices: list[int]) -> "Batch":
        return Batch(*(getattr(self, field.name)[indices] for field in dataclasses.fields(self)))

    def loss(self, loss_fn: nn.Module, **counts: object) -> tuple[Tensor, ...]:
        return loss_fn(
            self.logprobs,
            self.old,
            self.advantages,
            action_mask=self.mask,
            rollout_log_probs=self.channel,
            **counts,
        )


@pytest.fixture
def batch() -> Batch:
    return make_batch(SOURCES.clone())


def make_batch(sources: Tensor) -> Batch:
    generator = torch.Generator().manual_seed(5)

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(sources.shape, generator=generator, dtype=torch.float64)

    old = -1.0 - noise(1.0).abs()
    # Multiples of 1/64 pass the channel without rounding; one agent token in three is of unknown mu.
    log_mu = -(noise(1.0).abs() * 64).round() / 64 * (noise(1.0) > -0.4)
    logprobs = old + noise(0.3)
    sequence_advantages_B1 = torch.linspace(1.5, -1.2, len(sources), dtype=torch.float64)[:, None]
    token_advantages = torch.where(sources == Source.AGENT, 0.7 - sequence_advantages_B1, sequence_advantages_B1)
    is_policy = sources == Source.POLICY
    followed = is_policy.flip(1).cumsum(1).flip(1) > 0
    channel = torch.where(is_policy, old - 0.1, 0.0)
    channel = torch.where(sources == Source.AGENT, 1 - log_mu, channel)
    advantages = token_advantages * (followed | (sources == Source.AGENT))
    return Batch(logprobs.requires_grad_(), old, advantages, token_advantages, channel, sources)


def gradient(loss: Tensor, batch: Batch) -> Tensor:
    (result,) = torch.autograd.grad(loss, batch.logprobs)
    return result


def expected_loss(batch: Batch, config: ObjectiveConfig) -> Tensor:
    """The single-machine objective on the same tokens."""
    rows, columns = batch.sources.shape
    sources_T = batch.sources.flatten()
    sequence_ids_T = torch.arange(rows).repeat_interleave(columns)
    return objective_loss(
        batch.logprobs.flatten(),
        batch.old.flatten(),
        batch.token_advantages.flatten(),
        sources_T,
        torch.where(batch.channel > 0, 1 - batch.channel, batch.channel).flatten(),
        sequence_ids_T,
        config,
        normalizer=batch_normalizer(sources_T, sequence_ids_T),
    ).loss


def configs() -> Iterator[ObjectiveConfig]:
    for variant in VARIANTS:
        yield (
            ObjectiveConfig(delta=0.1).with_agent_loss(variant)
            if variant in ("clone", "aipo")
            else ObjectiveConfig(agent_loss=variant)
        )
    yield ObjectiveConfig(c_min=0.1, c_max=1.1, agent_weight=0.3)


@pytest.mark.parametrize("config", list(configs()), ids=lambda c: c.agent_loss)
def test_equals_the_single_machine_objective(batch: Batch, config: ObjectiveConfig) -> None:
    loss = batch.loss(AIPOPolicyLoss(ClippedLoss(), config), batch_num_tokens=batch.mask.sum())[0]
    expected = expected_loss(batch, config)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    mine, theirs = gradient(loss, batch), gradient(expected, batch)
    assert bool(theirs[SOURCES == A].any()) is (config.agent_loss != "mask")
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_a_lone_micro_batch_counts_its_own_tokens(batch: Batch) -> None:
    config = ObjectiveConfig()
    alone = batch.loss(AIPOPolicyLoss(ClippedLoss(), config))[0]
    torch.testing.assert_close(alone, expected_loss(batch, config), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("parts", "ranks"),
    [
        ([[0, 1, 2, 3]], 1),
        ([[0, 2], [1, 3]], 1),
        ([[0], [1], [2], [3]], 1),
        ([[0, 1], [2, 3]], 2),
        ([[2], [1], [3], [0]], 2),
    ],
)
def test_micro_batches_and_ranks_add_up(batch: Batch, parts: list[list[int]], ranks: int) -> None:
    """OpenRLHF divides the counts by the accumulation steps, DeepSpeed the losses; gradients are averaged over ranks."""
    config, steps = ObjectiveConfig(delta=0.1), len(parts) // ranks
    loss_fn = AIPOPolicyLoss(ClippedLoss(), config)
    total = sum(
        batch.rows(rows).loss(loss_fn, dp_size=ranks, batch_num_tokens=batch.mask.sum() / steps)[0] / steps / ranks
        for rows in parts
    )
    torch.testing.assert_close(total, expected_loss(batch, config), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        gradient(total, batch), gradient(expected_loss(batch, config), batch), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("agent_weight", [0.0, 1.0])
def test_without_agent_tokens_not_a_bit_changes(agent_weight: float) -> None:
    batch = make_batch(torch.where(SOURCES == A, T, SOURCES))
    loss_fn = AIPOPolicyLoss(ClippedLoss(), ObjectiveConfig(agent_weight=agent_weight))
    mine, stock = (
        batch.loss(loss_fn, batch_num_tokens=torch.tensor(7.0)),
        batch.loss(loss_fn.policy_loss, batch_num_tokens=torch.tensor(7.0)),
    )
    assert [x if x is None else x.item() for x in mine] == [x if x is None else x.item() for x in stock]
    assert torch.equal(gradient(mine[0], batch), gradient(stock[0], batch))


def test_weight_zero_leaves_the_policy_loss(batch: Batch) -> None:
    loss_fn = AIPOPolicyLoss(ClippedLoss(), ObjectiveConfig(agent_weight=0.0))
    mine, stock = batch.loss(loss_fn)[0], batch.loss(loss_fn.policy_loss)[0]
    assert mine.item() == stock.item()
    assert torch.equal(gradient(mine, batch), gradient(stock, batch))


def test_the_policy_loss_sees_no_marked_value(batch: Batch) -> None:
    loss_fn = AIPOPolicyLoss(ClippedLoss(), ObjectiveConfig())
    batch.loss(loss_fn)
    rollout = loss_fn.policy_loss.seen["rollout_log_probs"]
    assert (rollout <= 0).all()
    assert torch.equal(rollout[SOURCES == A], batch.old[SOURCES == A])
    assert torch.equal(rollout[SOURCES == P], batch.channel[SOURCES == P])


def test_agent_only_and_empty_micro_batches_stay_differentiable(batch: Batch) -> None:
    loss_fn = AIPOPolicyLoss(ClippedLoss(), ObjectiveConfig())
    batch.sources[batch.sources == P] = T
    batch.advantages.zero_()  # as `baselines.py` writes them where a sequence has no action
    loss, clip_ratio, ppo_kl, _, _ = batch.loss(loss_fn, batch_num_tokens=torch.tensor(3.0))
    assert (loss.item(), clip_ratio.item(), ppo_kl.item()) == (0.0, 0.0, 0.0)
    assert not gradient(loss, batch).any()
    batch.channel.zero_()
    for num_tokens in (torch.tensor(3.0), torch.tensor(0.0), 0.0):
        loss = batch.loss(loss_fn, batch_num_tokens=num_tokens, global_batch_size=num_tokens)[0]
        assert loss.item() == 0.0
        assert not gradient(loss, batch).any()


def test_metrics_are_those_of_the_objective(batch: Batch) -> None:
    loss_fn = AIPOPolicyLoss(ClippedLoss(), ObjectiveConfig(delta=0.1))
    batch.loss(loss_fn)
    whole = loss_fn.pop_metrics()
    assert loss_fn.pop_metrics() == {}
    for rows in ([0], [1, 2], [3]):
        batch.rows(rows).loss(loss_fn)
    assert loss_fn.pop_metrics() == pytest.approx(whole, rel=1e-6)
    agent = SOURCES == A
    assert whole["agent/probability"] == pytest.approx(batch.logprobs[agent].exp().mean().item(), rel=1e-6)
    assert whole["agent/mu_known_fraction"] == pytest.approx((batch.channel[agent] != 1).double().mean().item())
    assert whole["agent/advantage"] == pytest.approx(batch.advantages[agent].mean().item())
    assert whole["tokens/trained"] == (agent | (SOURCES == P)).sum()
    assert whole["agent/token_fraction"] == pytest.approx(
        agent.sum().item() / (agent.sum() + (SOURCES == P).sum()).item()
    )


@pytest.mark.parametrize(("agent_loss", "trained"), [("mask", 9), ("aipo", 17)])
def test_tokens_without_advantage_are_not_trained(batch: Batch, agent_loss: str, trained: int) -> None:
    batch.advantages[0] = 0
    loss_fn = AIPOPolicyLoss(ClippedLoss(), ObjectiveConfig(agent_loss=agent_loss))
    batch.loss(loss_fn)
    metrics = loss_fn.pop_metrics()
    assert metrics["tokens/trained"] == trained
    assert ("agent/advantage" in metrics) is (agent_loss != "mask")


def test_agent_tokens_as_actions_are_refused(batch: Batch) -> None:
    loss_fn = AIPOPolicyLoss(ClippedLoss(), ObjectiveConfig())
    with pytest.raises(ConfigurationError, match="action_ranges"):
        loss_fn(batch.logprobs, batch.old, batch.advantages, (SOURCES > 0).long(), batch.channel)


def test_a_missing_channel_is_refused(batch: Batch) -> None:
    with pytest.raises(ConfigurationError, match=r"channel\.encode"):
        AIPOPolicyLoss(ClippedLoss(), ObjectiveConfig())(batch.logprobs, batch.old, batch.advantages, batch.mask)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ObjectiveConfig(algorithm="gspo"), "algorithm is not read"),
        (ObjectiveConfig(clip_low=0.1), "clip_low is not read"),
        (ObjectiveConfig(kl_coef=0.1), "kl_coef is not read"),
        (ObjectiveConfig(rollout_clip=(0.5, 2.0)), "rollout_clip is not read"),
        (ObjectiveConfig(agent_normalizer="agent_tokens"), "policy_tokens"),
    ],
)
def test_what_would_not_be_read_is_refused(config: ObjectiveConfig, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        AIPOPolicyLoss(ClippedLoss(), config)


def openrlhf_args(**overrides: object) -> SimpleNamespace:
    values = {"estimator": "group_norm", "gamma": 1, "overlong": None, "kl": 0.0, "use_loss": False} | overrides
    advantage = SimpleNamespace(estimator=values["estimator"], gamma=values["gamma"])
    kl = SimpleNamespace(init_coef=values["kl"], use_loss=values["use_loss"])
    reward = SimpleNamespace(overlong_buffer_len=values["overlong"])
    return SimpleNamespace(algo=SimpleNamespace(advantage=advantage, kl=kl), reward=reward)


@pytest.mark.parametrize(
    ("overrides", "flag"),
    [({"estimator": "gae"}, "estimator"), ({"gamma": 0.99}, "gamma"), ({"overlong": 100.0}, "overlong_buffer_len")],
)
def test_wrong_openrlhf_settings_are_refused(overrides: dict[str, object], flag: str) -> None:
    check_openrlhf_settings(openrlhf_args())
    with pytest.raises(ConfigurationError, match=flag):
        check_openrlhf_settings(openrlhf_args(**overrides))


def flags_of(config: ObjectiveConfig) -> str:
    return " ".join(openrlhf_flags(config))


def test_presets_become_flags() -> None:
    assert flags_of(ObjectiveConfig(algorithm="grpo")) == (
        "--algo.advantage.estimator group_norm --actor.policy_loss_type ppo --actor.eps_clip_low_high 0.2 0.2 "
        "--actor.loss_agg_mode seq-mean-token-mean --algo.kl.init_coef 0.0"
    )
    assert "gspo --actor.eps_clip_low_high 0.0003 0.0004" in flags_of(ObjectiveConfig(algorithm="gspo"))
    assert "estimator dr_grpo" in flags_of(ObjectiveConfig())
    assert "use_loss --algo.kl.estimator k3" in flags_of(ObjectiveConfig(kl_coef=0.01))
    assert "threshold 0.5 2.0" in flags_of(ObjectiveConfig(rollout_clip=(0.5, 2.0)))


@pytest.mark.parametrize(
    "config",
    [
        ObjectiveConfig(algorithm="cispo"),
        ObjectiveConfig(algorithm="dr_grpo", constant_length=9),
        ObjectiveConfig(algorithm="gspo", aggregation="token_mean"),
        ObjectiveConfig(algorithm="grpo", kl_coef=0.1),
        ObjectiveConfig(algorithm="gspo", rollout_clip=(0.5, 2.0)),
    ],
)
def test_what_openrlhf_cannot_do_has_no_flags(config: ObjectiveConfig) -> None:
    with pytest.raises(ConfigurationError, match="no flag"):
        openrlhf_flags(config)


def test_the_agent_part_keeps_our_fields() -> None:
    ours = {"c_max": math.inf, "agent_weight": 0.5, "policy_baseline": "group", "agent_baseline": "group"}
    part = agent_part(ObjectiveConfig(algorithm="gspo", kl_coef=0.1, **ours))  # type: ignore[arg-type]
    assert part == ObjectiveConfig(**ours)  # type: ignore[arg-type]


class ToyActor(nn.Module):
    """Masks its log-probabilities as OpenRLHF's `Actor.forward` does."""

    def forward(
        self, sequences: Tensor, action_mask: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        logprobs = -sequences[:, 1:].float()
        return logprobs if action_mask is None else logprobs * action_mask.float()


def test_log_probs_outside_the_mask_are_revealed() -> None:
    actor, sequences, mask = ToyActor(), torch.tensor([[3, 5, 7]]), torch.tensor([[0, 1]])
    assert actor(sequences, mask).tolist() == [[0, -7]]
    reveal_log_probs(actor)
    assert actor(sequences, mask).tolist() == [[-5, -7]]
    assert actor(sequences, mask, attention_mask=None).tolist() == [[-5, -7]]
    assert actor(sequences, action_mask=mask).tolist() == [[-5, -7]]
    assert actor(sequences).tolist() == [[-5, -7]]
    assert mask.tolist() == [[0, 1]]


@pytest.mark.parametrize(("kl", "use_loss", "expected"), [(0.01, False, 3.0), (0.01, True, 9.0), (0.0, False, 9.0)])
def test_installing_mends_the_logged_return_where_the_penalty_is_in_the_reward(
    kl: float, use_loss: bool, expected: float
) -> None:
    stored: list[SimpleNamespace] = []
    stock = ClippedLoss()
    trainer = SimpleNamespace(
        args=openrlhf_args(kl=kl, use_loss=use_loss),
        actor=ToyActor(),
        actor_loss_fn=stock,
        replay_buffer=SimpleNamespace(append=stored.append),
    )
    loss = install_policy_loss(trainer, ObjectiveConfig())
    assert trainer.actor_loss_fn is loss
    assert loss.policy_loss is stock
    trainer.replay_buffer.append(
        SimpleNamespace(returns=torch.tensor([[3.0, 1.0]]), info={"return": torch.tensor([9.0])})
    )
    assert stored[0].info["return"].tolist() == [expected]
    assert trainer.actor(torch.tensor([[3, 5]]), torch.tensor([[0]])).tolist() == [[-5]]
