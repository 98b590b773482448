"""The sizing calculator: its arithmetic by hand, and what it refuses or warns of."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from aipo_env.errors import ConfigurationError, UnknownIdError
from algorithms.cluster.plan import GIB, MODELS, Assumptions, RunShape, model_shape, plan
from algorithms.commands import plan as plan_command


def test_parameters_of_the_known_models() -> None:
    assert MODELS["1.5b"].parameters == pytest.approx(1.543e9, rel=2e-3)
    assert MODELS["7b"].parameters == pytest.approx(7.616e9, rel=2e-3)
    # 28 layers, 4 key-value heads of 128, keys and values, 2 bytes
    assert MODELS["7b"].kv_bytes_per_token == 28 * 4 * 128 * 2 * 2


def test_memory_by_hand() -> None:
    run = RunShape(model="7b", gpus=8, zero_stage=3, micro_tokens=16_384)
    memory = plan(run).training_gib
    size = MODELS["7b"].parameters
    assert memory["weights"] == pytest.approx(2 * size / 8 / GIB)
    assert memory["gradients"] == pytest.approx(2 * size / 8 / GIB)
    assert memory["optimizer"] == pytest.approx(12 * size / 8 / GIB)
    assert memory["logits"] == pytest.approx(10 * 16_384 * 152_064 / GIB)
    assert plan(dataclasses.replace(run, zero_stage=2)).training_gib["weights"] == pytest.approx(2 * size / GIB)
    assert plan(dataclasses.replace(run, offload_optimizer=True)).training_gib["optimizer"] == 0
    assert sum(plan(run).rollout_gib.values()) == pytest.approx(80 * run.gpu_utilization)


def test_time_by_hand() -> None:
    run = RunShape(model="1.5b", gpus=8, prompts_per_step=16, group_size=16, prompt_tokens=300, response_tokens=700)
    result = plan(run)
    size = MODELS["1.5b"].parameters
    assert result.seconds["training"] == pytest.approx(10 * size * 256 * 1000 / (8 * 989e12 * 0.35))
    batch = 256 / 8
    read = 2 * size + batch * (300 + 350) * MODELS["1.5b"].kv_bytes_per_token
    prefill = 2 * size * 256 * 300 / (8 * 989e12 * 0.5)
    assert result.seconds["rollout"] == pytest.approx(prefill + 700 * read / (3.35e12 * 0.6))
    assert result.step_seconds == pytest.approx(sum(result.seconds.values()))
    assert result.tokens_per_second == pytest.approx(256 * 1000 / result.step_seconds)
    faster = plan(run, Assumptions(training_efficiency=0.7))
    assert faster.seconds["training"] == pytest.approx(result.seconds["training"] / 2)


def test_asynchronous_parts_overlap() -> None:
    run = RunShape(model="1.5b", placement="async", gpus=8, prompts_per_step=16)
    result = plan(run)
    assert (run.training_gpus, run.rollout_gpus) == (4, 4)
    longest = max(result.seconds["rollout"], result.seconds["training"])
    assert result.step_seconds == pytest.approx(longest + result.seconds["weight sync"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpus": 1}, "training needs"),
        ({"gpus": 2, "zero_stage": 2, "gpu": "a100-80"}, "offload_optimizer"),
        ({"micro_tokens": 65_536}, "lower micro_tokens"),
        ({"gpu_utilization": 0.1}, "gpu_utilization"),
        ({"prompts_per_step": 4096}, "queue"),
        ({"consults_per_episode": 50.0}, "helper_gpus"),
        ({"helper_gpus": 0}, "can answer 0.0"),
    ],
)
def test_what_would_not_run_is_said_with_what_to_change(options: dict[str, object], words: str) -> None:
    assert any(words in problem for problem in plan(RunShape(**options)).problems)  # type: ignore[arg-type]


def test_a_run_that_fits_has_no_problem() -> None:
    assert plan(RunShape(model="1.5b", prompts_per_step=32, group_size=8, helper_gpus=4)).problems == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"gpu": "b52"}, UnknownIdError, "a100-80"),
        ({"gpus": 0}, ConfigurationError, "gpus is at least 1"),
        ({"placement": "async", "gpus": 1}, ConfigurationError, "2 GPUs"),
        ({"tensor_parallel": 3}, ConfigurationError, "multiple of tensor_parallel"),
        ({"micro_tokens": 100}, ConfigurationError, "holds no sequence"),
        ({"response_tokens": 9000}, ConfigurationError, "exceeds context"),
        ({"solo_share": 2.0}, ConfigurationError, "shares"),
    ],
)
def test_impossible_runs_are_refused(options: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        RunShape(**options)  # type: ignore[arg-type]


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    config = {
        "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
        "intermediate_size": 8960, "vocab_size": 151_936, "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert model_shape(str(tmp_path)) == MODELS["1.5b"]
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="num_attention_heads"):
        model_shape(str(tmp_path))
    with pytest.raises(UnknownIdError, match=r"7b.*config\.json"):
        model_shape("70b")


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_command(run=RunShape(model="1.5b", prompts_per_step=32, group_size=8, helper_gpus=4)) == 0
    shown = capsys.readouterr().out
    assert "logits" in shown
    assert "tokens a second" in shown
    assert plan_command(run=RunShape(gpus=1)) == 1
    assert "training needs" in capsys.readouterr().out
