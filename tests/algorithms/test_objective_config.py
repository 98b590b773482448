"""The configuration: presets, overrides, refusals, and that every field changes something."""

import math
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from aipo_env.errors import ConfigurationError
from aipo_env.trajectory import Source
from algorithms.config import AGENT_LOSS_FIELDS, PRESETS, ObjectiveConfig
from algorithms.objective import (
    _AGENT_COEFFICIENTS,
    COEFFICIENT_EDGES,
    AgentTokens,
    Normalizer,
    ObjectiveOutput,
    batch_normalizer,
    objective_loss,
    register_agent_coefficient,
)


@pytest.fixture
def registry() -> Iterator[None]:
    """Forgets what a test registers."""
    before = dict(AGENT_LOSS_FIELDS), dict(_AGENT_COEFFICIENTS)
    yield
    for table, names in zip((AGENT_LOSS_FIELDS, _AGENT_COEFFICIENTS), before, strict=True):
        for name in table.keys() - names.keys():
            table.pop(name)


def example(config: ObjectiveConfig, **options: object) -> ObjectiveOutput:
    """Two sequences: POLICY ratios 1.5, 1, 0.5 (A = 1) and 2 (A = -1); AGENT pi 0.5, 0.01 (A = 1) and 0.8 (A = -1)."""
    return objective_loss(
        torch.tensor([0.3, 0.2, 0.1, 0.5, 0.01, 0.4, 0.8, 0.9]).log(),
        torch.tensor([0.2, 0.2, 0.2, 0.1, 0.01, 0.2, 0.9, 0.9]).log(),
        torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0]),
        torch.tensor([1, 1, 1, 2, 2, 1, 2, 0]),
        torch.tensor([0.6, 0.2, 0.2, 0.1, 1.0, 0.2, 1.0, 1.0]).log(),
        torch.tensor([0, 0, 0, 0, 0, 1, 1, 1]),
        config,
        **{"normalizer": Normalizer(4, 3, 2), **options},
    )


def test_config_needs_no_torch():
    code = "import sys, algorithms.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("algorithm", PRESETS)
def test_preset_is_the_rule(algorithm):
    config = ObjectiveConfig(algorithm=algorithm, constant_length=9 if algorithm == "dr_grpo" else None)
    assert config.policy_rule == PRESETS[algorithm]


def test_overrides_replace_single_entries():
    config = ObjectiveConfig(algorithm="grpo", advantage="mean", clip_high=0.28, aggregation="token_mean", clip_low=0.0)
    rule = config.policy_rule
    assert (rule.advantage, rule.clip_low, rule.clip_high, rule.aggregation) == (
        "mean",
        0.0,
        0.28,
        "token_mean",
    )
    assert (rule.ratio, rule.surrogate) == ("token", "clip")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent_loss": "aippo"}, "did you mean 'aipo'.*register_agent_coefficient"),
        ({"clip_low": 1.5}, "clip_low must be in"),
        ({"clip_high": -0.1}, "clip_high must be at least 0"),
        ({"agent_weight": -1.0}, "agent_loss='mask'"),
        ({"agent_weight": math.nan}, "agent_weight must be"),
        ({"c_min": -0.1}, "c_min must be"),
        ({"c_min": 0.0, "c_max": 0.0}, "c_max must be above 0"),
        ({"c_min": 3.0}, "c_max must be at least c_min=3.0"),
        ({"delta": 0.0}, "delta must be above 0"),
        ({"agent_loss": "luffy", "luffy_gamma": 0.0}, "luffy_gamma must be"),
        ({"kl_coef": -1.0}, "kl_coef must be"),
        ({"rollout_clip": (1.5, 2.0)}, "rollout_clip must be"),
        ({"algorithm": "dr_grpo"}, "constant_length must be set"),
        ({"algorithm": "dr_grpo", "constant_length": 0}, "constant_length must be at least 1"),
        ({"constant_length": 100}, "is read by aggregation='constant_length' only"),
        ({"agent_loss": "mask", "c_min": 0.5}, "c_min is not read by agent_loss='mask'"),
        ({"agent_loss": "luffy", "delta": 0.1}, "delta is not read by agent_loss='luffy'"),
        ({"luffy_gamma": 0.2}, "luffy_gamma is not read by agent_loss='aipo'"),
    ],
)
def test_refusals_say_what_to_change(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ObjectiveConfig(**options)


def test_unknown_names_suggest_the_nearest():
    config = ObjectiveConfig()
    object.__setattr__(config, "algorithm", "dapoo")  # past the run-time type check of the tests
    with pytest.raises(ConfigurationError, match="did you mean 'dapo'"):
        config.__post_init__()
    config = ObjectiveConfig()
    object.__setattr__(config, "advantage", "median")
    with pytest.raises(ConfigurationError, match="advantage must be one of mean, mean_std"):
        config.__post_init__()


def test_with_agent_loss_drops_what_the_variant_does_not_read():
    config = ObjectiveConfig(algorithm="grpo", c_min=0.3, delta=0.1, agent_weight=0.5)
    clone = config.with_agent_loss("clone")
    assert (clone.agent_loss, clone.c_min, clone.delta, clone.agent_weight) == ("clone", 1.0, 0.1, 0.5)
    assert clone.algorithm == "grpo"
    assert config.with_agent_loss("mask") == ObjectiveConfig(algorithm="grpo", agent_loss="mask")
    with pytest.raises(ConfigurationError, match="did you mean 'clone'"):
        config.with_agent_loss("clon")


@pytest.mark.parametrize(
    ("changed", "base"),
    [
        ({"ratio": "sequence"}, {}),
        ({"surrogate": "cispo"}, {}),
        ({"clip_low": 0.6}, {"surrogate": "cispo"}),
        ({"clip_high": 0.5}, {}),
        ({"aggregation": "sequence_mean"}, {}),
        ({"aggregation": "constant_length", "constant_length": 9}, {}),
        ({"constant_length": 8}, {"aggregation": "constant_length", "constant_length": 9}),
        ({"agent_loss": "mask"}, {}),
        ({"agent_loss": "clone"}, {}),
        ({"agent_loss": "is"}, {}),
        ({"agent_loss": "luffy"}, {}),
        ({"agent_weight": 0.5}, {}),
        ({"agent_normalizer": "agent_tokens"}, {}),
        ({"c_min": 0.5}, {}),
        ({"c_max": 1.0}, {"delta": 1.0}),
        ({"delta": 0.5}, {}),
        ({"luffy_gamma": 0.2}, {"agent_loss": "luffy"}),
        ({"kl_coef": 0.1}, {}),
        ({"rollout_clip": (0.5, 2.0)}, {}),
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_every_field_changes_the_loss(changed, base):
    reference = torch.full((8,), 0.3).log()
    before = example(ObjectiveConfig(**base), reference_logprobs_T=reference).loss
    after = example(ObjectiveConfig(**{**base, **changed}), reference_logprobs_T=reference).loss
    assert after != before


def test_agent_normalizer_weighs_an_agent_token_like_an_average_policy_token():
    def agent_term(**options: object) -> float:
        return float(example(ObjectiveConfig(**options)).sums["loss/agent"])

    total = agent_term(agent_normalizer="agent_tokens") * 3
    assert agent_term() == pytest.approx(total / 4)
    assert agent_term(aggregation="sequence_mean") == pytest.approx(total / 4)
    assert agent_term(aggregation="constant_length", constant_length=9) == pytest.approx(total / (2 * 9))


def test_metrics_by_hand():
    config = ObjectiveConfig(clip_low=0.2, clip_high=0.2, rollout_clip=(0.5, 2.0))
    metrics = example(config).metrics
    expected = {
        "tokens/prompt": 1,
        "tokens/policy": 4,
        "tokens/agent": 3,
        "tokens/template": 0,
        "policy/clip_fraction": 1 / 4,  # the ratio 1.5 at A = 1; 0.5 at A = 1 and 2 at A = -1 are not clipped
        "policy/ratio": (1.5 + 1 + 0.5 + 2) / 4,
        "policy/approx_kl": sum(1 / r - 1 + math.log(r) for r in (1.5, 1, 0.5, 2)) / 4,
        "policy/rollout_ratio": (1 / 3 + 3) / 4,
        "policy/rollout_clip_fraction": 1 / 4,
        "agent/coefficient": (0 + 1 + 0.8) / 3,  # cap 2 but outside the trust region, floor, pi
        **{f"agent/coefficient_from/{edge:g}": (edge in (0, 0.5, 1)) / 3 for edge in COEFFICIENT_EDGES},
        "agent/floor_fraction": 1 / 3,
        "agent/cap_fraction": 1 / 3,
        "agent/trust_region_fraction": 1 / 3,
        "agent/probability": (0.5 + 0.01 + 0.8) / 3,
        "agent/mu_known_fraction": 1 / 3,
    }
    losses = {name: metrics.pop(name) for name in ("loss/policy", "loss/agent")}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert metrics.keys() == expected.keys()
    assert sum(losses.values()) == pytest.approx(float(example(config).loss), rel=1e-6)


def test_own_coefficient(registry):
    def half_for_good_tokens(tokens: AgentTokens, config: ObjectiveConfig) -> torch.Tensor:
        assert not tokens.logprobs_A.requires_grad
        return 0.5 * (tokens.advantages_A > 0).float()

    register_agent_coefficient("half", half_for_good_tokens)
    config = ObjectiveConfig(agent_loss="half", delta=math.inf)
    assert example(config).metrics["agent/coefficient"] == pytest.approx(1 / 3)
    assert example(ObjectiveConfig(agent_loss="half")).metrics["agent/coefficient"] == pytest.approx(0.5 / 3)
    with pytest.raises(ConfigurationError, match="already registered"):
        register_agent_coefficient("half", half_for_good_tokens)
    with pytest.raises(ConfigurationError, match="already registered"):
        register_agent_coefficient("aipo", half_for_good_tokens)


def test_own_coefficient_is_detached(registry):
    learnt = torch.tensor(0.5, requires_grad=True)
    register_agent_coefficient("learnt", lambda tokens, config: learnt * torch.ones_like(tokens.logprobs_A))
    output = example(ObjectiveConfig(agent_loss="learnt"))
    assert not output.loss.requires_grad


def test_own_coefficient_must_not_reduce(registry):
    register_agent_coefficient("mean", lambda tokens, config: tokens.logprobs_A.mean())
    with pytest.raises(ConfigurationError, match="one weight per AGENT token"):
        example(ObjectiveConfig(agent_loss="mean"))


def test_kl_needs_the_reference():
    with pytest.raises(ConfigurationError, match="needs reference_logprobs_T"):
        example(ObjectiveConfig(kl_coef=0.1))


def test_reference_without_penalty_is_measured_only():
    reference = torch.full((8,), 0.3).log()
    measured = example(ObjectiveConfig(), reference_logprobs_T=reference)
    assert measured.loss == example(ObjectiveConfig()).loss
    assert measured.metrics["policy/reference_kl"] > 0


def test_without_old_logprobs_the_current_policy_is_the_old_one():
    logprobs_T = torch.tensor([-1.0, -2.0], requires_grad=True)
    arguments = (
        torch.tensor([1.0, -1.0]),
        torch.tensor([1, 2]),
        torch.zeros(2),
        torch.zeros(2, dtype=torch.long),
    )
    losses = [
        objective_loss(logprobs_T, old, *arguments, ObjectiveConfig(), normalizer=Normalizer(1, 1, 1))
        for old in (None, logprobs_T.detach())
    ]
    gradients = [torch.autograd.grad(output.loss, logprobs_T)[0] for output in losses]
    assert torch.equal(gradients[0], gradients[1])
    assert losses[0].metrics == losses[1].metrics


def test_only_the_current_policy_gets_a_gradient():
    """Passing the current log-probabilities as the old ones, still on their graph, must not cancel the gradient."""

    def gradients(old_on_graph: bool) -> list[torch.Tensor | None]:
        inputs = [torch.tensor([-1.0, -2.0], requires_grad=True) for _ in range(4)]
        logprobs_T, advantages_T, mu_logprobs_T, reference_logprobs_T = inputs
        objective_loss(
            logprobs_T,
            logprobs_T if old_on_graph else None,
            advantages_T,
            torch.tensor([1, 2]),
            mu_logprobs_T,
            torch.tensor([0, 0]),
            ObjectiveConfig(kl_coef=0.1, rollout_clip=(0.5, 2.0)),
            normalizer=Normalizer(1, 1, 1),
            reference_logprobs_T=reference_logprobs_T,
        ).loss.backward()
        return [tensor.grad for tensor in inputs]

    (gradient, *others), (expected, *_) = gradients(True), gradients(False)
    assert gradient is not None
    assert gradient.all()
    assert torch.equal(gradient, expected)
    assert others == [None, None, None]


def test_low_precision_is_computed_in_float32():
    logprobs_T = torch.tensor([-1.0, -0.5]).bfloat16()
    zeros = torch.zeros(2)
    sources_T, ids_T = torch.tensor([1, 1]), torch.zeros(2, dtype=torch.long)
    output = objective_loss(
        logprobs_T,
        None,
        zeros + 1,
        sources_T,
        zeros,
        ids_T,
        ObjectiveConfig(),
        normalizer=Normalizer(2, 0, 1),
    )
    assert output.loss.dtype == torch.float32


def test_normalizer_counts():
    sources_T = torch.tensor([int(s) for s in (Source.POLICY, Source.AGENT, Source.POLICY, Source.TEMPLATE, -1)])
    assert batch_normalizer(sources_T, torch.tensor([7, 7, 3, 5, -1])) == Normalizer(2, 1, 2)
