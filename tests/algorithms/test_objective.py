"""The ten invariants of docs/objective.md, by value and by gradient.

Dimensions: T packed tokens, V vocabulary.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aipo_env.advantages import compute_advantages
from aipo_env.trajectory import Source
from algorithms.config import AGENT_LOSS_FIELDS, PRESETS, ObjectiveConfig
from algorithms.objective import (
    PADDING,
    Normalizer,
    ObjectiveOutput,
    batch_normalizer,
    combine_metrics,
    objective_loss,
)

AGENT_LOSSES = ("mask", "clone", "is", "luffy", "aipo")
ONE = Normalizer(num_policy_tokens=1, num_agent_tokens=1, num_sequences=1)
INFINITY = float("inf")


@dataclass
class Batch:
    """Packed tokens with everything that the objective reads."""

    logprobs_T: Tensor
    old_logprobs_T: Tensor
    advantages_T: Tensor
    sources_T: Tensor
    mu_logprobs_T: Tensor
    sequence_ids_T: Tensor
    reference_logprobs_T: Tensor

    def rows(self, index: Tensor) -> "Batch":
        return Batch(**{name: value[index] for name, value in vars(self).items()})

    def loss(self, config: ObjectiveConfig, normalizer: Normalizer | None = None) -> tuple[ObjectiveOutput, Tensor]:
        """The output and the gradient with respect to the log-probabilities."""
        logprobs_T = self.logprobs_T.clone().requires_grad_()
        output = objective_loss(
            logprobs_T,
            self.old_logprobs_T,
            self.advantages_T,
            self.sources_T,
            self.mu_logprobs_T,
            self.sequence_ids_T,
            config,
            normalizer=normalizer or batch_normalizer(self.sources_T, self.sequence_ids_T),
            reference_logprobs_T=self.reference_logprobs_T if config.kl_coef else None,
        )
        (gradient_T,) = torch.autograd.grad(output.loss, logprobs_T)
        return output, gradient_T


def make_batch(num_sequences: int = 5, seed: int = 0, sources: tuple[Source, ...] = tuple(Source)) -> Batch:
    """Sequences of different lengths with random sources; current, old, reference and mu all differ."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(6, 14, (num_sequences,), generator=generator)
    sequence_ids_T = torch.arange(num_sequences).repeat_interleave(lengths)
    size = sequence_ids_T.numel()
    sources_T = torch.tensor([int(s) for s in sources])[torch.randint(len(sources), (size,), generator=generator)]
    logprobs_T = -3 * torch.rand(size, generator=generator, dtype=torch.float64) - 0.01

    def near(scale: float) -> Tensor:
        return (logprobs_T + scale * torch.randn(size, generator=generator, dtype=torch.float64)).clamp(max=0)

    advantages_S = torch.randn(num_sequences, generator=generator, dtype=torch.float64)
    return Batch(
        logprobs_T=logprobs_T,
        old_logprobs_T=near(0.4),
        advantages_T=advantages_S[sequence_ids_T],
        sources_T=sources_T,
        mu_logprobs_T=near(0.8),
        sequence_ids_T=sequence_ids_T,
        reference_logprobs_T=near(0.5),
    )


def make_config(algorithm: str = "group_mean", agent_loss: str = "aipo", **options: object) -> ObjectiveConfig:
    if algorithm == "dr_grpo":
        options.setdefault("constant_length", 20)
    return ObjectiveConfig(algorithm=algorithm, agent_loss=agent_loss, **options)


def agent_gradient(
    log_pi: float,
    config: ObjectiveConfig,
    *,
    advantage: float = 1.0,
    log_mu: float = 0.0,
    log_pi_old: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> float:
    """The gradient of J with respect to log pi of a single AGENT token: the token's coefficient times A."""
    logprobs_T = torch.tensor([log_pi], dtype=dtype, requires_grad=True)
    output = objective_loss(
        logprobs_T,
        None if log_pi_old is None else torch.tensor([log_pi_old], dtype=dtype),
        torch.tensor([advantage], dtype=dtype),
        torch.tensor([int(Source.AGENT)]),
        torch.tensor([log_mu], dtype=dtype),
        torch.tensor([0]),
        config,
        normalizer=ONE,
    )
    assert output.loss.isfinite()
    output.loss.backward()
    assert logprobs_T.grad is not None
    return -float(logprobs_T.grad)


# 1. No AGENT tokens: bit-equal to the plain algorithm.


@pytest.mark.parametrize("agent_loss", AGENT_LOSSES)
def test_without_agent_tokens_the_loss_is_the_plain_clipped_surrogate_bit_for_bit(agent_loss):
    batch = make_batch(sources=(Source.PROMPT, Source.POLICY, Source.TEMPLATE))
    output, gradient_T = batch.loss(make_config(agent_loss=agent_loss))

    policy_T = batch.sources_T == Source.POLICY
    logprobs_P = batch.logprobs_T[policy_T].requires_grad_()
    advantages_P = batch.advantages_T[policy_T]
    ratio_P = torch.exp(logprobs_P - batch.old_logprobs_T[policy_T])
    plain = torch.min(ratio_P * advantages_P, ratio_P.clamp(0.8, 1.28) * advantages_P)
    loss = (-plain).sum() / len(plain)
    loss.backward()

    assert torch.equal(output.loss, loss)
    assert torch.equal(gradient_T[policy_T], logprobs_P.grad)
    assert not gradient_T[~policy_T].any()


@pytest.mark.parametrize("algorithm", PRESETS)
def test_without_agent_tokens_every_agent_loss_gives_the_same_bits(algorithm):
    batch = make_batch(sources=(Source.PROMPT, Source.POLICY, Source.TEMPLATE))
    expected, expected_gradient_T = batch.loss(make_config(algorithm, "mask"))
    for agent_loss in AGENT_LOSSES:
        output, gradient_T = batch.loss(make_config(algorithm, agent_loss))
        assert torch.equal(output.loss, expected.loss)
        assert torch.equal(gradient_T, expected_gradient_T)


# 2. Exact in expectation.


@pytest.mark.parametrize(
    "config", [make_config(agent_loss="is"), make_config(c_min=0.0, c_max=INFINITY)], ids=["is", "aipo"]
)
def test_expected_gradient_over_the_vocabulary_is_the_policy_gradient(config):
    torch.manual_seed(1)
    vocabulary = 50
    logits_V = (3 * torch.randn(vocabulary, dtype=torch.float64)).requires_grad_()
    mu_V = (3 * torch.randn(vocabulary, dtype=torch.float64)).softmax(0)
    advantages_V = torch.randn(vocabulary, dtype=torch.float64)

    # One token of each kind, the loss of each weighted by how often the helper writes it.
    loss = torch.zeros((), dtype=torch.float64)
    for token in range(vocabulary):
        output = objective_loss(
            logits_V.log_softmax(0)[token : token + 1],
            None,
            advantages_V[token : token + 1],
            torch.tensor([int(Source.AGENT)]),
            mu_V[token : token + 1].log(),
            torch.tensor([0]),
            config,
            normalizer=ONE,
        )
        loss = loss + mu_V[token] * output.loss
    (gradient_V,) = torch.autograd.grad(-loss, logits_V)

    expected_return = (logits_V.softmax(0) * advantages_V).sum()
    (expected_V,) = torch.autograd.grad(expected_return, logits_V)
    torch.testing.assert_close(gradient_V, expected_V, rtol=0, atol=1e-12)


def test_cloning_is_not_exact_in_expectation():
    """The test above can fail: with weight 1 the expectation is that of the helper."""
    pi_V, mu_V = torch.tensor([0.9, 0.1]).double(), torch.tensor([0.5, 0.5]).double()
    advantages_V = torch.tensor([1.0, -1.0]).double()
    score_VV = torch.eye(2).double() - pi_V
    exact_V = (pi_V * advantages_V) @ score_VV
    cloned_V = (mu_V * advantages_V) @ score_VV
    assert (exact_V - cloned_V).abs().max() > 0.1


# 3. The floor is one-sided.


@pytest.mark.parametrize("c_min", [0.1, 0.5, 1.0])
@given(log_pi=st.floats(math.log(1e-12), 0.0), log_mu=st.floats(-20.0, 0.0), advantage=st.floats(0.01, 5.0))
def test_good_agent_tokens_keep_at_least_the_floor(c_min, log_pi, log_mu, advantage):
    config = make_config(c_min=c_min)
    coefficient = agent_gradient(log_pi, config, advantage=advantage, log_mu=log_mu) / advantage
    assert c_min - 1e-12 <= coefficient <= config.c_max + 1e-12


@given(log_pi=st.floats(-50.0, 0.0), log_mu=st.floats(-20.0, 0.0), advantage=st.floats(-5.0, -0.01))
def test_bad_agent_tokens_have_no_floor(log_pi, log_mu, advantage):
    config = make_config()
    coefficient = agent_gradient(log_pi, config, advantage=advantage, log_mu=log_mu) / advantage
    assert coefficient == pytest.approx(min(math.exp(log_pi - log_mu), config.c_max), rel=1e-12)


# 4. Bounded and finite.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    log_pi=st.floats(-50.0, 0.0),
    log_mu=st.floats(-50.0, 0.0),
    advantage=st.floats(-5.0, 5.0),
    weight=st.floats(0.0, 3.0),
    c_max=st.floats(1.0, 10.0),
)
def test_score_gradient_is_bounded(dtype, log_pi, log_mu, advantage, weight, c_max):
    config = make_config(agent_weight=weight, c_max=c_max)
    gradient = agent_gradient(log_pi, config, advantage=advantage, log_mu=log_mu, dtype=dtype)
    assert abs(gradient) <= weight * c_max * abs(advantage) * (1 + 1e-6) + torch.finfo(dtype).tiny


@pytest.mark.parametrize("agent_loss", AGENT_LOSSES)
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_every_variant_is_finite_for_an_impossible_token(agent_loss, advantage):
    config = make_config(agent_loss=agent_loss)
    assert math.isfinite(agent_gradient(-50.0, config, advantage=advantage, dtype=torch.float32))


@pytest.mark.parametrize("config", [make_config(agent_loss="is"), make_config(c_max=INFINITY)])
@pytest.mark.parametrize("log_mu", [-50.0, -89.0, -700.0])
def test_repair_15_a_reply_that_its_helper_found_impossible_keeps_the_loss_finite(config, log_mu):
    """exp(89) is no fp32 number. The ratio stops at e^20, which no other bound of the objective comes near."""
    gradient = agent_gradient(-0.5, config, log_mu=log_mu, dtype=torch.float32)
    assert gradient == pytest.approx(math.exp(20), rel=1e-5)
    tokens_T = torch.tensor([int(Source.POLICY)]), torch.tensor([0])
    rollout = make_config(rollout_clip=(0.5, INFINITY))
    output = objective_loss(
        torch.tensor([-0.5]),
        None,
        torch.ones(1),
        tokens_T[0],
        torch.tensor([log_mu]),
        tokens_T[1],
        rollout,
        normalizer=ONE,
    )
    assert output.loss.isfinite()


def test_policy_term_is_finite_for_a_huge_ratio():
    logprobs_T = torch.tensor([-0.1, -0.1], requires_grad=True)
    arguments = (torch.tensor([-200.0, -300.0]), torch.tensor([-1.0, 1.0]), torch.tensor([1, 1]))
    output = objective_loss(logprobs_T, *arguments, torch.zeros(2), torch.tensor([0, 1]), make_config(), normalizer=ONE)
    output.loss.backward()
    assert output.loss.isfinite()
    assert logprobs_T.grad.isfinite().all()


# 5. The weight.


@given(log_pi=st.floats(-30.0, 0.0), advantage=st.sampled_from([-2.0, 0.5]))
def test_a_helper_that_equals_the_policy_weighs_one(log_pi, advantage):
    assert agent_gradient(log_pi, make_config(), advantage=advantage, log_mu=log_pi) == advantage


@settings(max_examples=40)
@given(log_ratios=st.lists(st.floats(-10.0, 3.0), min_size=2, max_size=6), advantage=st.sampled_from([-1.0, 1.0]))
def test_weight_is_monotone_in_the_ratio(log_ratios, advantage):
    config = make_config(c_min=0.2)
    weights = [
        agent_gradient(-4.0, config, advantage=advantage, log_mu=-4.0 - r) / advantage for r in sorted(log_ratios)
    ]
    assert weights == sorted(weights)


def test_weight_is_detached():
    # w = pi inside the bounds: a gradient through w would double the score's coefficient times (1 + log pi).
    config = make_config(c_min=0.0)
    assert agent_gradient(math.log(0.3), config) == pytest.approx(0.3, rel=1e-12)


def test_luffy_gradient_is_that_of_the_shaped_probability():
    config = make_config(agent_loss="luffy", luffy_gamma=0.1)
    for pi in (1e-4, 0.01, 0.1, 0.9):
        step = 1e-6
        shaped = [math.exp(math.log(pi) + s) / (math.exp(math.log(pi) + s) + 0.1) for s in (-step, step)]
        numeric = (shaped[1] - shaped[0]) / (2 * step)
        assert agent_gradient(math.log(pi), config, log_mu=-1.0) == pytest.approx(numeric, rel=1e-6)
        assert numeric == pytest.approx(0.1 * pi / (pi + 0.1) ** 2, rel=1e-6)


@pytest.mark.parametrize(
    ("agent_loss", "pi", "mu", "advantage", "coefficient"),
    [
        ("mask", 0.3, 0.5, 1.0, 0.0),
        ("clone", 1e-6, 0.5, 1.0, 1.0),
        ("clone", 1e-6, 0.5, -1.0, 1.0),
        ("is", 0.3, 0.1, 1.0, 3.0),
        ("is", 1e-4, 1.0, 1.0, 1e-4),
        ("aipo", 0.3, 0.1, 1.0, 2.0),  # capped
        ("aipo", 0.3, 0.2, 1.0, 1.5),  # pi / mu
        ("aipo", 1e-4, 0.5, 1.0, 1.0),  # on the floor
        ("aipo", 1e-4, 0.5, -1.0, 2e-4),  # no floor
    ],
)
def test_gradient_coefficients(agent_loss, pi, mu, advantage, coefficient):
    gradient = agent_gradient(
        math.log(pi), make_config(agent_loss=agent_loss), advantage=advantage, log_mu=math.log(mu)
    )
    assert gradient == pytest.approx(coefficient * advantage, rel=1e-12)


# 6. Terms do not mix; packing, padding, micro-batching and sharding change nothing.


@pytest.mark.parametrize("algorithm", PRESETS)
def test_agent_tokens_leave_the_policy_term_alone(algorithm):
    batch = make_batch()
    config = make_config(algorithm, kl_coef=0.1, rollout_clip=(0.5, 2.0))
    output, gradient_T = batch.loss(config)
    not_agent_T = batch.sources_T != Source.AGENT
    alone, alone_gradient_T = batch.rows(not_agent_T).loss(config)
    assert torch.equal(output.sums["loss/policy"], alone.loss)
    assert torch.equal(gradient_T[not_agent_T], alone_gradient_T)


@pytest.mark.parametrize("algorithm", PRESETS)
@pytest.mark.parametrize("agent_loss", AGENT_LOSSES)
@pytest.mark.parametrize("agent_normalizer", ["policy_tokens", "agent_tokens"])
def test_micro_batches_and_shards_add_up(algorithm, agent_loss, agent_normalizer):
    options = {} if agent_loss == "mask" else {"agent_normalizer": agent_normalizer}
    config = make_config(algorithm, agent_loss, kl_coef=0.1, **options)
    batch = make_batch()
    normalizer = batch_normalizer(batch.sources_T, batch.sequence_ids_T)
    whole, whole_gradient_T = batch.loss(config)

    gradient_T = torch.zeros_like(whole_gradient_T)
    outputs, normalizers = [], []
    for sequences in ([0, 3], [1], [2, 4]):
        index = torch.isin(batch.sequence_ids_T, torch.tensor(sequences)).nonzero().squeeze(1)
        part = batch.rows(index.flip(0))  # another order as well
        output, part_gradient_T = part.loss(config, normalizer)
        gradient_T[index.flip(0)] = part_gradient_T
        outputs.append(output)
        normalizers.append(batch_normalizer(part.sources_T, part.sequence_ids_T))

    assert normalizers[0] + normalizers[1] + normalizers[2] == normalizer
    torch.testing.assert_close(sum(o.loss for o in outputs), whole.loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient_T, whole_gradient_T, rtol=1e-12, atol=1e-14)
    assert combine_metrics(o.sums for o in outputs) == pytest.approx(whole.metrics)


def test_token_mean_allows_cutting_inside_a_sequence():
    batch = make_batch()
    normalizer = batch_normalizer(batch.sources_T, batch.sequence_ids_T)
    whole, _ = batch.loss(make_config())
    parts = [
        batch.rows(index).loss(make_config(), normalizer)[0] for index in torch.arange(len(batch.sources_T)).split(7)
    ]
    torch.testing.assert_close(sum(p.loss for p in parts), whole.loss, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("algorithm", PRESETS)
@pytest.mark.parametrize("garbage", [float("nan"), INFINITY, -INFINITY])
def test_padding_changes_not_a_bit(algorithm, garbage):
    config = make_config(algorithm, kl_coef=0.1, rollout_clip=(0.5, 2.0))
    batch = make_batch()
    expected, expected_gradient_T = batch.loss(config)

    size = len(batch.sources_T)
    is_token_T = torch.arange(2 * size) % 2 == 0
    padded = {}
    for name, value in vars(batch).items():
        filler = {"sources_T": PADDING, "sequence_ids_T": -1}.get(name, garbage)
        padded[name] = torch.full((2 * size,), filler, dtype=value.dtype)
        padded[name][is_token_T] = value
    output, gradient_T = Batch(**padded).loss(config)

    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(gradient_T[is_token_T], expected_gradient_T)
    assert not gradient_T[~is_token_T].any()
    assert output.metrics == expected.metrics


# 7. Who gets a gradient.


@pytest.mark.parametrize("algorithm", PRESETS)
def test_only_policy_and_agent_rows_get_gradient(algorithm):
    batch = make_batch()
    batch.old_logprobs_T = batch.logprobs_T.clone()  # nothing is clipped
    _, gradient_T = batch.loss(make_config(algorithm, kl_coef=0.1))
    bears_loss_T = (batch.sources_T == Source.POLICY) | (batch.sources_T == Source.AGENT)
    assert (gradient_T[bears_loss_T] != 0).all()  # the tags around a reply are AGENT as well
    assert (gradient_T[~bears_loss_T] == 0).all()


# 8. Nothing to learn from.


@pytest.mark.parametrize("estimator", ["mean", "mean_std", "leave_one_out"])
@pytest.mark.parametrize("agent_loss", AGENT_LOSSES)
def test_zero_variance_group_has_zero_gradient(estimator, agent_loss):
    batch = make_batch(num_sequences=3)
    advantages_S = compute_advantages(np.full(3, 0.1), np.zeros(3, int), estimator)
    batch.advantages_T = torch.from_numpy(advantages_S)[batch.sequence_ids_T]
    output, gradient_T = batch.loss(make_config(agent_loss=agent_loss))
    assert output.loss == 0
    assert not gradient_T.any()


@pytest.mark.parametrize("algorithm", PRESETS)
@pytest.mark.parametrize("agent_loss", AGENT_LOSSES)
def test_empty_micro_batch_stays_differentiable(algorithm, agent_loss):
    for sources in ((Source.PROMPT,), (Source.TEMPLATE,)):
        output, gradient_T = make_batch(sources=sources).loss(make_config(algorithm, agent_loss))
        assert output.loss == 0
        assert not gradient_T.any()
    nothing = torch.zeros(0, dtype=torch.long)
    output, gradient_T = make_batch().rows(nothing).loss(make_config(algorithm, agent_loss))
    assert output.loss == 0
    assert gradient_T.shape == (0,)
    assert output.metrics["tokens/policy"] == 0
    assert "policy/ratio" not in output.metrics


@pytest.mark.parametrize("algorithm", PRESETS)
@pytest.mark.parametrize("agent_loss", AGENT_LOSSES)
def test_agent_only_micro_batch_stays_differentiable(algorithm, agent_loss):
    batch = make_batch(sources=(Source.AGENT,))
    output, gradient_T = batch.loss(make_config(algorithm, agent_loss), Normalizer(40, 90, 7))
    assert output.loss.isfinite()
    assert bool(gradient_T.any()) == (agent_loss != "mask")


# 9. The trust region.


@pytest.mark.parametrize("agent_loss", ["aipo", "clone"])
@pytest.mark.parametrize(("advantage", "start"), [(1.0, -6.0), (-1.0, 2.0)])
def test_inner_updates_stop_behind_the_trust_region(agent_loss, advantage, start):
    config = make_config(agent_loss=agent_loss, delta=0.2)
    logit = torch.tensor(start, dtype=torch.float64)
    pi_old = float(logit.sigmoid())
    largest_step = 0.0
    for _ in range(60):
        pi = float(logit.sigmoid())
        coefficient = agent_gradient(math.log(pi), config, advantage=advantage, log_pi_old=math.log(pi_old))
        logit = logit + 0.5 * coefficient * (1 - pi)  # d log pi / d logit
        largest_step = max(largest_step, abs(float(logit.sigmoid()) - pi))
    moved = advantage * (float(logit.sigmoid()) - pi_old)
    assert 0.2 < moved <= 0.2 + largest_step
    assert coefficient == 0


def test_trust_region_lets_a_token_come_back():
    config = make_config(c_min=0.0)
    far, near = math.log(0.9), math.log(0.1)
    assert agent_gradient(far, config, log_pi_old=near, advantage=1.0) == 0
    assert agent_gradient(far, config, log_pi_old=near, advantage=-1.0) == pytest.approx(-0.9)
    assert agent_gradient(near, config, log_pi_old=far, advantage=1.0) == pytest.approx(0.1)
    assert agent_gradient(far, replace(config, delta=INFINITY), log_pi_old=near) == pytest.approx(0.9)


@pytest.mark.parametrize("agent_loss", ["is", "luffy"])
def test_published_forms_have_no_trust_region(agent_loss):
    config = make_config(agent_loss=agent_loss)
    assert "delta" not in AGENT_LOSS_FIELDS[agent_loss]
    assert agent_gradient(math.log(0.9), config, log_pi_old=math.log(0.1)) > 0


def test_repair_16_no_property_is_timed():
    """A deadline for an example fails on a machine under load, and says nothing of the property."""
    assert settings().deadline is None
