"""What `aipo train --plan` says beside what tiny runs take on a CPU under Linux: `python -m tests.algorithms.measure_memory`."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from algorithms.train_config import LoraConfig, SamplingConfig, TrainConfig

TOKENS = 48
SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp32, recompute": {"recompute": True},
    "fp32, half the batch": {"micro_batch_size": 32, "sampling": SamplingConfig(max_tokens=TOKENS, batch_size=32)},
    "bf16, masters": {"dtype": "bfloat16"},
    "LoRA": {"lora": LoraConfig(rank=16)},
    "bf16, LoRA, recompute": {"dtype": "bfloat16", "lora": LoraConfig(rank=16), "recompute": True},
}


def measure(architecture: str, fields: dict[str, Any], out: Path) -> dict[str, tuple[float, float]]:
    """Planned and measured GiB of the two phases of one step, in a process of its own."""
    import torch

    from algorithms.codec import TransformersCodec
    from algorithms.memory_plan import Subject, memory
    from algorithms.policies import Policy
    from algorithms.policies.embedded_model import build_model, build_tokenizer
    from algorithms.trainer import Trainer

    torch.set_num_threads(1)
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is freed goes back at once, and leaves no holes
    tokenizer = build_tokenizer()

    def make(hidden: int, **changed: Any) -> Trainer:
        options: dict[str, Any] = {
            "env_options": {"style": "terse", "prompt": "bare"}, "prompts_per_step": 8, "samples_per_prompt": 8, "out": out,
            "sampling": SamplingConfig(max_tokens=TOKENS), "solo_share": 1.0,
        }  # fmt: skip
        model = build_model(tokenizer, architecture=architecture, layers=4, hidden=hidden)  # type: ignore[arg-type]
        policy = Policy("made", model, TransformersCodec(tokenizer))
        return Trainer(TrainConfig(**options | fields | changed), policy=policy)

    def step(trainer: Trainer) -> Iterator[str]:
        trajectories = trainer.collect()
        for index, trajectory in enumerate(trajectories):
            trajectory.reward = float(index % 2)  # so that all rows learn
        yield "rollout"
        trainer.update(trajectories)
        yield "update"

    def settle() -> None:
        gc.collect()
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here

    list(step(make(32, prompts_per_step=1)))  # so that everything is imported
    settle()
    before = _resident("VmRSS")
    trainer = make(256)
    planned = memory(trainer.config, Subject.of(trainer.model, trainer.env))
    found = {}
    for phase in step(trainer):
        found[phase] = sum(planned[phase].values()), _resident("VmHWM") - before
        settle()
    return found


def _resident(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 2**20


def main() -> None:
    """Prints a table."""
    context = multiprocessing.get_context("spawn")
    print("| model | run | rollout: plan / measured GiB | update: plan / measured GiB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for architecture in ("llama", "qwen3", "gpt_neox"):
            for name, fields in list(SETTINGS.items())[: None if architecture == "llama" else 2]:
                with context.Pool(1) as pool:
                    found = pool.apply(measure, (architecture, fields, Path(folder)))
                cells = [f"{plan:.2f} / {real:.2f} ({plan / real:.2f})" for plan, real in found.values()]
                print(f"| {architecture} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
