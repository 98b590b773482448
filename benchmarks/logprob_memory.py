r"""Peak memory and time of the log-probability head: ours beside OpenRLHF's way and TRL's two ways.

    python -m benchmarks.logprob_memory                                    # a size that fits a CPU
    python -m benchmarks.logprob_memory --device cuda --rows 32768 --dtype bfloat16

Each way runs in a process of its own, from the output layer's input (rows x hidden) and its weight to log-probabilities and
back to the gradients of both, the loss being a weighted sum of the log-probabilities. On CUDA the peak is the allocator's, less
the inputs; on a CPU it is the growth of the process's peak resident memory.

- `ours`: `algorithms.chunked_head`; with entropies as well in the row that says so.
- `OpenRLHF`: the whole logits, made fp32 as its `Actor` does, then its own `log_probs_from_logits`.
- `TRL, full logits`: the whole logits, then its own `selective_log_softmax_and_entropy` (`GRPOTrainer` before 1.16,
  other TRL trainers today).
- `TRL, fused`: `ChunkedLogProbFunction`, which `GRPOTrainer` of TRL 1.16 puts into every model. It computes entropies too.

The functions are those of the installed packages; a package that is not there leaves its row out. Gradients are compared with
a float64 computation on the first rows.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from aipo_env.installation import DISTRIBUTION
from benchmarks import report

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = (DISTRIBUTION, "torch", "trl", "openrlhf")
WAYS = ("ours", "ours, with entropy", "OpenRLHF", "TRL, full logits", "TRL, fused")
CHECKED_ROWS = 64
"""Rows on which gradients are compared with float64."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(report.Settings):
    """The size of the head."""

    rows: int = 2048
    """Tokens that bear loss."""
    vocabulary: int = 151_936
    """Of the output layer; that of Qwen2.5 and Qwen3."""
    hidden: int = 256
    """Its input; 896 in Qwen2.5-0.5B."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of hidden states and weight."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it runs."""
    repeats: int = 3
    """Timed passes of each way, after one that is not; the peak is of all of them."""
    openrlhf_utils: Path | None = None
    """OpenRLHF's `models/utils.py`, where the package is not installed."""

    least: ClassVar = {"rows": 1, "vocabulary": 2, "hidden": 1, "repeats": 1}


def benchmark(settings: Settings) -> report.Result:
    """Measures every way in a process of its own."""
    results: dict[str, dict[str, float]] = {}
    missing: dict[str, str] = {}
    for way in WAYS:
        try:
            results[way] = report.in_own_process(measure, settings, way)
        except (ImportError, MemoryError, RuntimeError) as error:  # not installed, or too large for the machine
            if way.startswith("ours"):
                raise
            missing[way] = f"{type(error).__name__}: {error}".partition("\n")[0]
    rows = []
    for way, found in results.items():
        # TRL's ways compute entropies too.
        ours = results["ours" if way in ("ours", "OpenRLHF") else "ours, with entropy"]
        by_ours = found["peak_gib"] / max(ours["peak_gib"], 1e-9)
        peak, distance = f"{found['peak_gib']:.3f}", f"{found['gradient_error']:.1e}"
        rows.append([way, peak, f"{by_ours:.2f}x", f"{found['seconds']:.3f}", distance])
    logits = settings.rows * settings.vocabulary * 4 / 2**30
    notes = [f"all logits in fp32 would take {logits:.2f} GiB", "the ratio is to ours of the same outputs"]
    notes += [f"{way} did not take part: {reason}" for way, reason in missing.items()]
    size = f"{settings.rows:,} x {settings.vocabulary:,}, hidden {settings.hidden}, {settings.dtype}, {settings.device}"
    columns = ["way", "peak, GiB", "by ours", "median s", "gradient error"]
    return report.Result(
        [report.Table(f"The head, {size}", columns, rows, notes)], {"results": results, "missing": missing}
    )


def measure(settings: Settings, way: str) -> dict[str, float]:
    """One way's peak memory in GiB, median seconds, and largest relative difference of its gradients to float64's."""
    import torch

    device = torch.device(settings.device)
    dtype = getattr(torch, settings.dtype)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(settings.rows, settings.hidden, generator=generator).to(device, dtype).requires_grad_()
    weight = torch.randn(settings.vocabulary, settings.hidden, generator=generator) * settings.hidden**-0.5
    weight = weight.to(device, dtype).requires_grad_()
    ids = torch.randint(settings.vocabulary, (settings.rows,), generator=generator).to(device)
    weights = torch.randn(settings.rows, generator=generator).to(device)
    head = _head(settings, way)

    def run(rows: int) -> None:
        hidden.grad = weight.grad = None
        (head(hidden[:rows], weight, ids[:rows]) * weights[:rows]).sum().backward()  # type: ignore[no-untyped-call]
        if settings.device == "cuda":
            torch.cuda.synchronize()

    run(1)  # loads what is loaded at the first use
    hidden.grad = weight.grad = None
    if settings.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = report.reset_peak_resident()
    seconds = []
    for _ in range(settings.repeats + 1):
        started = time.perf_counter()
        run(settings.rows)
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if settings.device == "cuda" else report.peak_resident()
    run(CHECKED_ROWS)
    error = _gradient_error(hidden, weight, ids, weights, CHECKED_ROWS)
    return {
        "peak_gib": (peak - before) / 2**30,
        "seconds": report.spread(seconds[1:]).median,
        "gradient_error": error,
    }


def _head(settings: Settings, way: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    import torch

    if way in ("ours", "ours, with entropy"):
        from algorithms.chunked_head import chunked_logprobs

        with_entropy = way != "ours"
        return lambda hidden, weight, ids: chunked_logprobs(hidden, weight, None, ids, with_entropy=with_entropy)[0]
    if way == "OpenRLHF":
        theirs = _openrlhf_utils(settings.openrlhf_utils).log_probs_from_logits
        return lambda hidden, weight, ids: theirs((hidden @ weight.T)[None].to(torch.float32), ids[None])[0]
    if way == "TRL, full logits":
        from trl.trainer.utils import selective_log_softmax_and_entropy

        return lambda hidden, weight, ids: selective_log_softmax_and_entropy(
            (hidden @ weight.T)[None], ids[None], entropy_requires_grad=False
        )[0][0]
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as size

    return lambda hidden, weight, ids: ChunkedLogProbFunction.apply(
        hidden, weight, None, ids, 1.0, size, None, 1.0, ("log_probs", "entropy")
    )[0]


def _openrlhf_utils(path: Path | None) -> types.ModuleType:
    """OpenRLHF's module of these functions by its file alone: its package imports the whole cluster stack."""
    if importlib.util.find_spec("deepspeed") is None:
        sys.modules["deepspeed"] = types.ModuleType("deepspeed")  # imported there, and used by another function
    return report.load_alone(path or report.file_of("openrlhf", "openrlhf/models/utils.py"))


def _gradient_error(hidden: Tensor, weight: Tensor, ids: Tensor, weights: Tensor, rows: int) -> float:
    """The larger of ||g - reference|| / ||reference|| of both gradients, the reference in float64 on the first rows."""
    import torch

    wide_hidden = hidden[:rows].detach().double().requires_grad_()
    wide_weight = weight.detach().double().requires_grad_()
    logprobs = (wide_hidden @ wide_weight.T).log_softmax(dim=-1).gather(-1, ids[:rows, None]).squeeze(-1)
    expected = torch.autograd.grad((logprobs * weights[:rows].double()).sum(), [wide_hidden, wide_weight])
    assert hidden.grad is not None
    assert weight.grad is not None
    return max(
        float((got.double() - wanted).norm() / wanted.norm())
        for got, wanted in zip((hidden.grad[:rows], weight.grad), expected, strict=True)
    )


if __name__ == "__main__":
    raise SystemExit(report.run(Settings, benchmark, PACKAGES))
