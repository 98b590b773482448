"""`Trainer.update` against a second implementation: one sequence and one token at a time, formulas written out.

Dimensions: T tokens of one sequence.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aipo_env import Segment, Source, Trajectory
from algorithms.config import ObjectiveConfig
from algorithms.train_config import SamplingConfig, TrainConfig
from algorithms.trainer import Trainer
from tests.algorithms.tiny import tiny_policy

P, A, T = Source.POLICY, Source.AGENT, Source.TEMPLATE
TEMPERATURE, DELTA, C_MIN, C_MAX, CLIP, ROLLOUT_CLIP = 0.7, 0.002, 0.5, 2.0, (0.8, 1.28), (0.5, 2.0)
LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM = 3e-3, 0.01, 0.5

# Group, without help, reward, its consult cost, sources behind the prompt; then the advantages of POLICY and of AGENT tokens.
ROWS = [
    (0, True, 0.0, 0.0, [P] * 5, -0.5, 0.0),
    (0, True, 1.0, 0.0, [P] * 9, 0.5, 0.0),
    (0, False, 1.0, 0.0, [P, P, T, A, A, A, P, P], 0.15, 0.5),
    (0, False, 0.7, -0.3, [P, A, A, P, P, P, A, A], -0.15, 0.5),
    # Nobody solves it: no row learns.
    (1, True, 0.0, 0.0, [P] * 4, 0.0, 0.0),
    (1, True, 0.0, 0.0, [P] * 7, 0.0, 0.0),
    (1, False, 0.0, 0.0, [P, A, A, P], 0.0, 0.0),
    (1, False, 0.0, 0.0, [P, P, P], 0.0, 0.0),
    # Help alone solves it: replies learn, and a row without one does not.
    (2, True, 0.0, 0.0, [P] * 3, 0.0, 0.0),
    (2, True, 0.0, 0.0, [P] * 6, 0.0, 0.0),
    (2, False, 1.0, 0.0, [P, A, A, A, P, P], 0.0, 1.0),
    (2, False, 1.0, 0.0, [P, P, P, P], 0.0, 1.0),
]
PROMPTS = [(1, 40, 41, 42), (1, 50), (1, 60, 61)]
NUM_POLICY_TOKENS = sum(row[4].count(P) for row in ROWS)


def trajectories() -> list[Trajectory]:
    generator = torch.Generator().manual_seed(5)
    made = []
    for number, (group, solo, reward, cost, sources, _, _) in enumerate(ROWS):
        segments = [Segment(Source.PROMPT, "", PROMPTS[group])]
        for source in sources:
            token = int(torch.randint(4, 100, (), generator=generator))
            # Near a uniform policy's, so that ratios lie inside their bounds, and outside.
            logprob = -4.7 + float(torch.randn((), generator=generator))
            segments.append(Segment(source, "", (token,), () if source is T else (logprob,), mu_known=source is A))
        made.append(
            Trajectory(
                "e", "t", segments, reward, {"consult_cost": cost}, group=group, sample=number % 4, assisted=not solo
            )
        )
    return made


def token_logprobs_alone(model: nn.Module, trajectory: Trajectory) -> Tensor:
    """log pi of each token but the first, at the sampler's temperature."""
    ids = torch.tensor([trajectory.token_ids])
    logits_TV = model(input_ids=ids, use_cache=False).logits[0, :-1] / TEMPERATURE
    return logits_TV.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]


def reference_loss(
    batch: list[Trajectory], model: nn.Module, old: nn.Module, frozen: nn.Module, kl_coef: float
) -> Tensor:
    loss = torch.zeros(())
    for trajectory, (*_, own, reply) in zip(batch, ROWS, strict=True):
        now_T = token_logprobs_alone(model, trajectory)
        with torch.no_grad():
            old_T, frozen_T = token_logprobs_alone(old, trajectory), token_logprobs_alone(frozen, trajectory)
        for place, source in enumerate(trajectory.sources[1:]):
            now, before, recorded = now_T[place], old_T[place], trajectory.logprobs[1 + place]
            if source is P:
                ratio = (now - before).exp()
                surrogate = torch.minimum(ratio * own, ratio.clamp(*CLIP) * own)
                correction = (before - recorded).exp().clamp(*ROLLOUT_CLIP)
                kl = (frozen_T[place] - now).exp() - 1 - (frozen_T[place] - now)
                loss = loss - correction * surrogate + kl_coef * kl
            elif source is A:
                weight = float((now.detach() - recorded).exp().clamp(C_MIN if reply > 0 else 0.0, C_MAX))
                moved = float(now.detach().exp() - before.exp())
                if not (reply * moved > 0 and abs(moved) > DELTA):
                    loss = loss - weight * reply * now
    return loss / NUM_POLICY_TOKENS


@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
def test_repair_16_update_is_that_of_a_second_implementation(kl_coef: float, tmp_path: Path) -> None:
    """Two updates, temperature 0.7, mu known, a reference that the policy has left, and without it rows that are skipped."""
    objective = ObjectiveConfig(
        agent_baseline="solo",
        self_imitation=0.0,
        kl_coef=kl_coef,
        rollout_clip=ROLLOUT_CLIP,
        c_min=C_MIN,
        c_max=C_MAX,
        delta=DELTA,
    )
    config = TrainConfig(
        out=tmp_path, objective=objective, updates_per_batch=2, micro_batch_size=3, learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY, max_grad_norm=MAX_GRAD_NORM, warmup_steps=0,
        sampling=SamplingConfig(temperature=TEMPERATURE, max_tokens=32),
    )  # fmt: skip
    trainer = Trainer(config, policy=tiny_policy())
    frozen = copy.deepcopy(trainer.model)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trainer.model.parameters():  # some steps later
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
    model, old, batch = copy.deepcopy(trainer.model), copy.deepcopy(trainer.model), trajectories()
    gradients: dict[str, torch.Tensor] = {}

    def keep(*_: object) -> None:
        """The trainer frees its gradients behind the step."""
        gradients.update((name, p.grad.clone()) for name, p in trainer.model.named_parameters() if p.grad is not None)

    trainer.optimizer.register_step_post_hook(keep)
    metrics = trainer.update(batch)

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=config.betas, weight_decay=WEIGHT_DECAY)
    for _ in range(2):
        optimizer.zero_grad()
        reference_loss(batch, model, old, frozen, kl_coef).backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert metrics["learning_rows"] == (1.0 if kl_coef else 5 / 12)
    for (name, mine), theirs in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(gradients[name], theirs.grad, atol=1e-6, rtol=1e-3, msg=name)
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4, msg=name)


def test_repair_15_rows_whose_replies_are_masked_are_skipped(tmp_path: Path) -> None:
    """Under `mask` a row learns by its POLICY tokens alone: the four of the first group."""
    trainer = Trainer(
        TrainConfig(out=tmp_path, objective=ObjectiveConfig(agent_loss="mask"), sampling=SamplingConfig(max_tokens=32)),
        policy=tiny_policy(),
    )
    assert trainer.update(trajectories())["learning_rows"] == 4 / 12


def test_repair_15_frozen_parameters_are_left_alone(tmp_path: Path) -> None:
    """Weight decay would move them even where their gradient is zero."""
    policy = tiny_policy()
    frozen = policy.model.get_input_embeddings().weight.requires_grad_(False)
    before = frozen.clone()
    config = TrainConfig(out=tmp_path, weight_decay=0.5, sampling=SamplingConfig(max_tokens=32), warmup_steps=0)
    trainer = Trainer(config, policy=policy)
    trainer.update(trajectories())
    assert all(parameter is not frozen for group in trainer.optimizer.param_groups for parameter in group["params"])
    assert torch.equal(frozen, before)
    assert frozen.grad is None
    policy.model.requires_grad_(False)
    with pytest.raises(ValueError, match="all of llama are frozen"):
        Trainer(config, policy=policy)


def test_repair_11_what_a_fault_cut_is_not_learnt_from(tmp_path: Path) -> None:
    """The update is that of the batch without it."""
    found = []
    for batch in (trajectories(), [*trajectories(), dataclasses.replace(trajectories()[0], stop_reason="error")]):
        trainer = Trainer(TrainConfig(out=tmp_path, sampling=SamplingConfig(max_tokens=32)), policy=tiny_policy())
        trainer.update(batch)
        found.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))
