from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aipo_env import Source, read_traces, to_training_sample
from aipo_env.cli import main
from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from algorithms.batch import micro_batches
from algorithms.checkpoint import list_checkpoints, load_checkpoint
from algorithms.config import ObjectiveConfig
from algorithms.logprobs import token_logprobs
from algorithms.policies import Policy, load_policy
from algorithms.policies.adapters import add_adapter, without_adapter
from algorithms.policies.loading import default_learning_rate
from algorithms.rollout_command import load_codec
from algorithms.train_config import LoraConfig, TrainConfig
from algorithms.trainer import Trainer
from benchmarks.evaluation import EvaluationConfig, evaluate_policy
from tests.algorithms.test_trainer import config, equal, make, weights, without_times
from tests.algorithms.tiny import tiny_policy

LORA = LoraConfig(rank=3, alpha=12)


def with_adapter(architecture: str = "llama", lora: LoraConfig = LORA) -> Policy:
    """A tiny policy whose adapter already changes what it does."""
    policy = tiny_policy(architecture)
    add_adapter(policy, lora, seed=5)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
    return policy


def merged_by_hand(policy: Policy, architecture: str, lora: LoraConfig = LORA) -> Policy:
    """The plain policy with W + alpha / rank * B A in place of W."""
    plain = tiny_policy(architecture)
    adapted = dict(policy.model.named_parameters())
    with torch.no_grad():
        for name, weight in plain.model.named_parameters():
            stem = name.removesuffix(".weight")
            if (first := adapted.get(f"{stem}.lora_A.default.weight")) is not None:
                weight += lora.scale / lora.rank * adapted[f"{stem}.lora_B.default.weight"] @ first
    return plain


def logprobs(policy: Policy) -> torch.Tensor:
    ids = torch.arange(60).reshape(3, 20) % 90 + 10
    selected = torch.zeros(3, 20, dtype=torch.bool)
    selected[:, 8:] = True
    return token_logprobs(policy.model, ids, torch.ones_like(ids), selected, prompt_lengths_B=[8] * 3).logprobs_T


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox", "lfm2", "qwen3_5"])
def test_values_and_gradients_are_those_of_the_merged_weights(architecture: str) -> None:
    policy = with_adapter(architecture)
    plain = merged_by_hand(policy, architecture)
    assert not torch.allclose(logprobs(plain), logprobs(tiny_policy(architecture)), atol=1e-2)
    for each in (policy, plain):
        logprobs(each).sum().backward()
    torch.testing.assert_close(logprobs(policy), logprobs(plain), rtol=1e-5, atol=1e-5)
    adapted, gradients = dict(policy.model.named_parameters()), dict(plain.model.named_parameters())
    found = 0
    for name, parameter in adapted.items():
        if ".lora_A." in name:
            stem = name.removesuffix(".lora_A.default.weight")
            second, whole = adapted[f"{stem}.lora_B.default.weight"], gradients[f"{stem}.weight"].grad
            assert whole is not None
            # The chain rule through W + 4 B A.
            torch.testing.assert_close(parameter.grad, 4 * second.T @ whole, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(second.grad, 4 * whole @ parameter.T, rtol=1e-3, atol=1e-4)
            found += 1
        elif "lora_" not in name:
            assert parameter.grad is None
            assert not parameter.requires_grad
    assert found >= 8


def test_without_its_adapter_a_model_is_what_it_was_and_the_seed_decides_the_adapter() -> None:
    policy, start = with_adapter(), tiny_policy()
    trained = [p.requires_grad for p in policy.model.parameters()]
    with without_adapter(policy.model):
        assert torch.equal(logprobs(policy), logprobs(start))
    assert [p.requires_grad for p in policy.model.parameters()] == trained
    assert not torch.allclose(logprobs(policy), logprobs(start), atol=1e-2)
    state = torch.get_rng_state()
    adapters = [weights_of(seed) for seed in (5, 5, 6)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(adapters[0], adapters[1])
    assert not torch.equal(adapters[0], adapters[2])


def weights_of(seed: int) -> torch.Tensor:
    policy = tiny_policy()
    add_adapter(policy, LORA, seed)
    # A fresh one changes nothing.
    assert torch.equal(logprobs(policy), logprobs(tiny_policy()))
    return torch.cat([p.detach().flatten() for n, p in policy.model.named_parameters() if "lora_A" in n])


def test_a_resumed_run_is_bit_identical_and_trains_the_adapter_alone(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "lora": LORA,
        "updates_per_batch": 2,
        "objective": ObjectiveConfig(kl_coef=0.1),
        "eval_tasks": 1,
    }
    whole = make(tmp_path / "whole", **fields)
    before = weights(whole)
    history = whole.train()
    make(tmp_path / "part", steps=2, **fields).train()
    resumed = make(tmp_path / "part", **fields)
    again = resumed.train()
    assert equal(weights(resumed), weights(whole))
    assert without_times(again)[3:] == without_times(history)[3:]
    for name, value in weights(whole).items():
        assert torch.equal(value, before[name]) is ("lora_" not in name), name
    # Checkpoints hold what is trained, and no more.
    saved = load_checkpoint(list_checkpoints(tmp_path / "part" / "checkpoints")[-1])
    assert set(saved["model"]) == {name for name in before if "lora_" in name}
    other = make(tmp_path / "other")
    with pytest.raises(DataFormatError, match="of another policy"):
        other.load_state(saved)


def test_rollouts_sample_with_the_adapter_and_the_reference_is_without(tmp_path: Path) -> None:
    trainer = make(tmp_path, lora=LORA, objective=ObjectiveConfig(kl_coef=0.1), learning_rate=0.1)
    full = make(tmp_path, objective=ObjectiveConfig(kl_coef=0.1))
    for _ in range(3):
        trainer.train_step()
    trajectories = trainer.collect()
    samples = [to_training_sample(trajectory) for trajectory in trajectories]
    parts = micro_batches(samples, np.zeros(len(samples)), 8, pad_id=0)
    learner, start = trainer._logprobs(trainer.model, parts), full._logprobs(full.model, parts)
    for index, part in enumerate(parts):
        own = part.sources_T == Source.POLICY
        torch.testing.assert_close(learner[index][own], part.behaviour_logprobs_T[own], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(learner[index], start[index], atol=1e-2)
    assert trainer._reference is not None
    assert trainer._reference is trainer.model
    with without_adapter(trainer.model):
        for reference, expected in zip(trainer._logprobs(trainer._reference, parts), start, strict=True):
            assert torch.equal(reference, expected)
    metrics = trainer.update(trajectories)
    # k3 of what was sampled, at the first pass of this update.
    assert metrics["policy/reference_kl"] > 1e-4


def run(tmp_path: Path, rows: int | None = None, **lora: Any) -> Trainer:
    start = tiny_policy()
    if rows is not None:
        start.model.resize_token_embeddings(rows)
        start.model.config.tie_word_embeddings = True
        start.model.tie_weights()
    start.save(tmp_path / "start")
    trainer = Trainer(
        config(tmp_path / "run", policy=str(tmp_path / "start"), steps=1, lora=LoraConfig(rank=2, **lora))
    )
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    trainer.train()
    return trainer


def test_a_run_leaves_an_adapter_that_is_loaded_evaluated_and_trained_on_no_further(tmp_path: Path) -> None:
    trainer = run(tmp_path)
    folder = tmp_path / "run" / "policy"
    assert not (folder / "model.safetensors").exists()
    assert (folder / "adapter_model.safetensors").stat().st_size < 100_000
    loaded = load_policy(str(folder))
    assert loaded.name == str(folder)
    assert loaded.codec.fingerprint == load_codec(str(folder)).fingerprint == trainer.policy.codec.fingerprint
    torch.testing.assert_close(logprobs(loaded), logprobs(trainer.policy), rtol=1e-5, atol=1e-5)
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    options = {
        "suite": "rulebook",
        "policy": str(folder),
        "mode": "solo",
        "samples": 1,
        "num_tasks": 2,
        "max_tokens": 8,
    }
    result = evaluate_policy(EvaluationConfig(**options, out=tmp_path / "eval"))  # type: ignore[arg-type]
    assert result is not None
    with pytest.raises(ConfigurationError, match="an adapter already"):
        Trainer(config(tmp_path / "again", policy=str(folder), lora=LORA))
    with pytest.raises(ConfigurationError, match="loads whole models"):
        evaluate_policy(EvaluationConfig(**options, backend="vllm", out=tmp_path / "vllm"))  # type: ignore[arg-type]
    loaded.save(tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").exists()


@pytest.mark.parametrize("rows", [None, 128])
def test_merged_on_request_also_where_a_tied_vocabulary_is_padded(tmp_path: Path, rows: int | None) -> None:
    trainer = run(tmp_path, rows, merge=True)
    assert trainer.model.get_output_embeddings().out_features == rows or rows is None
    for name in ("policy", "best"):
        folder = tmp_path / "run" / name
        assert not list(folder.glob("adapter*"))
        loaded = load_policy(str(folder))
        torch.testing.assert_close(logprobs(loaded), logprobs(trainer.policy), rtol=1e-5, atol=1e-5)
        assert (loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight) is (rows is not None)


def test_an_adapter_without_its_policy_says_so(tmp_path: Path) -> None:
    policy = with_adapter()
    policy.save(tmp_path)
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(
            json.loads((tmp_path / "adapter_config.json").read_text())
            | {"base_model_name_or_path": str(tmp_path / "x")}
        )
    )
    with pytest.raises(DataNotFoundError, match="x"):
        load_policy(str(tmp_path))
    tiny_policy(hidden=64).save(tmp_path / "x")
    with pytest.raises(DataFormatError, match="does not fit"):
        load_policy(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(DataFormatError, match="which policy"):
        load_policy(str(tmp_path))


@pytest.mark.parametrize(
    ("architecture", "targets", "message"),
    [
        ("llama", ("embed_tokens",), "embedding or the output layer"),
        ("gpt_neox", ("lm_head",), "embedding or the output layer"),
        ("llama", ("nothing",), "ends of their names"),
        ("falcon_h1", ("all-linear",), "ends of their names"),
    ],
)
def test_targets_that_do_not_fit_are_refused(architecture: str, targets: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        add_adapter(tiny_policy(architecture), LoraConfig(rank=2, targets=targets), seed=0)


def test_targets_choose_the_layers() -> None:
    policy = with_adapter(lora=LoraConfig(rank=2, targets=("q_proj", "v_proj")))
    adapted = {name.split(".")[4] for name, _ in policy.model.named_parameters() if "lora_" in name}
    assert adapted == {"q_proj", "v_proj"}


def test_options_without_an_adapter_are_refused() -> None:
    for fields in ({"alpha": 3}, {"merge": True}, {"targets": ("q_proj",)}):
        with pytest.raises(ConfigurationError, match=r"lora\.rank"):
            LoraConfig(**fields)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="rank >= 0"):
        LoraConfig(rank=-1)
    assert LoraConfig(rank=8).scale == 16
    assert default_learning_rate(tiny_policy(), adapter=True) == pytest.approx(3e-3)
    assert TrainConfig().lora.rank == 0


def test_the_command_trains_an_adapter(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        "train",
        "--lora.rank",
        "2",
        "--lora.targets",
        "q_proj",
        "--steps",
        "1",
        "--prompts-per-step",
        "1",
        "--quiet",
    ]
    command += [
        "--samples-per-prompt",
        "2",
        "--solo-share",
        "1",
        "--eval-tasks",
        "1",
        "--eval-samples",
        "1",
        "--out",
        str(out),
    ]
    assert main([*command, "--sampling.max-tokens", "8", "--trace-every", "1"]) == 0
    assert json.loads((out / "policy" / "adapter_config.json").read_text())["base_model_name_or_path"] == "embedded"
    assert list(read_traces(out / "traces.jsonl"))
    assert load_policy(str(out / "policy")).model.config.vocab_size == load_policy("embedded").model.config.vocab_size
