"""`aipo demo`: what the embedded policy learns to do alone, with AIPO and without.

Every method starts from the same weights, gets the same number of rollouts of the same tasks, and is measured on the
same test problems, whose operands occur in no training problem.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from algorithms.config import ObjectiveConfig
from algorithms.progress import describe, make_progress
from algorithms.train_config import SamplingConfig, TrainConfig

SUMMARY = "summary.json"
STEPS = 60
TEST_TASKS, TEST_SAMPLES = 200, 8

Result = dict[str, float]
"""The accuracies on the test problems, and the seconds of training in the method's process."""

GROUP: dict[str, Any] = {"policy_baseline": "group", "agent_baseline": "group", "self_imitation": 0.0}
METHODS: Mapping[str, tuple[ObjectiveConfig, float]] = {
    "aipo": (ObjectiveConfig(agent_weight=2.0), 0.5),
    "mask": (ObjectiveConfig(agent_loss="mask", policy_baseline="group"), 0.5),
    "grpo": (ObjectiveConfig(agent_loss="mask", policy_baseline="group"), 1.0),
    "clone": (
        ObjectiveConfig(agent_loss="clone", agent_weight=2.0, **GROUP),
        0.5,
    ),
    "luffy": (
        ObjectiveConfig(agent_loss="luffy", agent_weight=2.0, **GROUP),
        0.5,
    ),
}
"""Method to (objective, share of rollouts without help). `grpo` never sees a helper. Only `aipo` has baselines of its own; the
others compare all rollouts of a prompt with each other."""
LABELS = {
    "start": "start policy",
    "grpo": "GRPO, no helpers",
    "mask": "helpers, replies masked",
    "aipo": "AIPO",
    "clone": "helpers, replies cloned",
    "luffy": "helpers, LUFFY's shaping",
}


def demo_config(
    method: str, out: Path, *, seed: int = 0, steps: int | None = None, test_tasks: int = TEST_TASKS
) -> TrainConfig:
    """The run of one method; batch, learning rate and optimizer are what every run has by default."""
    objective, solo_share = METHODS[method]
    return TrainConfig(
        env="rulebook-consult",
        env_options={"level": 2, "operators": "@", "style": "terse", "prompt": "bare", "max_reply_chars": 40},
        policy="embedded",
        out=out / method,
        seed=seed,
        steps=STEPS if steps is None else steps,
        solo_share=solo_share,
        objective=objective,
        sampling=SamplingConfig(max_tokens=48),
        eval_tasks=test_tasks,
        eval_samples=TEST_SAMPLES,
        eval_every=0,
        trace_every=20,
    )


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    full: bool = False,
    steps: int | None = None,
    processes: int = 2,
    test_tasks: int = TEST_TASKS,
) -> Path:
    """Trains every method, prints the comparison, and writes it to `out`.

    Args:
        out: gets summary.json, learning_curves.png, transcripts.txt, and a folder for each method.
        seed: decides tasks, sampling and helpers.
        full: adds clone and luffy.
        steps: optimizer steps of each method.
        processes: methods trained at the same time.
        test_tasks: problems of the final measurement.

    Returns:
        The path of summary.json.
    """
    started = time.perf_counter()
    methods = list(METHODS) if full else ["aipo", "mask", "grpo"]
    out.mkdir(parents=True, exist_ok=True)
    for method in methods:
        shutil.rmtree(out / method, ignore_errors=True)
    console = Console()
    console.print(
        "Training the embedded policy (0.3 M parameters) on rulebook-consult: problems such as 473@128=, where only the "
        "Knowledge helper knows what @ means. Assisted: the policy may ask the helper. Solo: it answers alone, which is what "
        "counts after training.",
        highlight=False,
    )
    configs = {m: demo_config(m, out, seed=seed, steps=steps, test_tasks=test_tasks) for m in methods}
    results = _train_all(configs, max(1, processes))
    summary: dict[str, object] = {
        name: results[name] for name in dict.fromkeys(["start", "grpo", "mask", "aipo", *methods])
    }
    config = configs["aipo"]
    per_step = config.prompts_per_step * config.samples_per_prompt
    summary |= {
        "seed": seed,
        "steps": config.steps,
        "rollouts": config.steps * per_step,
        "seconds": round(time.perf_counter() - started, 1),
    }
    path = out / SUMMARY
    path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    transcripts = _write_transcripts(out, methods)
    _plot(out, methods)
    console.print(_table(results, methods, config))
    # AIPO's own three: early with help, early alone, late alone.
    panels = [
        Panel(Text(text.rstrip(), overflow="fold"), title=title, title_align="left") for title, text in transcripts[:3]
    ]
    console.print(*panels[:1], Columns(panels[1:], equal=True, width=max(38, console.width // 2 - 1)))
    console.print(f"{summary['seconds']} s. Written: {path}, learning_curves.png and transcripts.txt beside it. Next:")
    for command, purpose in (
        (f"aipo view {out / 'aipo'}", "its rollouts, token by token"),
        (f"aipo report {out}", "the curves of all methods on one page"),
        ("aipo play rulebook-consult", "the task, in the policy's place"),
    ):
        console.print(f"  {command:<30} {purpose}", markup=False, highlight=False)
    return path


def _train_all(configs: Mapping[str, TrainConfig], processes: int) -> dict[str, Result]:
    """Trains the methods in processes of one thread each, which on small models is faster than threads."""
    context = multiprocessing.get_context("spawn")
    results: dict[str, Result] = {}
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, initializer=_leave_interrupts_to_the_parent)
    with _ended_at_once(pool), make_progress() as progress:
        futures = {pool.submit(_train_one, config): method for method, config in configs.items()}
        bars = {m: progress.add_task(m, total=config.steps, start=False, note="waits") for m, config in configs.items()}
        waiting = set(futures)
        while waiting:
            finished, waiting = concurrent.futures.wait(waiting, timeout=0.5)
            for future in finished:
                # Every method starts from the same policy, on the same problems.
                results["start"], results[futures[future]] = future.result()
            for method, bar in bars.items():
                if rows := _rows(configs[method].out / "metrics.jsonl"):
                    if not progress.tasks[bar].started:
                        progress.start_task(bar)
                    progress.update(bar, completed=int(rows[-1]["step"]), note=describe(rows[-1]))
    return results


@contextlib.contextmanager
def _ended_at_once(pool: concurrent.futures.ProcessPoolExecutor) -> Iterator[None]:
    """Closes the pool; after Ctrl-C or an error without waiting for the methods that still train."""
    others = multiprocessing.active_children()
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown()


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _train_one(config: TrainConfig) -> tuple[Result, Result]:
    """What the policy can do on the test problems before and after the run."""
    import torch

    from algorithms.progress import quiet_libraries
    from algorithms.trainer import Trainer

    torch.set_num_threads(1)
    quiet_libraries()
    # What goes wrong with a method is what the demo shows.
    history = Trainer(config).train(on_problem=lambda text: None)
    names = ("solo_pass1", f"solo_pass{TEST_SAMPLES}", "assisted_pass1")
    before, after = (
        {name: row[f"eval/{name}"] for name in names} | {"seconds": round(row["seconds"], 1)}
        for row in (history[0], history[-1])
    )
    return before, after


def _rows(path: Path) -> list[dict[str, float]]:
    """The rows of a run so far; behind the last line's end there is nothing, or a line that is being written."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def _table(results: Mapping[str, Result], methods: list[str], config: TrainConfig) -> Table:
    table = Table(
        title=f"{config.eval_tasks} test problems, {TEST_SAMPLES} samples each; {config.steps} steps, seed {config.seed}",
        title_justify="left",
    )
    for name in ("", "solo pass@1", "solo pass@8", "assisted pass@1", "training, s"):
        table.add_column(name, justify="right" if name else "left")
    for method in ["start", *sorted(methods, key=list(LABELS).index)]:
        *shares, seconds = results[method].values()
        values = [*(f"{share:.3f}" for share in shares), f"{seconds:.0f}"]
        table.add_row(LABELS[method], *values, style="bold" if method == "aipo" else "")
    return table


def _write_transcripts(out: Path, methods: list[str]) -> list[tuple[str, str]]:
    """Some episodes to read, title and text: with help early in the AIPO run, alone at its end, and alone with the others."""
    from aipo_env import read_traces, render_transcript

    blocks = []
    for method in ["aipo", *(m for m in methods if m != "aipo")]:
        path = out / method / "traces.jsonl"
        traces = list(read_traces(path)) if path.exists() else []
        if not traces:
            continue
        steps = [int(str(t.metadata["step"])) for t in traces]
        first, last = min(steps), max(steps)
        wanted = [("early, with help", first, True), ("early, alone", first, False), ("late, alone", last, False)]
        for label, step, assisted in wanted if method == "aipo" else wanted[2:]:
            picked = [t for t in traces if t.metadata["step"] == step and t.assisted is assisted]
            if picked:
                # A typical one: of the verdict that most have.
                correct = sum(t.reward > 0 for t in picked) * 2 >= len(picked)
                shown = next((t for t in picked if (t.reward > 0) is correct), picked[0])
                blocks.append((f"{LABELS[method]}, step {step}, {label}", render_transcript(shown)))
    (out / "transcripts.txt").write_text("\n".join("\n".join(block) for block in blocks), encoding="utf-8")
    return blocks


def _plot(out: Path, methods: list[str]) -> None:
    """Accuracy of the solo rollouts of each training batch: fresh problems, solved alone."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for method in sorted(methods, key=list(LABELS).index):
        if rows := _rows(out / method / "metrics.jsonl")[1:]:
            values = [row["train/solo_accuracy"] for row in rows]
            windows = [values[max(0, i - 4) : i + 1] for i in range(len(values))]
            smooth = [sum(window) / len(window) for window in windows]
            width = 2.5 if method == "aipo" else 1.5
            style = "--" if method == "mask" else "-"
            axes.plot([row["rollouts"] for row in rows], smooth, style, label=LABELS[method], linewidth=width)
    axes.set(xlabel="rollouts", ylabel="solved alone (mean of 5 batches)", ylim=(-0.03, 1.03))
    axes.set_title("rulebook-consult, embedded policy: solo accuracy while training")
    axes.legend(loc="center left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out / "learning_curves.png", dpi=150)
    plt.close(figure)
