"""What the AGENT term costs on TRL: `GRPOTrainer` as it is, ours with replies masked, and ours, side by side.

    python -m benchmarks.trl_cost

The embedded policy on the same prompts, problems of the rulebook; each run in a process of its own, one thread. TRL's own
trainer gets the prompts and a reward function that grades the completion; ours plays episodes with helpers, whose turns cost
too. So the term's cost is ours beside ours masked, the episodes' cost is masked beside TRL's own. Times are processor time, of
which other programs on the machine take little.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from aipo_env.installation import DISTRIBUTION
from benchmarks import report

OPTIONS = {"level": 2, "operators": "@", "style": "terse", "prompt": "bare", "max_reply_chars": 40}
WAYS = ("TRL's own", "ours, masked", "ours")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(report.Settings):
    """The size of a run."""

    steps: int = 6
    """Optimizer steps of 256 rollouts; the first is not timed."""
    repeats: int = 5
    """Runs of each way, in turns."""

    least: ClassVar[Mapping[str, float]] = {"steps": 2, "repeats": 1}


def measure(way: str, steps: int) -> dict[str, float]:
    """Trains in this process; tokens a second, their parts, and what memory grew by, in MB.

    Args:
        way: one of `WAYS`.
        steps: optimizer steps; the first is not timed.
    """
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        import torch
        from transformers import PrinterCallback, TrainerCallback

        torch.set_num_threads(1)
        trainer = _trainer(way, steps, folder)
        trainer.remove_callback(PrinterCallback)
        marks: list[float] = []

        class Clock(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *_: object, **__: object) -> None:
                marks.append(time.process_time())

        trainer.add_callback(Clock())
        before = report.reset_peak_resident()
        trainer.train()
        tokens = [row["num_tokens"] for row in trainer.state.log_history if "num_tokens" in row]
    seconds = marks[-1] - marks[0]
    return {
        "tokens a second": (tokens[-1] - tokens[0]) / seconds,
        "seconds a step": seconds / (steps - 1),
        "memory": (report.peak_resident() - before) / 1e6,
    }


def _trainer(way: str, steps: int, folder: str) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    import aipo_env
    from algorithms.adapters.trl import AIPOTrainer
    from algorithms.config import ObjectiveConfig
    from algorithms.policies import load_policy

    policy = load_policy("embedded")
    args = GRPOConfig(
        output_dir=folder, max_steps=steps, per_device_train_batch_size=64, gradient_accumulation_steps=4, num_generations=8,
        max_completion_length=48, scale_rewards="none", learning_rate=3e-4, use_cpu=True, bf16=False,
        gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    if way != WAYS[0]:
        objective = ObjectiveConfig(agent_loss="aipo" if way == "ours" else "mask")
        return AIPOTrainer(
            policy.model,
            "rulebook-consult",
            args,
            objective=objective,
            env_options=OPTIONS,
            processing_class=policy.tokenizer,
        )
    tasks = aipo_env.make("rulebook", **{n: v for n, v in OPTIONS.items() if n != "max_reply_chars"}).tasks  # type: ignore[arg-type]
    rows = [tasks.task(index) for index in range(2000)]

    def grade(completions: Sequence[str], index: Sequence[int], **_: object) -> list[float]:
        read = [text.partition("\\boxed{")[2].partition("}")[0] for text in completions]
        return [float(tasks.grade(rows[i], text).correct) for i, text in zip(index, read, strict=True)]

    data = Dataset.from_dict({"prompt": [row.problem for row in rows], "index": range(len(rows))})
    return GRPOTrainer(policy.model, grade, args, data, processing_class=policy.tokenizer)


def run(settings: Settings) -> report.Result:
    """Runs each way in turns."""
    measures = {way: functools.partial(report.in_own_process, measure, way, settings.steps) for way in WAYS}
    samples = report.in_turns(measures, settings.repeats)
    figures = {way: report.spreads(found) for way, found in samples.items()}
    steps = {way: [sample["seconds a step"] for sample in found] for way, found in samples.items()}
    term = report.ratios(steps["ours"], steps["ours, masked"])
    rows = [
        [way, found["tokens a second"].text(), found["seconds a step"].text(2), found["memory"].text()]
        for way, found in figures.items()
    ]
    notes = [f"a step of ours / of ours masked, pair by pair: {term.text(3)}"]
    table = report.Table("TRL, 256 rollouts a step", ("", "tokens / s", "s / step", "memory, MB"), rows, notes)
    return report.Result([table], {"samples": samples, "figures": figures, "term": term})


if __name__ == "__main__":
    sys.exit(report.run(Settings, run, (DISTRIBUTION, "torch", "transformers", "trl")))
