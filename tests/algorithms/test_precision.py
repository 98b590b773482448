from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from aipo_env.errors import ConfigurationError, DataFormatError, MissingDependencyError
from algorithms.logprobs import token_logprobs
from algorithms.policies import Policy, load_policy
from algorithms.policies.loading import in_bfloat16
from algorithms.precision import TrainedWeights, lower, make_optimizer, recomputing, rounding, set_learning_rate
from algorithms.train_config import LoraConfig, TrainConfig
from tests.algorithms.test_trainer import equal, make, weights, without_times
from tests.algorithms.tiny import tiny_policy

ARCHITECTURES = ("llama", "qwen2", "gpt_neox", "lfm2", "qwen3_5")


def logprobs(policy: Policy, shared: bool = True) -> torch.Tensor:
    ids = torch.arange(60).reshape(3, 20) % 90 + 10
    ids[:, :8] = ids[0, :8]
    selected = torch.zeros(3, 20, dtype=torch.bool)
    selected[:, 8:] = True
    lengths = [8] * 3 if shared else None
    return token_logprobs(policy.model, ids, torch.ones_like(ids), selected, prompt_lengths_B=lengths).logprobs_T


def gradients(policy: Policy) -> torch.Tensor:
    found = TrainedWeights(policy.model)
    found.zero_gradients()
    logprobs(policy).sum().backward()
    return torch.cat([p.grad.float().flatten() for p in policy.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lowered_is_what_transformers_loads_in_bf16(architecture: str, tmp_path: Path) -> None:
    tiny_policy(architecture).save(tmp_path)
    loaded, lowered = load_policy(str(tmp_path), dtype="bfloat16"), tiny_policy(architecture)
    TrainedWeights(lowered.model, bfloat16=True)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for model in (loaded.model, lowered.model):
        for own, their in (
            (model.named_parameters, theirs.named_parameters),
            (model.named_buffers, theirs.named_buffers),
        ):
            found, expected = dict(own()), dict(their())
            assert {n: v.dtype for n, v in found.items()} == {n: v.dtype for n, v in expected.items()}
            assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bf16_passes_are_the_fp32_ones_up_to_rounding(architecture: str) -> None:
    plain, lowered = tiny_policy(architecture), tiny_policy(architecture)
    trained = TrainedWeights(lowered.model, bfloat16=True)
    torch.testing.assert_close(logprobs(lowered), logprobs(plain), rtol=0.0, atol=0.1)
    expected = gradients(plain)
    trained.zero_gradients()
    logprobs(lowered).sum().backward()
    found = torch.cat([master.grad.flatten() for master in trained.masters.values() if master.grad is not None])
    assert found.dtype == torch.float32
    assert float(torch.cosine_similarity(found, expected, dim=0)) > 0.995
    assert float(found.norm() / expected.norm()) == pytest.approx(1.0, abs=0.03)


def test_gradients_are_summed_in_fp32_and_freed() -> None:
    model = nn.Linear(1, 1, bias=False)
    trained = TrainedWeights(model, bfloat16=True)
    trained.zero_gradients()
    for factor in (256.0, 1.0, 1.0):
        (model.weight * factor).sum().backward()
    # bf16 has no 257.
    (master,) = trained.masters.values()
    assert float(master.grad) == 258.0  # type: ignore[arg-type]
    trained.drop_gradients()
    assert master.grad is None
    assert model.weight.grad is None


def test_masters_take_steps_that_bf16_cannot_and_the_model_follows() -> None:
    model = nn.Linear(64, 64, bias=False)
    start = model.weight.detach().clone()
    trained = TrainedWeights(model, bfloat16=True)
    config = TrainConfig(learning_rate=1e-5)
    optimizer = make_optimizer(config, trained)
    plain = nn.Parameter(start.clone())
    reference = torch.optim.AdamW([plain], lr=1e-5, betas=config.betas, weight_decay=0.0)
    for step in range(40):
        trained.zero_gradients()
        (model.weight * start.sign() * (step + 1)).sum().backward()
        plain.grad = (start.sign() * (step + 1)).clone()
        before = model.weight.detach().clone()
        optimizer.step()
        reference.step()
        assert torch.equal(model.weight, before)
        trained.update()
    (master,) = trained.masters.values()
    torch.testing.assert_close(master.data, plain.data, rtol=1e-6, atol=1e-8)
    assert torch.equal(model.weight, master.bfloat16())
    assert not torch.equal(model.weight, start.bfloat16())


needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None,
    reason="needs torchao, which prints on standard error wherever transformers is imported: pip install -e '.[lowbit]'",
)
EIGHT_BITS = [pytest.param({"optimizer": f"adamw8bit{kind}"}, marks=needs_torchao) for kind in ("", "_stochastic")]


@pytest.mark.parametrize("fields", [{}, {"lora": LoraConfig(rank=3)}, *EIGHT_BITS])
def test_a_resumed_run_in_bf16_is_bit_identical(tmp_path: Path, fields: dict[str, Any]) -> None:
    options = {"dtype": "bfloat16", "eval_tasks": 1, "steps": 3, "checkpoint_every": 2, "recompute": True, **fields}
    whole = make(tmp_path / "whole", **options)
    assert whole.model.model.embed_tokens.weight.dtype == torch.bfloat16
    history = whole.train()
    make(tmp_path / "part", **(options | {"steps": 2})).train()
    resumed = make(tmp_path / "part", **options)
    again = resumed.train()
    assert equal(weights(resumed), weights(whole))
    assert equal(resumed.weights.state(), whole.weights.state())
    assert without_times(again)[3:] == without_times(history)[3:]
    dtypes = {master.dtype for master in whole.weights.masters.values()}
    assert dtypes == {torch.bfloat16 if fields.get("optimizer") == "adamw8bit_stochastic" else torch.float32}
    assert all(master.grad is None for master in whole.weights.masters.values())


def follow(name: str, dtype: torch.dtype, rate: float, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where an optimizer and plain fp32 AdamW go from 1 with the same gradients."""
    model = nn.Linear(128, 64, bias=False)
    nn.init.ones_(model.weight)
    trained = TrainedWeights(model, bfloat16=dtype == torch.bfloat16, with_masters=False)
    config = TrainConfig(optimizer=name, dtype="bfloat16", learning_rate=rate)  # type: ignore[arg-type]
    optimizer = make_optimizer(config, trained)
    plain = nn.Parameter(torch.ones(64, 128))
    reference = torch.optim.AdamW([plain], lr=rate, betas=config.betas, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        trained.zero_gradients()
        gradient = torch.rand(64, 128, generator=generator) + 0.5
        model.weight.grad, plain.grad = gradient.clone(), gradient
        state = torch.get_rng_state()
        with rounding(config, step):
            optimizer.step()
        assert torch.equal(torch.get_rng_state(), state)
        reference.step()
    return model.weight.detach().float(), plain.detach()


@needs_torchao
def test_8_bit_moments_go_where_adamw_goes() -> None:
    found, expected = follow("adamw8bit", torch.float32, 1e-2, 30)
    assert float((1 - expected).mean()) == pytest.approx(0.3, abs=0.02)
    assert float((found - expected).abs().mean() / (1 - expected).mean()) < 0.05
    assert not torch.equal(found, expected)


@needs_torchao
def test_stochastic_rounding_keeps_small_steps_on_the_mean() -> None:
    # The step is 1/40 of what bf16 has between 1 and the number below: to the nearest, none would be taken.
    found, expected = follow("adamw8bit_stochastic", torch.bfloat16, 1e-4, 40)
    nearest = torch.ones(1, dtype=torch.bfloat16) - 1e-4
    assert float(nearest) == 1.0
    assert float((1 - found).mean()) == pytest.approx(float((1 - expected).mean()), rel=0.1)
    assert len(found.unique()) > 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recomputed_activations_change_no_value(architecture: str) -> None:
    policy, other = tiny_policy(architecture), tiny_policy(architecture)
    expected, plain = logprobs(policy), gradients(policy)
    calls: list[int] = []
    with recomputing(other.model, True):
        for norm in [m for n, m in other.model.named_modules() if n.endswith(("input_layernorm", "operator_norm"))]:
            norm.register_forward_hook(lambda *_: calls.append(1))
        torch.testing.assert_close(logprobs(other), expected, rtol=1e-5, atol=1e-5)
        calls.clear()
        torch.testing.assert_close(gradients(other), plain, rtol=1e-4, atol=1e-5)
        # Two layers, forward and once more.
        assert len(calls) == 4
        assert not any(m.training for m in other.model.modules() if isinstance(m, nn.Dropout))
    assert not any(m.training or getattr(m, "gradient_checkpointing", False) for m in other.model.modules())
    calls.clear()
    gradients(other)
    assert len(calls) == 4 if architecture not in ("lfm2", "qwen3_5") else len(calls) == 2


def test_layers_that_cannot_be_recomputed_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="recompute=True"), recomputing(nn.Linear(1, 1), True):
        pass


def test_recompute_is_what_an_update_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for on in (False, True):
        trainer = make(tmp_path, recompute=on, updates_per_batch=1)
        shared: list[bool] = []
        inner = trainer._token_logprobs

        def seen(model: Any, part: Any, inner: Any = inner, shared: list[bool] = shared) -> torch.Tensor:
            shared.append(any(getattr(m, "gradient_checkpointing", False) for m in model.modules()))
            return inner(model, part)

        monkeypatch.setattr(trainer, "_token_logprobs", seen)
        trainer.train_step()
        assert set(shared) == {on}
        found[on] = weights(trainer)
    for name in found[True]:
        torch.testing.assert_close(found[True][name], found[False][name], rtol=1e-3, atol=1e-3)


def test_what_fits_is_decided_by_size_and_device() -> None:
    assert [in_bfloat16("auto", tiny, device) for tiny in (True, False) for device in ("cpu", "cuda:1")] == [
        False
    ] * 3 + [True]
    assert in_bfloat16("bfloat16", True, "cpu")
    assert not in_bfloat16("float32", False, "cuda")


def test_contradictions_are_refused(tmp_path: Path) -> None:
    for fields in ({"dtype": "float32"}, {"lora": LoraConfig(rank=2), "dtype": "bfloat16"}):
        with pytest.raises(ConfigurationError, match="stochastic"):
            TrainConfig(optimizer="adamw8bit_stochastic", **fields)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match='set dtype="bfloat16"'):
        make(tmp_path, optimizer="adamw8bit_stochastic")
    trained = TrainedWeights(tiny_policy().model)
    with pytest.raises(DataFormatError, match="another policy"):
        trained.load_state(tiny_policy(hidden=64).model.state_dict())


@needs_torchao
def test_learning_rates_are_set_in_place_where_they_are_tensors() -> None:
    trained = TrainedWeights(nn.Linear(2, 2))
    for name in ("adamw", "adamw8bit"):
        optimizer = make_optimizer(TrainConfig(optimizer=name, learning_rate=0.5), trained)  # type: ignore[arg-type]
        held = optimizer.param_groups[0]["lr"]
        set_learning_rate(optimizer, 0.25)
        assert float(optimizer.param_groups[0]["lr"]) == 0.25
        assert not isinstance(held, torch.Tensor) or held is optimizer.param_groups[0]["lr"]


def test_what_a_class_keeps_in_fp32_stays() -> None:
    model = copy.deepcopy(tiny_policy().model)
    model._keep_in_fp32_modules_strict = {"q_proj"}
    lower(model)
    kept = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float32}
    assert kept == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)}


def test_what_needs_torchao_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"lowbit"):
        make_optimizer(TrainConfig(optimizer="adamw8bit"), TrainedWeights(nn.Linear(2, 2)))
