"""The advantages and coefficients that are worked out from traces are those that the trainer uses."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aipo_env import Segment, Source, Trajectory, to_training_sample
from aipo_env.advantages import ScoredRollout
from aipo_env.errors import DataFormatError
from algorithms import batch as batches
from algorithms.apps.viewer.rows import Row
from algorithms.config import ObjectiveConfig
from algorithms.logprobs import token_logprobs
from algorithms.objective import objective_loss
from algorithms.token_facts import LOGPROBS_KEY, Coefficients
from algorithms.token_weights import TokenWeights, record_agent_logprobs
from algorithms.train_config import SamplingConfig, TrainConfig
from algorithms.trainer import Trainer
from tests.algorithms.tiny import tiny_policy

logprobs = st.floats(-60, 0)


def sample_of(trajectory: Trajectory) -> ScoredRollout:
    return Row.of(trajectory, 0).sample_facts


def trajectories(config: TrainConfig) -> list[Trajectory]:
    """Rewards and lengths that differ, in groups of which the first `num_solo` samples are solo."""
    rows = []
    for group, sample in itertools.product(range(config.prompts_per_step), range(config.samples_per_prompt)):
        number = group * config.samples_per_prompt + sample
        segments = [
            Segment(Source.PROMPT, "", (1,)),
            Segment(Source.POLICY, "", (5,) * (1 + number % 7), (-1.0,) * (1 + number % 7)),
        ]
        rows.append(
            Trajectory(
                "e",
                "t",
                segments,
                reward=(number * 7 % 5) / 4,
                reward_parts={"consult_cost": -(number % 3) / 8},
                group=group,
                sample=sample,
                assisted=sample >= config.num_solo(0),
            )
        )
    return rows


@pytest.mark.parametrize("advantage", ["mean", "mean_std", "leave_one_out", "mean_whitened"])
@pytest.mark.parametrize(("own", "help_"), [("mode", "solo"), ("group", "solo"), ("mode", "group")])
@pytest.mark.parametrize("overlong", [0, 3])
def test_advantages_are_the_trainers(advantage: str, own: str, help_: str, overlong: int, tmp_path: Path) -> None:
    objective = ObjectiveConfig(advantage=advantage, policy_baseline=own, agent_baseline=help_)  # type: ignore[arg-type]
    config = TrainConfig(
        prompts_per_step=3, samples_per_prompt=4, objective=objective, overlong_buffer=overlong,
        sampling=SamplingConfig(max_tokens=6), out=tmp_path,
    )  # fmt: skip
    rows = trajectories(config)
    own_S, help_S = Trainer(config, policy=tiny_policy())._advantages([to_training_sample(t) for t in rows])
    found = TokenWeights(config).advantages([sample_of(t) for t in rows])
    assert found == list(zip(own_S.tolist(), help_S.tolist(), strict=True))
    assert len({a for a, _ in found}) > 3


def test_a_step_that_is_not_whole_has_none() -> None:
    config = TrainConfig(prompts_per_step=3, samples_per_prompt=4)
    samples = [sample_of(t) for t in trajectories(config)]
    assert TokenWeights(config).advantages(samples[:-1]) is None
    assert TokenWeights(config).advantages(samples + samples[:1]) is None
    # Dynamic sampling may end with fewer groups, each of them whole.
    config = dataclasses.replace(config, dynamic_sampling=2)
    assert TokenWeights(config).advantages(samples[:8]) is not None
    assert TokenWeights(config).advantages(samples[:7]) is None


@pytest.mark.parametrize("agent_loss", ["mask", "clone", "is", "luffy", "aipo"])
@pytest.mark.parametrize("advantage", [0.5, -0.5, 0.0])
@given(pi=logprobs, mu=logprobs)
def test_ranges_hold_whatever_the_policy_thinks(agent_loss: str, advantage: float, pi: float, mu: float) -> None:
    weights = TokenWeights(TrainConfig(objective=ObjectiveConfig().with_agent_loss(agent_loss)))
    exact = weights.coefficients([mu], [pi], advantage)
    ranged = weights.coefficients([mu], None, advantage)
    assert exact is not None
    assert ranged is not None
    assert exact.low == exact.high
    assert ranged.low[0] <= exact.low[0] <= ranged.high[0]
    if ranged.states != "?" and pi < -1e-9:  # at probability 1 floor and ratio meet
        assert exact.states == ranged.states


def test_with_an_unknown_mu_the_floor_leaves_one_value() -> None:
    weights = TokenWeights(TrainConfig())  # c_min is 1, and pi / 1 cannot be more
    assert weights.coefficients([0.0, 0.0], None, 0.5) == Coefficients((1.0, 1.0), (1.0, 1.0), "ff")
    assert weights.coefficients([0.0], None, -0.5) == Coefficients((0.0,), (1.0,), "-")
    # mu = 1/4: pi / mu may be anything up to 4, of which the cap leaves 2.
    assert weights.coefficients([math.log(0.25)], None, 0.5) == Coefficients((1.0,), (2.0,), "?")


@pytest.mark.parametrize("agent_loss", ["aipo", "is", "luffy", "clone"])
def test_recorded_probabilities_give_the_coefficients_of_the_loss(agent_loss: str) -> None:
    """The objective's own mean over AGENT tokens, on a real policy, is the mean of those that are told."""
    policy = tiny_policy()
    config = TrainConfig(
        prompts_per_step=1, samples_per_prompt=4, objective=ObjectiveConfig().with_agent_loss(agent_loss)
    )
    rows = [
        Trajectory(
            "e", "t",
            [
                Segment(Source.PROMPT, "", (1, 30 + i)),
                Segment(Source.POLICY, "", (31, 32), (-1.0, -2.0)),
                Segment(Source.AGENT, "", (33, 34 + i, 35), (-0.5, -3.0 - i, -7.0), agent="verify", mu_known=True),
            ],
            reward=float(i % 2), sample=i, assisted=i >= 2,
        )
        for i in range(4)
    ]  # fmt: skip
    weights = TokenWeights(config)
    found = weights.advantages([sample_of(t) for t in rows])
    assert found is not None
    samples = [to_training_sample(t) for t in rows]
    own_S, help_S = (np.array(values) for values in zip(*found, strict=True))
    [part] = batches.micro_batches(samples, own_S, 8, pad_id=0, agent_advantages_S=help_S)
    with torch.no_grad():
        logprobs_T = token_logprobs(
            policy.model,
            part.input_ids_BL,
            part.attention_mask_BL,
            part.selected_BL,
            prompt_lengths_B=part.prompt_lengths_B,
        ).logprobs_T
    output = objective_loss(
        logprobs_T, None, part.advantages_T, part.sources_T, part.behaviour_logprobs_T, part.sequence_ids_T, config.objective,
        normalizer=batches.count_tokens(samples),
    )  # fmt: skip
    rows[3].confidential = True
    record_agent_logprobs(rows, part, logprobs_T)
    assert LOGPROBS_KEY not in rows[3].metadata
    rows[3].confidential = False
    record_agent_logprobs(rows, part, logprobs_T)
    told = []
    for row, (_, advantage) in zip(rows, found, strict=True):
        coefficients = weights.coefficients(row.segments[2].logprobs, row.metadata[LOGPROBS_KEY], advantage)  # type: ignore[arg-type]
        assert coefficients is not None
        told += [*zip(coefficients.low, coefficients.states, strict=True)]
    assert sum(value for value, _ in told) / len(told) == pytest.approx(output.metrics["agent/coefficient"], rel=1e-3)
    for name, letter in (("floor", "f"), ("cap", "c")):
        share = sum(state == letter for _, state in told) / len(told)
        assert share == pytest.approx(output.metrics[f"agent/{name}_fraction"], abs=1e-6)


def write(path: Path, config: TrainConfig, **changes: object) -> Path:
    row = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    path.write_text(json.dumps({**row, **changes}))
    return path


def test_the_configuration_is_read_as_the_trainer_writes_it(tmp_path: Path) -> None:
    config = TrainConfig(
        out=tmp_path,
        agents=("verify",),
        objective=ObjectiveConfig(delta=math.inf, rollout_clip=(0.5, 2.0)),
        updates_per_batch=2,
    )
    weights = TokenWeights.read(write(tmp_path / "config.json", config, a_field_of_a_later_version=1))
    assert weights is not None
    assert weights.config == config
    assert weights.facts["updates"] == 2
    assert weights.facts["trust_region"] is True


def test_other_files_of_that_name(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert TokenWeights.read(path) is None
    path.write_text('{"cut')
    with pytest.raises(DataFormatError, match=r"config\.json is not JSON"):
        TokenWeights.read(path)
    objective = dataclasses.asdict(ObjectiveConfig())
    with pytest.raises(DataFormatError, match="agent_loss='mine' is registered by code of the run"):
        TokenWeights.read(write(path, TrainConfig(), objective={**objective, "agent_loss": "mine"}))
    with pytest.raises(DataFormatError, match=r"of this version.*temperature"):
        TokenWeights.read(write(path, TrainConfig(), objective={**objective, "temperature": 3}))


@pytest.mark.parametrize(("agent_loss", "read"), [("aipo", 0.0), ("mask", 0.0)])
def test_a_run_from_before_self_imitation_had_none(agent_loss: str, read: float, tmp_path: Path) -> None:
    objective = dataclasses.asdict(ObjectiveConfig(agent_loss=agent_loss, policy_baseline="group"))
    del objective["self_imitation"]
    weights = TokenWeights.read(write(tmp_path / "config.json", TrainConfig(), objective=objective))
    assert weights is not None
    assert weights.config.comparison["self_imitation"] == read
