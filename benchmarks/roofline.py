"""How near the trainer comes to the machine: operations per processor second of a step beside those of plain products.

    python -m benchmarks.roofline [--threads N] [--json FILE]

The roof is the best rate of a matrix product of fp32 numbers, at large shapes and at the shapes of the embedded model's
layers. Sampling and the update are those of `benchmarks.trainer_speed` (16 x 16 rollouts). Their operations are counted by
`torch.utils.flop_counter` in a pass of its own, with the same samples as a timed one. It counts matrix products; not
softmax, norms, rotations, and not PyTorch's fused attention on a CPU. What is not counted takes time all the same, which is
a part of what is missing to the roof. Seconds are the processor's, with one thread those of a core. Memory is the other
roof: the rate at which a vector too large for the caches is read.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from aipo_env.installation import DISTRIBUTION
from benchmarks import report
from benchmarks.trainer_speed import Settings as TrainerSettings
from benchmarks.trainer_speed import make_ours

if TYPE_CHECKING:
    from torch import nn

PACKAGES = (DISTRIBUTION, "torch", "transformers")
LARGE = ((512, 512, 512), (1024, 1024, 1024))
"""Shapes (M, K, N) of products that no model is needed for."""
READ_MIB = 256
"""Of the vector that is read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(report.Settings):
    """What is measured."""

    steps: int = 5
    """Timed steps, after one that is not."""
    repeats: int = 30
    """Timed products of each shape."""
    threads: int = 1
    """That torch computes with."""

    least: ClassVar = {"steps": 1, "repeats": 1, "threads": 1}


def product_flops(m: int, k: int, n: int) -> int:
    """Operations of (m, k) @ (k, n): a product and a sum for each of m * k * n."""
    return 2 * m * k * n


def layer_shapes(model: nn.Module, num_rows: int) -> list[tuple[int, int, int]]:
    """The distinct (rows, in, out) of a model's linear layers."""
    from torch import nn

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    return list(dict.fromkeys((num_rows, layer.in_features, layer.out_features) for layer in layers))


def rate(run: Callable[[], object], work: float, repeats: int) -> report.Spread:
    """Work per nanosecond (a thousand million of it per second) of some passes, after two that are not timed."""
    samples = []
    for repeat in range(repeats + 2):
        started = time.process_time()
        run()
        if repeat > 1:
            samples.append(work / (time.process_time() - started) / 1e9)
    return report.spread(samples)


def product_rates(shapes: Sequence[tuple[int, int, int]], repeats: int) -> dict[str, report.Spread]:
    """GFLOP per processor second of fp32 products, by shape."""
    import torch

    rates = {}
    for m, k, n in shapes:
        a, b = torch.randn(m, k), torch.randn(n, k)
        with torch.inference_mode():
            rates[f"{m} x {k} x {n}"] = rate(partial(torch.mm, a, b.T), product_flops(m, k, n), repeats)
    return rates


def step_rates(settings: Settings) -> tuple[dict[str, report.Spread], dict[str, float]]:
    """GFLOP per processor second of sampling and of the update, and the GFLOP of one of each."""
    from torch.utils.flop_counter import FlopCounterMode

    trainer = make_ours(TrainerSettings(threads=settings.threads), seed=0)
    samples: list[dict[str, float]] = []
    for _ in range(settings.steps + 1):
        # The same seeds give the same rollouts, so the counted pass does what the timed one does.
        with FlopCounterMode(display=False) as sampling_flops:
            trainer.collect()
        started = time.process_time()
        trajectories = trainer.collect()
        sampled = time.process_time()
        trainer.update(trajectories)
        updated = time.process_time()
        with FlopCounterMode(display=False) as update_flops:
            trainer.update(trajectories)
        trainer.step += 1
        gflop = {
            "sampling": sampling_flops.get_total_flops() / 1e9,
            "update": update_flops.get_total_flops() / 1e9,
        }
        samples.append(
            {"sampling": gflop["sampling"] / (sampled - started), "update": gflop["update"] / (updated - sampled)}
        )
    return report.spreads(samples[1:]), gflop


def benchmark(settings: Settings) -> report.Result:
    """Measures the roof and the steps."""
    import torch

    from algorithms.policies import load_policy
    from algorithms.progress import quiet_libraries

    quiet_libraries()
    torch.set_num_threads(settings.threads)
    model = load_policy("embedded").model
    products = product_rates([*LARGE, *layer_shapes(model, 256), *layer_shapes(model, 2048)], settings.repeats)
    vector = torch.ones(READ_MIB * 2**18)
    memory = rate(vector.sum, vector.numel() * 4, settings.repeats)
    steps, gflop = step_rates(settings)
    notes = [
        f"The last step's sampling had {gflop['sampling']:.1f} GFLOP and its update {gflop['update']:.1f}.",
        f"Reading {READ_MIB} MiB: {memory.text(1)} GB per processor second.",
        "Medians (least .. largest). The roof is the best median of a product.",
    ]
    data = {"products": products, "memory": memory, "steps": steps, "gflop": gflop}
    return report.Result([roofline_table(products, steps, notes)], data)


def roofline_table(
    products: dict[str, report.Spread], steps: dict[str, report.Spread], notes: Sequence[str]
) -> report.Table:
    """The rates, and their shares of the best median of a product."""
    roof = max(spread.median for spread in products.values())
    shown = {f"product {shape}": spread for shape, spread in products.items()} | steps
    rows = [[name, spread.text(1), f"{spread.median / roof:.0%}"] for name, spread in shown.items()]
    return report.Table("Roofline", ["", "GFLOP / processor s", "of the roof"], rows, notes)


if __name__ == "__main__":
    raise SystemExit(report.run(Settings, benchmark, PACKAGES))
