"""Nine ways in which the training of several roles goes wrong elsewhere, a test each that fails where ours does the same.

The ninth, a role that nobody asks in a step, is `test_a_step_in_which_nobody_asks_is_legal` of test_multi_agent.py.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aipo_env.errors import ConfigurationError
from aipo_env.grading import Grade, Verdict
from aipo_env.protocol import TurnRequest
from aipo_env.tasks.base import Task
from aipo_env.tasks.rulebook import RulebookTasks
from aipo_env.training_sample import to_training_sample
from algorithms import multi_agent
from algorithms.config import ObjectiveConfig
from algorithms.multi_agent import HelperTrainer, MultiAgentTrainer
from algorithms.objective import Normalizer, objective_loss
from algorithms.policies import load_policy
from algorithms.train_config import HelperConfig, LoraConfig, SamplingConfig, TrainConfig
from benchmarks.roles.setting import RULES


@pytest.fixture(autouse=True)
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are right where they are even, so that both roles have rewards that differ from the first step on."""

    def grade(self: RulebookTasks, task: Task, answer: str) -> Grade:
        correct = answer[-1:] in tuple("02468")
        return Grade(correct, Verdict.CORRECT if correct else Verdict.WRONG, "even", answer)

    monkeypatch.setattr(RulebookTasks, "grade", grade)


def config(out: Path, **options: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "env_options": RULES, "out": out, "steps": 1, "prompts_per_step": 6, "samples_per_prompt": 4, "eval_tasks": 1,
        "eval_samples": 1, "eval_every": 0, "trace_every": 0, "learning_rate": 1e-2, "warmup_steps": 0,
        "sampling": SamplingConfig(max_tokens=48),
    }  # fmt: skip
    return TrainConfig(**settings | options)


def team(out: Path, **options: Any) -> MultiAgentTrainer:
    helper = {
        "helper_policy": options.pop("helper_policy", "embedded"),
        "helper_phase": "alternate:1",
        "helper_max_tokens": 20,
    }
    return MultiAgentTrainer(
        config(out, **options), HelperConfig("knowledge", helper_queries=6, helper_replies=4, **helper)
    )


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def same(mine: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def test_role_capture(tmp_path: Path) -> None:
    """A role's step moves its own weights alone, by statistics of its own batch, and says how large its gradient was."""
    both = team(tmp_path)
    assert both.trainer is not None
    for one, other in ((both.helper, both.trainer), (both.trainer, both.helper)):
        before, still = weights(one.model), weights(other.model)
        metrics, trajectories = one.train_step()
        assert metrics["grad_norm"] > 0
        assert not same(before, weights(one.model))
        assert same(still, weights(other.model))
        assert {t.env_id.endswith("/knowledge") for t in trajectories} == {one is both.helper}
        assert all(parameter.grad is None for parameter in other.model.parameters())


def test_lazy_agents() -> None:
    """An episode of three turns is not worth less a token than one of a single turn: nobody is paid for keeping still."""
    sources = torch.zeros(16, dtype=torch.long) + 1
    sources[8], sources[12] = 2, 2  # between the turns of the second a helper speaks
    policy = sources == 1
    logprobs = torch.full((16,), -1.0, requires_grad=True)
    episodes, ones = torch.tensor([0] * 4 + [1] * 12), torch.ones(16)
    for objective in (ObjectiveConfig(), ObjectiveConfig(agent_loss="mask", policy_baseline="group")):
        counts = Normalizer(int(policy.sum()), 2, 2)
        output = objective_loss(
            logprobs, None, ones, sources, logprobs.detach(), episodes, objective, normalizer=counts
        )
        (gradient,) = torch.autograd.grad(output.loss, logprobs)
        assert gradient[0] < 0
        torch.testing.assert_close(gradient[policy], gradient[0].expand(14))


class Asks:
    """A policy that asks three times of every second task, and once of the others."""

    name = "asks"
    backend = types.SimpleNamespace(forget=lambda: None)

    async def act(self, request: TurnRequest) -> str:
        often = int(request.transcript[0]) % 2
        return '<consult agent="knowledge">473@128</consult>' if request.turn <= 2 * often else r"\boxed{2}"


def test_rows_are_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An episode that asks three times gives as many samples as one that asks once."""
    monkeypatch.setattr(multi_agent, "local_policy", lambda *given: Asks())
    settings = config(tmp_path, solo_share=1.0, sampling=SamplingConfig(max_tokens=400))
    one = HelperTrainer(settings, "knowledge", load_policy("embedded"), max_reply_tokens=20)
    groups = [t.group for t in one.collect()]
    assert [groups.count(group) for group in sorted(set(groups))] == [4] * 6
    asked = [branch.episode.num_consults for branches in one._branches for branch in branches]
    assert set(asked) == {1, 3}


# What a helper's run shares with the policy's: optimizer, precision, adapters, evaluation, files, sampling.
SHARED = {
    "env", "env_options", "eval_env", "eval_options", "allow_test_split", "agents", "dtype", "optimizer", "recompute", "lora",
    "sampling", "learning_rate", "warmup_steps", "final_learning_rate", "betas", "weight_decay", "max_grad_norm",
    "micro_batch_size", "packing", "eval_every", "eval_tasks", "eval_samples", "checkpoint_every", "trace_every", "device",
}  # fmt: skip
OTHER: dict[str, Any] = {
    "policy": None, "out": None, "seed": 7, "steps": 9, "curriculum": "hard", "max_solo_rate": 0.5, "rates": None,
    "prompts_per_step": 3, "samples_per_prompt": 6, "solo_share": 0.5, "final_solo_share": 1.0, "sampler": None,
    "engine_args": None, "reply_credit": None, "branch_continuations": None, "updates_per_batch": 3, "dynamic_sampling": 2, "overlong_buffer": 4,
    "objective": ObjectiveConfig(agent_weight=0.3, agent_baseline="solo", policy_baseline="group"),
}  # fmt: skip
"""The policy's own settings, each with another value than the default where a test can give one."""


def test_configuration_leaks(tmp_path: Path) -> None:
    """Each setting is the role's own or is shared, and known as that; what is said of the policy does not reach the helper."""
    assert OTHER.keys() | SHARED == {field.name for field in dataclasses.fields(TrainConfig)}
    assert not OTHER.keys() & SHARED
    told = {name: value for name, value in OTHER.items() if value is not None}
    plain, changed = team(tmp_path).helper.config, team(tmp_path, **told).helper.config
    for name in OTHER.keys() - {"seed", "steps"}:  # another seed than the policy's, and as many steps
        assert getattr(plain, name) == getattr(changed, name), name
    assert (plain.prompts_per_step, plain.samples_per_prompt, plain.updates_per_batch) == (6, 4, 1)
    assert (plain.seed, changed.seed, changed.steps) == (10_000, 10_007, 9)
    for name, value in (("learning_rate", 0.5), ("weight_decay", 0.1), ("micro_batch_size", 5), ("betas", (0.1, 0.2))):
        both = team(tmp_path, **{name: value})
        assert both.trainer is not None
        assert getattr(both.helper.config, name) == getattr(both.trainer.config, name) == value
    assert both.helper.optimizer.param_groups[0]["betas"] == (0.1, 0.2)


def test_adapters_that_are_not_saved(tmp_path: Path) -> None:
    """Each role's adapter is in its checkpoint and its folder, and is the one that was trained."""
    both = team(tmp_path, lora=LoraConfig(rank=2))
    both.train(None, ())
    start = weights(load_policy("embedded").model)
    logits = []
    for trained, folder in ((both.policy, tmp_path), (both.helper.policy, tmp_path / "helpers" / "knowledge")):
        assert (folder / "policy" / "adapter_config.json").exists()
        assert not (folder / "policy" / "model.safetensors").exists()
        loaded = load_policy(str(folder / "policy")).model
        assert not same(start, weights(loaded))
        ids = torch.tensor([trained.codec.encode_prompt("473@128=")])
        with torch.no_grad():
            torch.testing.assert_close(loaded(ids).logits, trained.model.eval()(ids).logits, atol=1e-4, rtol=1e-4)
            logits.append(loaded(ids).logits)
    assert not torch.allclose(*logits)


def test_wrong_weights(tmp_path: Path) -> None:
    """A run that goes on gives each role what that role had; another start for a role is refused."""
    both = team(tmp_path)
    both.train(None, ())
    ends = weights(both.policy.model), weights(both.helper.model)
    assert not same(*ends)
    again = team(tmp_path, steps=1)
    again.train(None, ())
    assert same(weights(again.policy.model), ends[0])
    assert same(weights(again.helper.model), ends[1])
    load_policy("embedded").save(tmp_path / "other")
    for changed in ({"helper_policy": str(tmp_path / "other")}, {"policy": str(tmp_path / "other")}):
        with pytest.raises(ConfigurationError, match=r"other settings \(.*(policy|helper)"):
            team(tmp_path, **changed).train(None, ())


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(HelperConfig) if f.name != "train_helper"])
def test_silent_fallbacks(name: str) -> None:
    """Nothing that is said of a helper is ignored where none is trained."""
    other = {"helper_policy": "smollm2", "helper_reward": "learnable", "helper_phase": "alternate:3"}
    with pytest.raises(ConfigurationError, match=f"{name} is for a helper that is trained"):
        HelperConfig(**{name: other.get(name, 5)})  # type: ignore[arg-type]


def test_groups_by_index(tmp_path: Path) -> None:
    """Who is compared with whom is noted where the branch is made: order, gaps and faults change nothing."""
    one = team(tmp_path).helper
    found = [t for t in one.collect() if (t.group, t.sample) not in ((0, 1), (2, 3))]  # groups of 3 and of 4
    found[5] = dataclasses.replace(found[5], stop_reason="error")
    order = np.random.default_rng(0).permutation(len(found))
    samples = [to_training_sample(found[k]) for k in order]
    advantages, _ = one._advantages(samples)
    for k, advantage in zip(order, advantages, strict=True):
        counted = [t.reward for t in found if t.task_id == found[k].task_id and t.stop_reason != "error"]
        wanted = 0.0 if k == 5 else found[k].reward - np.mean(counted)
        assert advantage == pytest.approx(wanted, abs=1e-6)
    assert np.abs(advantages).max() > 0.1
