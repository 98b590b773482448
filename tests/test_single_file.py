"""The single file computes what the library computes."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from aipo_env import Segment, Source, Trajectory, sample_advantages, to_training_sample
from algorithms.batch import MicroBatch, count_tokens, micro_batches
from algorithms.config import ObjectiveConfig
from algorithms.logprobs import token_logprobs
from algorithms.objective import combine_metrics, objective_loss
from algorithms.policies import Policy, load_policy
from algorithms.train_config import TrainConfig

FILE = Path(__file__).parents[1] / "examples" / "aipo_single_file.py"


@pytest.fixture(scope="module")
def single() -> ModuleType:
    spec = importlib.util.spec_from_file_location("aipo_single_file", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["aipo_single_file"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _known(segment: Segment) -> Segment:
    """A reply as a helper that knows its own probabilities gives it."""
    if segment.source is not Source.AGENT:
        return segment
    return dataclasses.replace(segment, logprobs=(-4.0,) * len(segment.token_ids), mu_known=True)


@pytest.fixture(scope="module")
def rollouts(single: ModuleType) -> tuple[Policy, list[Trajectory], torch.Tensor, torch.Tensor]:
    """Of an embedded policy, some of them made right by hand so that all signs of an advantage occur."""
    policy = load_policy("embedded")
    config = single.parse(["--problems", "2", "--samples", "8"])
    solo, assisted = single.make_envs(policy, config, "train")
    assert (len(solo), len(assisted)) == (4, 12)
    tasks = [3, 14] * 8
    rng = torch.Generator().manual_seed(0)
    found = single.roll_out(policy, solo + assisted, tasks, config, rng)
    wins = [1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1]
    found = [
        dataclasses.replace(
            t, reward=float(win), group=number % 2, segments=[_known(s) if number % 4 > 1 else s for s in t.segments]
        )
        for number, (t, win) in enumerate(zip(found, wins, strict=True))
    ]
    return policy, found, torch.arange(2).repeat(8), torch.tensor([True] * 4 + [False] * 12)


def test_rollouts_are_what_their_modes_allow(
    rollouts: tuple[Policy, list[Trajectory], torch.Tensor, torch.Tensor],
) -> None:
    policy, found, _, _ = rollouts
    assert not any(t.count(Source.AGENT) for t in found[:4])
    assert sum(t.num_consults > 0 for t in found[4:]) >= 6
    for trajectory in found:
        assert sum(len(s.token_ids) for s in trajectory.segments[1:]) <= 48 or trajectory.stop_reason == "length"
        sampled = [s for s in trajectory.segments if s.source is Source.POLICY]
        assert all(len(s.logprobs) == len(s.token_ids) > 0 for s in sampled)
    # What was recorded at each turn is what the whole sequence gives: no position or mask was off by one.
    for part in micro_batches([to_training_sample(t) for t in found], np.ones(16), 16, pad_id=0):
        own_T = part.sources_T == Source.POLICY
        again_T = library_logprobs(policy, part, 1.0)
        torch.testing.assert_close(again_T[own_T], part.behaviour_logprobs_T[own_T], atol=1e-4, rtol=1e-4)


def library_logprobs(policy: Policy, part: MicroBatch, temperature: float) -> torch.Tensor:
    return token_logprobs(
        policy.model,
        part.input_ids_BL,
        part.attention_mask_BL,
        part.selected_BL,
        temperature=temperature,
        prompt_lengths_B=part.prompt_lengths_B,
    ).logprobs_T


@pytest.mark.parametrize("moved", [False, True])
def test_gradients_are_the_librarys(
    single: ModuleType, rollouts: tuple[Policy, list[Trajectory], torch.Tensor, torch.Tensor], moved: bool
) -> None:
    """`moved`: with a policy that has left the one which the batch began with, so that clip and trust region act."""
    policy, found, groups_S, solo_S = rollouts
    config = single.Config(temperature=0.7, delta=0.02, agent_weight=0.8)
    train_config = TrainConfig(objective=ObjectiveConfig(delta=0.02, agent_weight=0.8, self_imitation=1.0))
    rewards_S = torch.tensor([t.reward for t in found])
    own_S, reply_S = single.advantages(rewards_S, groups_S, solo_S, config)
    taken = [to_training_sample(t) for t in found]
    theirs_S = sample_advantages(taken, **train_config.comparison)
    torch.testing.assert_close(own_S, torch.from_numpy(theirs_S[0]))
    torch.testing.assert_close(reply_S, torch.from_numpy(theirs_S[1]))

    parts = micro_batches(taken, theirs_S[0], 16, pad_id=0, agent_advantages_S=theirs_S[1])
    batch = single.make_batch(found, own_S, reply_S)
    with torch.no_grad():
        old_BL, old = single.token_logprobs(policy, batch, config), [library_logprobs(policy, p, 0.7) for p in parts]
    state = {name: value.clone() for name, value in policy.model.state_dict().items()}
    if moved:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    try:
        policy.model.zero_grad()
        single.compute_loss(single.token_logprobs(policy, batch, config), old_BL, batch, config).backward()
        ours = [p.grad.clone() for p in policy.model.parameters() if p.grad is not None]
        policy.model.zero_grad()
        sums = []
        for part, old_T in zip(parts, old, strict=True):
            output = objective_loss(
                library_logprobs(policy, part, 0.7),
                old_T,
                part.advantages_T,
                part.sources_T,
                part.behaviour_logprobs_T,
                part.sequence_ids_T,
                train_config.objective,
                normalizer=count_tokens(taken),
            )
            output.loss.backward()  # type: ignore[no-untyped-call]
            sums.append(output.sums)
        theirs = [p.grad.clone() for p in policy.model.parameters() if p.grad is not None]
    finally:
        policy.model.load_state_dict(state)
        policy.model.zero_grad()
    metrics = combine_metrics(sums)
    assert (metrics["policy/clip_fraction"] > 0) is moved
    assert (metrics["agent/trust_region_fraction"] > 0) is moved
    assert metrics["agent/floor_fraction"] > 0
    assert metrics["agent/cap_fraction"] > 0
    largest = max(float(g.abs().max()) for g in theirs)
    assert largest > 0
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * largest, rtol=1e-4)


def test_flags_are_the_fields_and_slips_are_refused(single: ModuleType) -> None:
    assert single.parse(["--steps", "7", "--agent-weight", "0"]) == single.Config(steps=7, agent_weight=0.0)
    with pytest.raises(SystemExit, match="at least 8"):
        single.train(single.Config(samples=7))
    assert len(FILE.read_text(encoding="utf-8").splitlines()) <= 330
