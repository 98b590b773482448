"""The study's question put to a real language model: SmolLM2-135M-Instruct on problems in words.

    python -m benchmarks.boundary.smollm2 --device cuda

As it comes, SmolLM2 neither asks nor boxes an answer, so it gets the embedded policy's warm-up first (supervised, on made-up
operators: asking, copying, adding digits; never what `@` means). Then each method trains from there, all at the
same time on one device. This is one seed and one task family: an existence proof on a pretrained model, not a comparison.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from aipo_env.installation import DISTRIBUTION
from aipo_env.make_options import Options
from algorithms.config import ObjectiveConfig
from algorithms.train_config import SamplingConfig, TrainConfig
from benchmarks import report

if TYPE_CHECKING:
    from algorithms.policies import Policy

ENV_OPTIONS: Options = {
    "level": 2, "operators": "@", "style": "words", "prompt": "bare", "max_reply_chars": 40,
}  # fmt: skip
METHODS: dict[str, tuple[ObjectiveConfig, float, float]] = {
    "aipo": (ObjectiveConfig(agent_weight=2.0), 0.5, 1.0),
    "aipo, half the learning rate": (ObjectiveConfig(agent_weight=2.0), 0.5, 0.5),
    "mask": (ObjectiveConfig(agent_loss="mask", policy_baseline="group"), 0.5, 1.0),
    "grpo": (ObjectiveConfig(agent_loss="mask", policy_baseline="group"), 1.0, 1.0),
}
"""Method to (objective, share of solo rollouts, factor of the learning rate)."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes; the defaults are for one GPU and ten minutes."""

    out: Path = Path("runs/smollm2")
    """Gets results.json, and the warmed-up policy."""
    policy: str = "smollm2"
    """What is warmed up: as for `aipo train --policy`."""
    device: str = "cpu"
    """A torch device."""
    warmup_steps: int = 300
    """Optimizer steps of the warm-up, 64 sequences each."""
    warmup_learning_rate: float = 2e-4
    """Its peak."""
    steps: int = 80
    """Optimizer steps of each method, 256 rollouts each."""
    learning_rate: float = 5e-5
    """Their peak learning rate."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Those that are run, at the same time."""
    minutes: float = 9.0
    """From the start of the program; a method then ends after the step that it is in, and is measured."""
    problems: int = 64
    """Held-out problems of the measurements."""
    samples: int = 16
    """Of each at the end; a quarter of them at the start, two while training."""
    seed: int = 0
    """Of everything."""


def main(settings: Settings) -> int:
    """Warms up, trains every method, writes results.json."""
    started = time.time()
    settings.out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    folder = settings.out / "warmed-up"
    with concurrent.futures.ProcessPoolExecutor(len(settings.methods), context) as pool:
        if not (folder / "model.safetensors").exists():
            print(pool.submit(_warm_up, settings, folder).result(), flush=True)
        deadline = started + 60 * settings.minutes
        futures = {pool.submit(_train, settings, method, folder, deadline): method for method in settings.methods}
        rows = []
        for future in concurrent.futures.as_completed(futures):
            rows.append(future.result())
            # Each method as it ends: what follows may be cut.
            about = report.machine((DISTRIBUTION, "torch", "transformers"), threads=1) | {"device": settings.device}
            report.write_json(settings.out / "results.json", {"about": about, "settings": settings, "methods": rows})
            print(json.dumps(rows[-1]), flush=True)
    print(f"{time.time() - started:.0f} s; written: {settings.out / 'results.json'}")
    return 0


def _warm_up(settings: Settings, folder: Path) -> str:
    import torch

    from algorithms.policies import load_policy
    from algorithms.progress import quiet_libraries
    from algorithms.warmup import WarmupConfig, warm_up

    quiet_libraries()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(settings.seed)
    started = time.time()
    policy = load_policy(settings.policy, settings.device)
    losses: list[float] = []
    config = WarmupConfig(
        steps=settings.warmup_steps,
        batch_size=64,
        learning_rate=settings.warmup_learning_rate,
        style="words",
        seed=settings.seed,
    )
    warm_up(config, folder, lambda step, loss: losses.append(loss), policy=policy)
    return f"warm-up: {time.time() - started:.0f} s, loss {losses[0]:.3f} to {losses[-1]:.3f}"


def _train(settings: Settings, method: str, folder: Path, deadline: float) -> dict[str, object]:
    import torch

    from algorithms.policies import load_policy
    from algorithms.progress import quiet_libraries
    from algorithms.trainer import Trainer

    quiet_libraries()
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(1)
    objective, solo_share, factor = METHODS[method]
    policy = load_policy(str(folder), settings.device)
    config = TrainConfig(
        env="rulebook-consult",
        env_options=ENV_OPTIONS,
        seed=settings.seed,
        steps=settings.steps,
        prompts_per_step=32,
        samples_per_prompt=8,
        solo_share=solo_share,
        objective=objective,
        learning_rate=factor * settings.learning_rate,
        final_learning_rate=0.3,
        betas=(0.9, 0.95),
        sampling=SamplingConfig(max_tokens=160),
        micro_batch_size=64,
        device=settings.device,
    )
    trainer = Trainer(config, policy=policy)
    curve: list[dict[str, float]] = []
    started = time.time()
    start = {mode: _accuracy(settings, policy, max(1, settings.samples // 4), mode) for mode in ("solo", "assisted")}
    while trainer.step < settings.steps and time.time() < deadline - 40:
        metrics, _ = trainer.train_step()
        names = (
            "step",
            "rollouts",
            "train/solo_accuracy",
            "train/assisted_accuracy",
            "agent/probability",
            "train/consult_rate",
        )
        curve.append({name: round(metrics[name], 4) for name in names if name in metrics})
    return {
        "method": method,
        "start": start,
        "solo": _accuracy(settings, policy, settings.samples, "solo"),
        "assisted": _accuracy(settings, policy, max(1, settings.samples // 4), "assisted"),
        "steps": trainer.step,
        "rollouts": trainer.num_rollouts,
        "seconds": round(time.time() - started, 1),
        "curve": curve,
    }


def _accuracy(settings: Settings, policy: Policy, num_samples: int, mode: str) -> dict[str, object]:
    from aipo_env.metrics import bootstrap_interval, mean_pass_at_k
    from aipo_env.registry import make
    from algorithms.evaluation import count_correct
    from algorithms.rollout import LocalSampler

    env = make("rulebook-consult", codec=policy.codec, split="test", **ENV_OPTIONS)  # type: ignore[misc]
    correct = count_correct(
        LocalSampler(policy, SamplingConfig(max_tokens=160)),
        env,
        range(settings.problems),
        num_samples=num_samples,
        seed=settings.seed + 1,
        assisted=mode == "assisted",
    )
    counts = [(num_samples, c) for c in correct]
    interval = bootstrap_interval([c / num_samples for c in correct])
    return {
        "pass@1": round(interval.estimate, 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
        f"pass@{num_samples}": round(mean_pass_at_k(counts, num_samples), 4),
    }


if __name__ == "__main__":
    sys.exit(report.start(Settings, main, "smollm2.py", __doc__))
