"""A pretrained language model, word problems that others wrote, and a CPU: what helpers leave behind there.

    python -m benchmarks.words --data FOLDER     # rows of MAWPS: {"input": "Joan found 70 seashells ...", "target": 43.0}

SmolLM2-135M-Instruct is warmed up on asking and boxing, on procedural sums of our own. From there it is trained by AIPO with
the embedded helpers, with their replies masked, and without helpers (GRPO), at equal rollouts; every policy is then measured
alone on problems that were held out. Rows are split by a hash of their text; equal problems fall on one side. The same command
goes on where it was cut, and writes words.md, words.json and words.png with what is finished.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aipo_agents.reasoning import IS_CLAIM, NO_STEP
from aipo_agents.verdicts import leading_verdict
from aipo_env.errors import ConfigurationError, DataFormatError
from aipo_env.make_options import Options
from aipo_env.metrics import avg_at_n, bootstrap_interval, mean_pass_at_k, paired_bootstrap
from algorithms.config import ObjectiveConfig
from algorithms.train_config import Dtype, SamplingConfig, TrainConfig
from benchmarks import report
from benchmarks.boundary import figures
from benchmarks.boundary.study import PACKAGES, prepare_process

Counts = list[tuple[int, int]]
"""Samples and right ones, problem by problem."""
METHODS: dict[str, tuple[str, ObjectiveConfig, float]] = {
    "aipo": ("AIPO", ObjectiveConfig(), 0.5),
    "mask": ("helpers, replies masked", ObjectiveConfig(agent_loss="mask"), 0.5),
    "grpo": ("GRPO, no helpers", ObjectiveConfig(agent_loss="mask", policy_baseline="group"), 1.0),
}
"""Name to its label, the objective, and the share of solo rollouts."""
START = "start"
PLAYED: Options = {"max_consults": 2, "prompt": "bare"}
"""Who was warmed up needs no instructions, which would double what is computed."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes; the defaults take an evening on two cores."""

    data: Path
    """Folder of .jsonl files with the fields `input` and `target`."""
    out: Path = Path("runs/words")
    """Keeps the rows, the policies and the runs."""
    results: Path | None = None
    """Where words.md, words.json and words.png go; `out` if left out."""
    policy: str = "smollm2"
    """What is warmed up: as for `aipo train --policy`."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Those that are trained."""
    seeds: tuple[int, ...] = (0, 1)
    """Of each method."""
    warmup_steps: int = 60
    """Of the warm-up, 16 episodes each."""
    warmup_learning_rate: float = 2e-5
    """Its peak."""
    steps: int = 40
    """Optimizer steps of each run."""
    prompts_per_step: int = 8
    """Groups of a step, of `samples_per_prompt` rollouts."""
    samples_per_prompt: int = 4
    """Rollouts of a group."""
    learning_rate: float = 2e-5
    """The peak of every method."""
    max_tokens: int = 128
    """Of an episode, replies included."""
    problems: int = 100
    """Held-out problems of a measurement."""
    samples: int = 8
    """Of each, alone, at temperature 1; one more is greedy."""
    assisted_samples: int = 2
    """The same with help."""
    processes: int = 2
    """Runs at the same time, one thread each."""
    minutes: float | None = None
    """Stops after so long; the same command goes on."""
    dtype: Dtype = "auto"
    """Of the weights in training; bfloat16 takes two thirds of the time on a CPU that knows it."""
    device: str = "cpu"
    """A torch device."""

    def __post_init__(self) -> None:
        """Refuses what cannot be run."""
        report.check_least(
            self, dict.fromkeys(("problems", "samples", "assisted_samples", "processes", "warmup_steps", "steps"), 1)
        )
        for method in self.methods:
            if method not in METHODS:
                raise ConfigurationError(f"methods are among {', '.join(METHODS)}; got {method!r}.")


def split_rows(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of a folder's files as `problem` and `answer`, a fifth of them held out.

    Raises:
        DataFormatError: there is no row, or one is not of that form.
    """
    found: dict[str, tuple[str, float]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = json.loads(line)
                problem, answer = row["input"], float(row["target"])
                key = " ".join(re.findall(r"\w+", problem.lower()))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise DataFormatError(
                    f'{path}, line {number}: expected {{"input": "a problem", "target": a number}}, got {line[:80]!r}.'
                ) from error
            found.setdefault(key, (problem, answer))
    if not found:
        raise DataFormatError(f"{folder} has no .jsonl file with rows: name the folder of the problems.")
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    # In the order of the hashes: the files are of different difficulty, and a measurement takes the first rows.
    digests = {hashlib.sha256(key.encode()).digest(): row for key, row in found.items()}
    for digest, (problem, answer) in sorted(digests.items()):
        held_out = int.from_bytes(digest[:8]) % 5 == 0
        rows["test" if held_out else "train"].append({"problem": problem, "answer": f"{answer:.10g}"})
    return rows


def main(settings: Settings) -> int:
    """Runs what is not finished, and writes what is; returns the exit code."""
    settings.out.mkdir(parents=True, exist_ok=True)
    report.same_settings(settings, settings.out, ("methods", "seeds", "results", "processes", "minutes", "data", "out"))
    for split, rows in split_rows(settings.data).items():
        (settings.out / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    deadline = None if settings.minutes is None else time.time() + 60 * settings.minutes
    names = [f"{method}-{seed}" for seed in settings.seeds for method in settings.methods]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(settings.processes, context, initializer=prepare_process) as pool:
        print(pool.submit(run, settings, START, deadline).result(), flush=True)
        if (settings.out / START / "measured.json").exists():
            for future in concurrent.futures.as_completed([pool.submit(run, settings, n, deadline) for n in names]):
                print(future.result(), flush=True)
    measured = {name: found for name in (START, *names) if (found := _read(settings.out / name / "measured.json"))}
    if measured:
        for path in write_up(measured, settings.results or settings.out, settings):
            print(f"written: {path}")
    if missing := [name for name in (START, *names) if name not in measured]:
        print(f"not finished: {', '.join(missing)}; the same command goes on.")
    return 0


def run(settings: Settings, name: str, deadline: float | None) -> str:
    """The warm-up ("start") or a training run ("aipo-0"), and its measurement, as far as it gets; says what happened."""
    folder = settings.out / name
    folder.mkdir(exist_ok=True)
    if (folder / "measured.json").exists():
        return f"{name}: was finished"
    begun, cpu = time.perf_counter(), time.process_time()
    spent = folder / "spent.jsonl"

    def note() -> None:
        """What the run has cost since it was last noted: a kill loses a step's."""
        nonlocal begun, cpu
        now = time.perf_counter(), time.process_time()
        with spent.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"wall": now[0] - begun, "cpu": now[1] - cpu}) + "\n")
        begun, cpu = now

    stop: Callable[[], bool] = lambda: deadline is not None and time.time() > deadline  # noqa: E731
    policy = folder / "policy"
    if not policy.exists():
        if name == START:
            _warm_up(settings, policy)
        elif not _train(settings, name, note, stop):
            return f"{name}: stopped"
        note()
    if stop():
        return f"{name}: trained"
    measured = _measure(settings, policy)
    note()
    costs = [json.loads(line) for line in spent.read_text(encoding="utf-8").splitlines()]
    measured |= {what: round(sum(cost[what] for cost in costs), 1) for what in ("wall", "cpu")}
    if name != START:
        measured["curve"] = _curve(folder)
    report.write_json(folder / "measured.json", measured)
    return f"{name}: finished"


def _warm_up(settings: Settings, folder: Path) -> None:
    from algorithms.commands import warmup

    # A rename is whole or not there: a warm-up that was cut is made again.
    warmup(
        policy=settings.policy, out=folder.with_suffix(".part"), steps=settings.warmup_steps, device=settings.device,
        learning_rate=settings.warmup_learning_rate, env_options=PLAYED,
    )  # fmt: skip
    folder.with_suffix(".part").rename(folder)


def _train(settings: Settings, name: str, note: Callable[[], None], stop: Callable[[], bool]) -> bool:
    from algorithms.trainer import Trainer

    method, _, seed = name.rpartition("-")
    _, objective, solo_share = METHODS[method]
    trainer = Trainer(
        TrainConfig(
            env="dataset-consult",
            env_options=_env_options(settings, "train"),
            # What it evaluates itself is a glance; `_measure` measures.
            eval_options={**_env_options(settings, "test"), "split": "test"},
            eval_every=0,
            eval_tasks=8,
            eval_samples=1,
            policy=str(settings.out / START / "policy"),
            out=settings.out / name,
            seed=int(seed),
            steps=settings.steps,
            prompts_per_step=settings.prompts_per_step,
            samples_per_prompt=settings.samples_per_prompt,
            solo_share=solo_share,
            objective=objective,
            learning_rate=settings.learning_rate,
            warmup_steps=3,
            sampling=SamplingConfig(max_tokens=settings.max_tokens),
            micro_batch_size=8,
            checkpoint_every=5,
            trace_every=max(1, settings.steps // 4),
            dtype=settings.dtype,
            device=settings.device,
        )
    )
    trainer.train(lambda metrics: note(), (), stop=stop)
    return trainer.finished


def _env_options(settings: Settings, split: str) -> Options:
    rows = settings.out / f"{split}.jsonl"
    return {"data": str(rows), "problem": "problem", "answer": "answer", "decontaminate": "none", **PLAYED}


def _measure(settings: Settings, folder: Path) -> dict[str, Any]:
    """Greedy and sampled, alone and with help, on the held-out problems; and what became of the questions."""
    import aipo_env
    from algorithms.evaluation import count_correct
    from algorithms.policies import load_policy
    from algorithms.rollout import LocalSampler

    policy = load_policy(str(folder), settings.device)
    options: dict[str, Any] = {**_env_options(settings, "test"), "split": "test"}
    env = aipo_env.make("dataset-consult", codec=policy.codec, **options)
    tasks, counts, asked = range(min(settings.problems, env.tasks.num_tasks or 0)), {}, Counter[str]()

    def look(trajectory: aipo_env.Trajectory) -> None:
        asked.update(
            f"{segment.agent}: {kind_of_reply(segment.text)}"
            for segment in trajectory.segments
            if segment.source is aipo_env.Source.AGENT
        )

    for mode, samples in ((False, settings.samples), (True, settings.assisted_samples)):
        for kind, temperature, num_samples in (("greedy", 0.0, 1), ("sampled", 1.0, samples)):
            sampler = LocalSampler(policy, SamplingConfig(temperature, max_tokens=settings.max_tokens))
            correct = count_correct(
                sampler, env, tasks, num_samples=num_samples, seed=1, assisted=mode, on_episode=look
            )
            counts[f"{'assisted' if mode else 'solo'} {kind}"] = [(num_samples, c) for c in correct]
    return {"counts": counts, "asked": dict(asked)}


def kind_of_reply(text: str) -> str:
    """What a reply of the embedded helpers says: a verdict, that there is nothing to say, or something ("told")."""
    nothing = text.startswith((NO_STEP, IS_CLAIM, "nothing found"))
    return "nothing to say" if nothing else leading_verdict(text) or "told"


def _curve(folder: Path) -> list[dict[str, float]]:
    names = ("step", "train/solo_accuracy", "train/assisted_accuracy", "train/consult_rate")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: row[name] for name in names if name in row} for row in rows if row["step"] > 0]


def write_up(measured: Mapping[str, Mapping[str, Any]], folder: Path, settings: Settings) -> list[Path]:
    """Writes words.md, words.json and, where a run is finished, words.png.

    Args:
        measured: "start" or run to what was measured of it.
        folder: gets the files.
        settings: of the command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base: Counts = measured[START]["counts"]["solo sampled"]
    lines = [
        "# Word problems, SmolLM2-135M, a CPU",
        f"Generated by `{report.command()}`: {len(base)} held-out problems; greedy is one attempt, the others are at "
        f"temperature 1, {base[0][0]} alone and {settings.assisted_samples} with help. In brackets 95 % of a bootstrap over "
        "problems; the change is that of solo pass@1 at temperature 1, problem by problem. CPU and wall hours are of training "
        "and measurement.",
        f"| policy | solo, greedy | solo pass@1 | change | solo pass@{base[0][0]} | assisted, greedy | assisted pass@1 | CPU "
        "hours | wall hours |",
    ]  # fmt: skip
    rows = ["|" + "---|" * 9]
    for name, found in measured.items():
        counts: dict[str, Counts] = found["counts"]
        change = paired_bootstrap([c / n for n, c in counts["solo sampled"]], [c / n for n, c in base])
        cells = [_label(name), _rate(counts["solo greedy"]), _rate(counts["solo sampled"])]
        cells += ["" if name == START else f"{change.difference:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"]
        cells += [f"{mean_pass_at_k(counts['solo sampled'], base[0][0]):.3f}"]
        cells += [_rate(counts["assisted greedy"]), _rate(counts["assisted sampled"])]
        rows.append(f"| {' | '.join([*cells, *(f'{found[what] / 3600:.2f}' for what in ('cpu', 'wall'))])} |")
    lines[-1] = "\n".join([lines[-1], *rows])
    asked = [f"- {_label(name)}: {_questions(found['asked'])}" for name, found in measured.items()]
    lines += ["What became of the questions that were asked while measuring with help:", "\n".join(asked)]
    written = [folder / "words.md", folder / "words.json"]
    if len(measured) > 1:
        written.append(folder / "words.png")
        lines.append("![Solved alone while training](words.png)")
        draw(measured, written[-1])
    written[0].write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    about = report.machine(PACKAGES, threads=1)
    report.write_json(written[1], {"machine": about, "settings": settings, "measured": measured})
    return written


def draw(measured: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws the share that is solved alone on the training problems, the mean of five steps; a line for each run."""
    figure, axes = figures.pyplot().subplots(figsize=(6.4, 4), layout="constrained")
    seen: set[str] = set()
    for name, found in measured.items():
        if curve := found.get("curve"):
            method = name.rpartition("-")[0]
            solo = [point["train/solo_accuracy"] for point in curve]
            means = [statistics.fmean(solo[max(0, end - 5) : end]) for end in range(1, len(solo) + 1)]
            label = None if method in seen else METHODS[method][0]
            axes.plot([p["step"] for p in curve], means, color=figures.COLOURS[method], label=label)
            seen.add(method)
    axes.set(xlabel="step", ylabel="solved alone, training problems (mean of 5 steps)", ylim=(0, 1))
    axes.legend(frameon=False)
    figures.finish(figure, (axes,), path)


def _label(name: str) -> str:
    method, _, seed = name.rpartition("-")
    return "warmed up" if name == START else f"{METHODS[method][0]}, seed {seed}"


def _rate(counts: Sequence[tuple[int, int]]) -> str:
    interval = bootstrap_interval([c / n for n, c in counts])
    return f"{avg_at_n(counts):.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _questions(asked: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {count}" for what, count in sorted(asked.items())) or "none were asked"


def _read(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(FileNotFoundError):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    return None


if __name__ == "__main__":
    sys.exit(report.start(Settings, main, "benchmarks.words", __doc__))
