from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import aipo_env
from aipo_env.cli import main
from aipo_env.errors import DataNotFoundError, OutOfMemoryError
from algorithms.checkpoint import list_checkpoints
from algorithms.cluster.plan import GIB, MODELS
from algorithms.config import ObjectiveConfig
from algorithms.memory_plan import CACHE_FACTOR, LOGIT_BYTES, Subject, changes, describe, look_at, memory, peak
from algorithms.policies.adapters import add_adapter
from algorithms.train_config import LoraConfig, SamplingConfig, TrainConfig
from tests.algorithms.test_trainer import make
from tests.algorithms.tiny import tiny_policy

SIZE = MODELS["1.5b"].parameters
SUBJECT = Subject(MODELS["1.5b"], SIZE, linear_width=1_000_000, attention_layers=28, prompt_tokens=100)
RUN = TrainConfig(device="cuda", sampling=SamplingConfig(max_tokens=900), micro_batch_size=4)


def of(**fields: Any) -> dict[str, dict[str, float]]:
    """Bytes by phase and part."""
    found = memory(dataclasses.replace(RUN, **fields), SUBJECT)
    return {phase: {part: gib * GIB for part, gib in parts.items()} for phase, parts in found.items()}


def test_memory_by_hand() -> None:
    found = of()
    assert found["update"]["weights"] == pytest.approx(2 * SIZE)
    assert found["update"]["masters"] == pytest.approx(4 * SIZE)
    assert found["update"]["moments"] == found["rollout"]["moments"] == pytest.approx(8 * SIZE)
    assert found["update"]["gradients"] == pytest.approx(4 * SIZE)
    assert "gradients" not in found["rollout"]
    # 256 rows of 1,000 tokens.
    assert found["rollout"]["cache"] == pytest.approx(256_000 * 28 * 2 * 128 * 2 * 2 * CACHE_FACTOR)
    assert found["rollout"]["head"] == pytest.approx(256 * 151_936 * LOGIT_BYTES)
    assert found["update"]["activations"] == pytest.approx(28 * 2 * 4_000 * (8 * 1536 + 4 * 8960))
    # More logits than are made at once: tiles, the rows that go in, and the weight's gradient.
    assert found["update"]["head"] == pytest.approx(2**25 * LOGIT_BYTES + 4 * 1536 * (3600 + 151_936))


def test_what_each_option_saves() -> None:
    plain = of()["update"]
    assert of(dtype="float32")["update"]["weights"] == pytest.approx(4 * SIZE)
    assert "masters" not in of(dtype="float32")["update"]
    assert of(device="cpu") == of(dtype="float32")
    assert of(optimizer="adamw8bit")["update"] == plain | {"moments": pytest.approx(2 * SIZE)}
    stochastic = of(optimizer="adamw8bit_stochastic")["update"]
    assert "masters" not in stochastic
    assert stochastic["moments"] == pytest.approx(2 * SIZE)
    recomputed = of(recompute=True)["update"]["activations"]
    assert recomputed == pytest.approx(2 * 4_000 * (1536 * 28 + 8 * 1536 + 4 * 8960))
    adapted = of(lora=LoraConfig(rank=16))["update"]
    assert adapted["weights"] == pytest.approx(2 * SIZE + 4 * 16e6)
    assert adapted["moments"] == pytest.approx(8 * 16e6)
    assert adapted["gradients"] == pytest.approx(4 * 16e6)
    assert "masters" not in adapted
    # The reference is a second copy, but of adapters.
    with_kl = ObjectiveConfig(kl_coef=0.1)
    assert of(objective=with_kl)["rollout"]["weights"] == pytest.approx(4 * SIZE)
    assert of(objective=with_kl, lora=LoraConfig(rank=16))["update"] == adapted
    fewer = of(sampling=SamplingConfig(max_tokens=900, batch_size=64))["rollout"]
    assert fewer["cache"] == pytest.approx(of()["rollout"]["cache"] / 4)
    # Not more than there are.
    assert of(prompts_per_step=1)["rollout"]["cache"] == pytest.approx(of()["rollout"]["cache"] / 32)
    few = of(prompts_per_step=1, samples_per_prompt=4, micro_batch_size=64)["update"]
    assert few["activations"] == pytest.approx(plain["activations"])
    # Rows that hold several samples may bear loss at nearly every place.
    packed = of(packing=True)["update"]
    assert packed == plain | {"head": pytest.approx(2**25 * LOGIT_BYTES + 4 * 1536 * (4000 + 151_936))}


def test_changes_come_in_order_and_end_where_it_fits() -> None:
    assert changes(RUN, SUBJECT, 1000.0) == ([], peak(memory(RUN, SUBJECT)))
    # The phase that takes more is the one to lower, and what changes no result comes first.
    options, size = changes(RUN, SUBJECT, 30.0)
    assert options == ["--recompute", "--sampling.batch-size 128"]
    assert size < 30 < peak(memory(RUN, SUBJECT))
    options, size = changes(RUN, SUBJECT, 20.0)
    assert options == ["--recompute", "--sampling.batch-size 128", "--optimizer adamw8bit"]
    assert size < 20
    options, size = changes(RUN, SUBJECT, 8.0)
    assert options[-1] == "--lora.rank 16"
    assert size < 8
    on_cpu = dataclasses.replace(RUN, device="cpu")
    assert "--dtype bfloat16" in changes(on_cpu, SUBJECT, 6.0)[0]
    assert changes(RUN, SUBJECT, 1.0)[1] > 1
    assert "A smaller policy" in describe(RUN, SUBJECT, 1.0)
    assert "it fits" in describe(RUN, SUBJECT, 1000.0)
    assert "With --recompute --sampling.batch-size 128 it takes" in describe(RUN, SUBJECT, 30.0)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "qwen3_5"])
def test_a_model_is_counted_without_its_weights(architecture: str, tmp_path: Path) -> None:
    policy = tiny_policy(architecture)
    policy.save(tmp_path)
    config = TrainConfig(policy=str(tmp_path), env_options={"style": "terse", "prompt": "bare"})
    found = look_at(config)
    assert found.parameters == sum(parameter.numel() for parameter in policy.model.parameters())
    assert found.attention_layers == (1 if architecture == "qwen3_5" else 2)
    assert found.prompt_tokens == 9  # 473@128= and the start
    env = aipo_env.make("rulebook-consult", codec=policy.codec, style="terse", prompt="bare")
    assert Subject.of(policy.model, env) == found
    add_adapter(policy, LoraConfig(rank=3), seed=0)
    adapter = sum(parameter.numel() for parameter in policy.model.parameters() if parameter.requires_grad)
    assert adapter == 3 * found.linear_width
    assert Subject.of(policy.model, env) == found


def test_the_command_plans_and_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--plan", "--out", str(tmp_path / "run")]
    assert main([*command, "--json", "--memory", "1000", "--device", "cuda"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["available"] == 1000
    assert told["changes"] == []
    assert set(told["memory"]) == {"rollout", "update"}
    assert main([*command, "--memory", "0.3"]) == 1
    said = capsys.readouterr().out
    assert "does not fit" in said
    assert "--sampling.batch-size" in said
    assert main([*command, "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["available"] > 0
    assert not (tmp_path / "run").exists()
    for wrong in (["--memory", "3"], ["--plan", "--memory", "0"]):
        assert main(["train", *wrong, "--out", str(tmp_path / "run")]) == 2
        assert "--memory" in capsys.readouterr().err
    with pytest.raises(DataNotFoundError):
        look_at(TrainConfig(policy=str(tmp_path / "nothing")))


def of_a_cpu() -> RuntimeError:
    return RuntimeError(
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."
    )


@pytest.mark.parametrize(("phase", "make_error"), [("rollout", of_a_cpu), ("update", torch.OutOfMemoryError)])
def test_a_lack_of_memory_says_what_to_change_and_the_run_goes_on(
    tmp_path: Path, phase: str, make_error: Callable[[], Exception]
) -> None:
    fields: dict[str, Any] = {"steps": 2, "checkpoint_every": 1, "eval_tasks": 1}
    trainer = make(tmp_path, **fields)
    plain = trainer.model.forward

    def forward(*args: Any, **options: Any) -> Any:
        if trainer.step == 1 and torch.is_grad_enabled() is (phase == "update"):
            raise make_error()
        return plain(*args, **options)

    forward.__signature__ = inspect.signature(plain)  # type: ignore[attr-defined]
    trainer.model.forward = forward
    with pytest.raises(OutOfMemoryError, match=r"--sampling\.batch-size|--micro-batch-size|--recompute") as caught:
        trainer.train()
    assert "goes on from it" in str(caught.value)
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 1
    again = make(tmp_path, **fields, micro_batch_size=2, recompute=True)
    again.train()
    assert again.finished


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.collect = lambda: (_ for _ in ()).throw(RuntimeError("a bug"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a bug"):
        trainer.train_step()
