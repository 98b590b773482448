"""The adapter on the real `GRPOTrainer`: whose tokens, which advantages, and the gradient of our own trainer."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aipo_env import Segment, Source, Trajectory, sample_advantages, to_training_sample
from aipo_env.errors import ConfigurationError
from algorithms.batch import count_tokens, micro_batches
from algorithms.config import ObjectiveConfig
from algorithms.logprobs import token_logprobs
from algorithms.objective import objective_loss
from algorithms.policies import Policy, load_policy

trl = pytest.importorskip("trl", reason="the adapter needs the extra 'trl'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from algorithms.adapters import trl as adapter

TASK = {"level": 2, "operators": "@", "style": "terse", "prompt": "bare", "max_reply_chars": 40}
SIZE, GROUPS, MICRO = 4, 4, 4


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make(folder: Path, policy: Policy | None = None, **options: Any) -> adapter.AIPOTrainer:
    fields = {name: options.pop(name) for name in list(options) if hasattr(trl.GRPOConfig, name)}
    args = trl.GRPOConfig(
        output_dir=str(folder),
        **{
            "max_steps": 1, "per_device_train_batch_size": MICRO, "gradient_accumulation_steps": SIZE * GROUPS // MICRO,
            "num_generations": SIZE, "max_completion_length": 48, "scale_rewards": "none", "epsilon_high": 0.28,
            "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True,
            "save_strategy": "no", "logging_steps": 1, "dataloader_pin_memory": False,
        } | fields,
    )  # fmt: skip
    policy = policy or load_policy("embedded")
    options = {"env_options": TASK, "processing_class": policy.tokenizer} | options
    return adapter.AIPOTrainer(policy.model, options.pop("env", "rulebook-consult"), args, **options)


def generated(trainer: adapter.AIPOTrainer) -> dict[str, Tensor]:
    """What the trainer learns from, in the order of its trajectories."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = SIZE * GROUPS // MICRO
    batch: dict[str, Tensor] = trainer._generate_and_score_completions(
        [{"task": 11 * group} for group in range(GROUPS) for _ in range(SIZE)]
    )
    return batch


def test_masks_and_advantages_are_those_of_the_samples(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    batch = generated(trainer)
    assert [(t.group, t.sample) for t in trainer.trajectories] == [(g, s) for g in range(GROUPS) for s in range(SIZE)]
    samples = [to_training_sample(t) for t in trainer.trajectories]
    assert [s.solo for s in samples] == [True, True, False, False] * GROUPS
    own_S, reply_S = sample_advantages(samples, self_imitation=1.0)
    assert batch["advantages"].tolist() == own_S.tolist()
    assert batch["agent_advantages"].tolist() == reply_S.tolist()
    assert reply_S.max() == 1.0
    for row, (sample, trajectory) in enumerate(zip(samples, trainer.trajectories, strict=True)):
        ids = [*batch["prompt_ids"][row][batch["prompt_mask"][row] > 0], *batch["completion_ids"][row]]
        assert [int(i) for i in ids[: len(sample.token_ids)]] == trajectory.token_ids
        behind = sample.sources[sample.completion]
        pad = [0] * (batch["completion_mask"].shape[1] - len(behind))
        assert batch["completion_mask"][row].tolist() == [1] * len(behind) + pad
        masked = batch["completion_mask"][row] * batch["tool_mask"][row]
        assert masked.tolist() == [int(s == Source.POLICY) for s in behind] + pad
        assert batch["agent_mask"][row].int().tolist() == [int(s == Source.AGENT) for s in behind] + pad
    assert batch["agent_mask"].any()
    assert int(batch["num_items_in_batch"]) == count_tokens(samples).num_policy_tokens


def edited(trajectory: Trajectory, number: int) -> Trajectory:
    """Rewards of both signs within each mode, costs, and helpers that know their mu in every other row."""

    def known(segment: Segment) -> Segment:
        if segment.source is not Source.AGENT or number % 2:
            return segment
        values = tuple(np.linspace(-3.0, -0.1, len(segment.token_ids)).tolist())
        return dataclasses.replace(segment, logprobs=values, mu_known=True)

    parts = {"outcome": float(number % 3 == 0), "consult_cost": -0.25 * (number % 4 == 3)}
    segments = [known(segment) for segment in trajectory.segments]
    return dataclasses.replace(trajectory, segments=segments, reward=sum(parts.values()), reward_parts=parts)


def our_gradients(
    policy: Policy, trajectories: list[Trajectory], config: ObjectiveConfig, old: dict[str, Tensor] | None
) -> tuple[float, list[Tensor]]:
    """Loss and gradients as `algorithms.trainer` has them; `old`: weights before the first update."""
    samples = [to_training_sample(t) for t in trajectories]
    own_S, reply_S = sample_advantages(
        samples,
        config.policy_rule.advantage,
        policy_baseline=config.policy_baseline,
        agent_baseline=config.agent_baseline,
        self_imitation=config.imitation,
    )
    total = 0.0
    new = {name: value.clone() for name, value in policy.model.state_dict().items()}
    policy.model.zero_grad()
    for part in micro_batches(samples, own_S, 5, pad_id=0, agent_advantages_S=reply_S):

        def logprobs(part: Any = part) -> Tensor:
            return token_logprobs(
                policy.model,
                part.input_ids_BL,
                part.attention_mask_BL,
                part.selected_BL,
                temperature=0.8,
            ).logprobs_T

        before = None
        if old is not None:
            policy.model.load_state_dict(old)
            with torch.no_grad():
                before = logprobs()
            policy.model.load_state_dict(new)
        output = objective_loss(
            logprobs(), before, part.advantages_T, part.sources_T, part.behaviour_logprobs_T, part.sequence_ids_T, config,
            normalizer=count_tokens(samples),
        )  # fmt: skip
        output.loss.backward()  # type: ignore[no-untyped-call]
        total += float(output.loss)
    return total, [p.grad.clone() for p in policy.model.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("loss_type", "scale_rewards", "policy_fields", "own_fields", "moved"),
    [
        ("dapo", "none", {}, {}, False),
        ("dapo", "none", {}, {"agent_weight": 2.0, "delta": 0.02}, True),
        ("dapo", "group", {"advantage": "mean_std"}, {"agent_loss": "clone", "agent_baseline": "group"}, True),
        ("grpo", "none", {"aggregation": "sequence_mean"}, {"policy_baseline": "group"}, False),
        ("dr_grpo", "none", {"aggregation": "constant_length", "constant_length": 48}, {"agent_loss": "luffy"}, True),
        ("dapo", "none", {}, {"agent_loss": "mask"}, True),
    ],
)
def test_loss_and_gradients_are_our_trainers(
    loss_type: str, scale_rewards: str, policy_fields: dict[str, Any], own_fields: dict[str, Any], moved: bool,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """On a fixed batch, in micro-batches; `moved`: with a policy that has left the one which the batch began with."""
    policy = load_policy("embedded")
    play = adapter.play_rows
    monkeypatch.setattr(
        adapter, "play_rows", lambda *args, **kw: [edited(t, i) for i, t in enumerate(play(*args, **kw))]
    )
    trainer = make(
        tmp_path, policy, loss_type=loss_type, scale_rewards=scale_rewards, objective=ObjectiveConfig(**own_fields),
        num_iterations=2 if moved else 1, temperature=0.8,
    )  # fmt: skip
    batch = generated(trainer)
    old = {name: value.clone() for name, value in policy.model.state_dict().items()} if moved else None
    if moved:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    assert ("old_per_token_logps" in batch) == moved
    config = ObjectiveConfig(**policy_fields, **own_fields)
    expected, theirs = our_gradients(policy, trainer.trajectories, config, old)

    parts = SIZE * GROUPS // MICRO
    policy.model.zero_grad()
    total = 0.0
    for part in trl.trainer.utils.split_tensor_dict(batch, parts):
        loss = trainer._compute_loss(trainer.model, part)
        loss.backward()
        total += float(loss.detach())
    ours = [p.grad.clone() for p in policy.model.parameters() if p.grad is not None]
    assert total == pytest.approx(expected, abs=1e-5, rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in theirs)
    assert largest > 0.01
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * largest, rtol=1e-5)
    metrics = trainer._metrics["train"]
    if own_fields.get("agent_loss", "aipo") == "aipo":
        assert np.mean(metrics["agent/floor_fraction"]) > 0
    if "delta" in own_fields:
        assert np.mean(metrics["agent/trust_region_fraction"]) > 0
        assert np.mean(metrics["clip_ratio/region_mean"]) > 0


def test_trl_trains_and_evaluates_alone(tmp_path: Path) -> None:
    """TRL's own loop, its log, and its evaluation, which is solo on test tasks."""
    trainer = make(tmp_path, max_steps=2, eval_tasks=range(8), per_device_eval_batch_size=8, num_generations_eval=2)
    before = [p.clone() for p in trainer.model.parameters()]
    trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    row = trainer.state.log_history[0]
    assert float(row["train/solo_accuracy"]) == 0.0
    assert float(row["train/assisted_accuracy"]) > 0
    assert float(row["rewards/environment/mean"]) == pytest.approx(float(row["reward"]))
    assert 0 < float(row["agent/probability"]) < 1
    found = trainer.evaluate()
    assert len(trainer.trajectories) == 8
    assert not any(t.assisted for t in trainer.trajectories)
    assert {t.task_index for t in trainer.trajectories} <= set(range(8))
    assert found["eval_reward"] == found["eval_train/solo_accuracy"] == 0.0


def test_the_page_has_the_examples_settings() -> None:
    """Those that decide what is learnt; it leaves out what only makes the example quiet."""
    root = Path(__file__).parents[3]
    page = re.search(r"```python\n(.*?)```", (root / "docs/guides/trl.md").read_text(encoding="utf-8"), re.S)
    assert page is not None
    found = []
    for text in (page[1], (root / "examples/trl_aipo.py").read_text(encoding="utf-8")):
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        named = {getattr(call.func, "id", ""): {k.arg: ast.unparse(k.value) for k in call.keywords} for call in calls}
        found.append(named["GRPOConfig"] | {"env_options": named["AIPOTrainer"]["env_options"]})
    quiet = {
        "num_generations_eval", "per_device_eval_batch_size", "gradient_checkpointing", "logging_steps", "save_strategy",
        "report_to", "disable_tqdm", "max_steps", "output_dir",
    }  # fmt: skip
    page_settings, example = ({n: v for n, v in one.items() if n not in quiet} for one in found)
    assert page_settings == example


def test_what_a_fault_cut_bears_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play = adapter.play_rows

    def faulted(*args: Any, **options: Any) -> list[Trajectory]:
        played: list[Trajectory] = play(*args, **options)
        return [dataclasses.replace(t, stop_reason="error", reward=100.0) if t.sample == 3 else t for t in played]

    monkeypatch.setattr(adapter, "play_rows", faulted)
    trainer = make(tmp_path)
    batch = generated(trainer)
    for row in range(3, SIZE * GROUPS, SIZE):
        assert batch["completion_mask"][row].sum() == 1
        assert not (batch["completion_mask"] * batch["tool_mask"])[row].any()
        assert not batch["agent_mask"][row].any()
        assert batch["advantages"][row] == batch["agent_advantages"][row] == 0
    assert torch.isfinite(trainer._compute_loss(trainer.model, batch))
    assert max(trainer._metrics["train"]["reward"]) <= 1


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="LoRA needs peft")
def test_lora_trains_its_adapter_on_replies_alone(tmp_path: Path) -> None:
    """No POLICY gradient (all rewards of a mode are equal): what moves, moved by the AGENT term."""
    from peft import LoraConfig

    policy = load_policy("embedded")
    trainer = make(tmp_path, policy, peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    frozen = {n: p.clone() for n, p in trainer.model.named_parameters() if not p.requires_grad}
    batch = generated(trainer)
    batch["advantages"] = torch.zeros_like(batch["advantages"])
    trainer._compute_loss(trainer.model, batch).backward()
    gradients = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
    assert gradients
    assert all("lora_" in name for name in gradients)
    assert any(bool(gradient.any()) for gradient in gradients.values())
    trainer.train()
    for name, value in frozen.items():
        assert torch.equal(value, dict(trainer.model.named_parameters())[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale_rewards": "batch"}, "no counterpart for replies"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "has one reward"),
        ({"remove_unused_columns": True}, "would remove the tasks"),
        ({"solo_share": 1.5}, "between 0 and 1"),
        ({"solo_share": 0.25}, "nothing|1 is solo"),
        ({"objective": ObjectiveConfig(clip_high=0.5)}, "clip_high is not read here.*GRPOConfig"),
        ({"objective": ObjectiveConfig(agent_normalizer="agent_tokens")}, "agent_normalizer must be 'policy_tokens'"),
        ({"env_options": {**TASK, "split": "test"}}, "training needs tasks"),
    ],
)
def test_what_would_be_wrong_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(tmp_path, **options)


def test_a_solo_environment_has_no_helpers(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is solo"):
        generated(make(tmp_path, env="rulebook", env_options={"level": 2, "operators": "@"}))
