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

import contextlib
import dataclasses
import importlib.util
import json
import resource
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from benchmarks import report

if TYPE_CHECKING:
    from torch import Tensor

WAYS = ("ours", "ours, with entropy", "OpenRLHF", "TRL, full logits", "TRL, fused")
Device = Literal["cpu", "cuda"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The size of the head."""

    rows: int = 2048
    """Tokens that bear loss."""
    vocabulary: int = 151_936
    """Of the output layer; that of Qwen2.5 and Qwen3."""
    hidden: int = 256
    """Its input; 896 in Qwen2.5-0.5B."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of hidden states and weight."""
    device: Device = "cpu"
    """Where it runs."""
    repeats: int = 3
    """Timed passes of each way, after one that is not; the peak is of all of them."""
    checked_rows: int = 64
    """Rows on which gradients are compared with float64."""
    openrlhf_utils: Path | None = None
    """OpenRLHF's `models/utils.py`, where the package is not installed."""
    json: Path | None = None
    """Also writes the results here."""
    way: str | None = None
    """Runs this way alone, in this process (what the program starts for each of them)."""


def main(settings: Settings) -> None:
    """Runs every way in a process of its own and prints the table."""
    if settings.way is not None:
        print(json.dumps(measure(settings)))
        return
    results: dict[str, dict[str, float | str]] = {}
    for way in WAYS:
        arguments = [f"--{f.name.replace('_', '-')}={getattr(settings, f.name)}" for f in dataclasses.fields(settings)
                     if f.name not in ("json", "way", "openrlhf_utils")]  # fmt: skip
        if settings.openrlhf_utils is not None:
            arguments.append(f"--openrlhf-utils={settings.openrlhf_utils}")
        command = [sys.executable, "-m", "benchmarks.logprob_memory", *arguments, f"--way={way}"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = run.stdout.strip().splitlines()
        if run.returncode == 0 and lines:
            results[way] = json.loads(lines[-1])
        else:
            results[way] = {"missing": run.stderr.strip().splitlines()[-1][:200] if run.stderr.strip() else "no output"}
    rows = []
    ours = results["ours"]
    for way, result in results.items():
        if "missing" in result:
            rows.append([way, str(result["missing"])[:60], "", "", ""])
            continue
        base = results["ours, with entropy"] if way.startswith("TRL") or way == "ours, with entropy" else ours
        ratio = float(result["peak_gib"]) / max(float(base["peak_gib"]), 1e-9)
        rows.append(
            [
                way,
                f"{float(result['peak_gib']):.3f}",
                f"{ratio:.2f}x",
                f"{float(result['seconds']):.3f}",
                f"{float(result['gradient_error']):.1e}",
            ]
        )
    size = f"{settings.rows:,} x {settings.vocabulary:,}, hidden {settings.hidden}, {settings.dtype}, {settings.device}"
    about = report.machine(("torch", "trl", "openrlhf"), threads=0)
    logits = settings.rows * settings.vocabulary * 4 / 2**30
    notes = [f"all logits in fp32 would take {logits:.2f} GiB", "the ratio is to ours of the same outputs"]
    report.print_report(
        f"The head, {size}", about, ["way", "peak, GiB", "by ours", "median s", "gradient error"], rows, notes
    )
    if settings.json is not None:
        report.write_json(settings.json, {"about": about, "settings": settings, "results": results})


def measure(settings: Settings) -> dict[str, float | str]:
    """One way's peak memory in GiB, median seconds, and largest relative difference of its gradients to float64's."""
    import torch

    device = torch.device(settings.device)
    dtype = getattr(torch, settings.dtype)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(settings.rows, settings.hidden, generator=generator).to(device, dtype).requires_grad_()
    scale = settings.hidden**-0.5
    weight = (
        (torch.randn(settings.vocabulary, settings.hidden, generator=generator) * scale)
        .to(device, dtype)
        .requires_grad_()
    )
    ids = torch.randint(settings.vocabulary, (settings.rows,), generator=generator).to(device)
    weights = torch.randn(settings.rows, generator=generator).to(device)
    head = _head(settings)

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
        before = _reset_peak_resident()
    seconds = []
    for _ in range(settings.repeats + 1):
        started = time.perf_counter()
        run(settings.rows)
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if settings.device == "cuda" else _peak_resident()
    run(settings.checked_rows)
    error = _gradient_error(hidden, weight, ids, weights, settings.checked_rows)
    return {
        "peak_gib": (peak - before) / 2**30,
        "seconds": report.spread(seconds[1:]).median,
        "gradient_error": error,
    }


def _head(settings: Settings) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    import torch

    if settings.way in ("ours", "ours, with entropy"):
        from algorithms.chunked_head import chunked_logprobs

        with_entropy = settings.way != "ours"
        return lambda hidden, weight, ids: chunked_logprobs(hidden, weight, None, ids, with_entropy=with_entropy)[0]
    if settings.way == "OpenRLHF":
        theirs = _openrlhf_utils(settings.openrlhf_utils).log_probs_from_logits
        return lambda hidden, weight, ids: theirs((hidden @ weight.T)[None].to(torch.float32), ids[None])[0]
    if settings.way == "TRL, full logits":
        from trl.trainer.utils import selective_log_softmax_and_entropy

        return lambda hidden, weight, ids: selective_log_softmax_and_entropy(
            (hidden @ weight.T)[None], ids[None], entropy_requires_grad=False
        )[0][0]
    if settings.way == "TRL, fused":
        from trl.kernels import ChunkedLogProbFunction
        from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as size

        return lambda hidden, weight, ids: ChunkedLogProbFunction.apply(
            hidden, weight, None, ids, 1.0, size, None, 1.0, ("log_probs", "entropy")
        )[0]
    raise ValueError(f"way is one of {', '.join(WAYS)}; got {settings.way!r}.")


def _openrlhf_utils(path: Path | None) -> types.ModuleType:
    """OpenRLHF's module of these functions by its file alone: its package imports the whole cluster stack."""
    if path is None:
        found = importlib.util.find_spec("openrlhf")
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError("openrlhf is not installed; --openrlhf-utils names the file instead")
        path = Path(found.submodule_search_locations[0]) / "models" / "utils.py"
    if importlib.util.find_spec("deepspeed") is None:
        sys.modules["deepspeed"] = types.ModuleType("deepspeed")  # imported there, and used by another function
    spec = importlib.util.spec_from_file_location("openrlhf_models_utils", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def _reset_peak_resident() -> int:
    """Makes the resident memory of this moment the process's peak, where the system can; returns it in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak_resident()


def _peak_resident() -> int:
    """The process's peak resident memory in bytes, since `_reset_peak_resident` where the system can say so."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
