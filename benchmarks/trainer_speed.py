r"""Our trainer beside TRL's `GRPOTrainer`: sampled-and-trained tokens per second, in one run.

    python -m benchmarks.trainer_speed [--steps N] [--repeats N] [--json FILE]

A sampled-and-trained token is one that was drawn from the policy, and whose log-probability was then in the loss with an
advantage that is not zero. The end-of-sequence token counts; prompt, padding and helpers' tokens do not.

**Order.** One process. TRL's training loop runs; each time one of its steps has ended, a callback runs one step of ours, and
hands back. So the two alternate step by step, and a busy machine slows both. A TRL step is all the time between two callbacks
(its data loading is in it), a step of ours is all of `Trainer.train_step`. The first `--warmup` steps of each repeat do not
count. A repeat starts with fresh trainers from the same weights. Each repeat gives one ratio.

**Equal:** start weights, tokenizer, prompts (the same ones in the same steps, equally long, so neither side pads them),
group size, prompts per step, limit of new tokens, temperature 1, reward, one update per batch, sequences in one forward and
backward pass, AdamW with the same constant learning rate, betas and norm of the gradient, no KL term, fp32 on the CPU with
the same number of threads, no dropout, no checkpoints, no evaluation, no logging (TRL: `report_to="none"`,
`logging_strategy="no"`, no progress bar; ours: `train_step` writes nothing).

**Reward.** With `--reward coin`, the default, a rollout earns 1 if the sum of its token ids is even. That is as cheap as a
reward can be, and it splits every group, so that every token of both sides has a gradient. With `--reward right` a rollout
earns 1 if its boxed answer is right. The start policy has none right, so that all advantages are zero; our trainer then
makes no forward and backward pass (they would give zeros), TRL does. Then the table counts sampled tokens, and the ratio
says what a step without signal costs, no more.

**Not equal:**

- What a sampled completion is, is each library's own doing: TRL calls `model.generate`; ours decodes with
  `algorithms.decoder`, drops finished rows from the batch, and keeps the sampler's log-probabilities. Ours also runs an episode
  for each rollout (parsing, grading, records); TRL's reward function gets the ids.
- TRL pads completions on the right to the longest of the batch; ours sorts rows by length before it cuts micro-batches.
- TRL computes the entropy of each token for its metrics. It has no switch. With one update per batch neither side computes
  old log-probabilities a second time.
- Samples come from different random streams. Mean completion lengths are reported for both.
- Loss: TRL's default ("dapo": token mean, clip) with its group-normalised advantage; ours is our default with the group's mean.
  On a batch without helpers both are a clipped token mean.

TRL gets its best settings for a CPU: no gradient checkpointing (its default is on), no bf16 (its default is on where it can),
no data-loading workers, ids of end and padding set, parallel tokenizers off.

**With helpers**, ours alone, as a row of its own and no comparison (TRL has none): the same prompts with half of each group
assisted. There the replies' tokens are fed to the model and trained on, but not sampled.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import importlib.util
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro

from aipo_env.grading import Grade
from aipo_env.installation import DISTRIBUTION, install_command
from aipo_env.tasks.base import Task, TaskSet
from aipo_env.tasks.rulebook import RulebookTasks
from aipo_env.trajectory import Source, Trajectory
from algorithms.progress import make_progress
from algorithms.train_config import SamplingConfig, TrainConfig
from algorithms.trainer import Trainer
from benchmarks import report

if TYPE_CHECKING:
    from collections.abc import Callable

    from algorithms.policies import Policy

PACKAGES = (DISTRIBUTION, "torch", "transformers", "tokenizers", "trl", "accelerate", "datasets")
TASK_OPTIONS: dict[str, int | float | str] = {"level": 2, "operators": "@", "style": "terse"}
BETAS = (0.9, 0.99)
MAX_GRAD_NORM = 1.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """Both trainers' sizes; the defaults are the demo's."""

    steps: int = 6
    """Timed steps of each side in a repeat."""
    warmup: int = 2
    """Steps before them that do not count."""
    repeats: int = 5
    """Pairs of runs; each gives one ratio."""
    prompts: int = 16
    """Prompts in a step."""
    samples: int = 16
    """Rollouts of each prompt."""
    max_tokens: int = 48
    """Limit of new tokens."""
    micro_batch: int = 64
    """Sequences in one forward and backward pass."""
    threads: int = 1
    """That torch computes with."""
    learning_rate: float = 5e-4
    """AdamW's, constant."""
    start: Literal["embedded", "random"] = "embedded"
    """The package's warmed-up weights, or the same architecture freshly initialised, whose completions seldom end early."""
    reward: Literal["coin", "right"] = "coin"
    """What a rollout earns; see the module's docstring."""
    helpers: bool = True
    """Also times our trainer with helpers, by itself."""
    seed: int = 0
    """Of the first repeat; later ones count on."""
    json: Path | None = None
    """Also writes all samples and the summary here."""

    def __post_init__(self) -> None:
        """Refuses what cannot be timed."""
        if min(self.steps, self.repeats, self.threads) < 1 or self.warmup < 0:
            raise ValueError(
                "steps, repeats and threads are at least 1 and warmup at least 0; got "
                f"{self.steps}, {self.repeats}, {self.threads} and {self.warmup}."
            )
        if (self.prompts * self.samples) % self.micro_batch:
            raise ValueError(
                f"micro_batch must divide the batch, for TRL needs whole ones: {self.prompts} prompts x {self.samples} "
                f"samples are not a multiple of {self.micro_batch}."
            )


@dataclasses.dataclass
class Run:
    """The timed steps of one side in one repeat, summed."""

    tokens: int = 0
    """Sampled by the policy."""
    trained_tokens: int = 0
    """Those of them that had an advantage other than zero."""
    reply_tokens: int = 0
    """Helpers' tokens: fed and trained on, not sampled."""
    rollouts: int = 0
    reward: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def add(self, other: Run) -> None:
        """Adds a step."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Stopwatch:
    """Wall and processor time since `start`."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Sets it to zero."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self, run: Run) -> None:
        """Writes the times to a run."""
        run.seconds = time.perf_counter() - self._wall
        run.cpu_seconds = time.process_time() - self._cpu


class InOrder:
    """A task family whose tasks are drawn in order: 0, 1, 2, ... So both trainers see the same prompts."""

    def __init__(self, tasks: TaskSet) -> None:
        self.name, self.num_tasks = tasks.name, tasks.num_tasks
        self._tasks, self._drawn = tasks, 0

    def task(self, index: int) -> Task:
        """The family's task."""
        return self._tasks.task(index)

    def sample_index(self, rng: np.random.Generator) -> int:
        """The next index."""
        self._drawn += 1
        return self._drawn - 1

    def grade(self, task: Task, answer: str) -> Grade:
        """The family's grade."""
        return self._tasks.grade(task, answer)


class OurTrainer(Trainer):
    """Our trainer on tasks in order and, if asked for, with the reward that splits every group."""

    def __init__(self, config: TrainConfig, policy: Policy, *, coin: bool) -> None:
        super().__init__(config, policy=policy)
        self.env.game.tasks = InOrder(self.env.game.tasks)
        self._coin = coin

    def collect(self) -> list[Trajectory]:
        """As always, then the reward."""
        trajectories = super().collect()
        if self._coin:
            for trajectory in trajectories:
                own = (i for s in trajectory.segments if s.source is Source.POLICY for i in s.token_ids)
                trajectory.reward = coin_reward(own)
        return trajectories


def coin_reward(token_ids: Iterator[int] | Sequence[int]) -> float:
    """1 if the sum of the ids is even: a coin that both sides toss alike."""
    return float(sum(token_ids) % 2 == 0)


def right_reward(completion: str, gold: str) -> float:
    r"""1 if the last `\boxed{...}` holds the gold answer; as lean as a user would write it for TRL."""
    box = completion.rfind("\\boxed{")
    end = completion.find("}", box)
    return float(box >= 0 and end >= 0 and "".join(completion[box + len("\\boxed{") : end].split()) == gold)


def trained_tokens(rewards: Sequence[float], lengths: Sequence[int], group: int) -> int:
    """The tokens of the groups whose rewards differ.

    Args:
        rewards: group by group.
        lengths: tokens of each rollout, in the same order.
        group: rollouts in a group.
    """
    total = 0
    for start in range(0, len(rewards), group):
        if len(set(rewards[start : start + group])) > 1:
            total += sum(lengths[start : start + group])
    return total


def make_policy(settings: Settings, seed: int) -> Policy:
    """The start policy; two calls give equal weights."""
    from algorithms.codec import TransformersCodec
    from algorithms.policies import Policy, load_policy
    from algorithms.policies.embedded_model import build_model, build_tokenizer

    if settings.start == "embedded":
        return load_policy("embedded")
    tokenizer = build_tokenizer()
    return Policy("random", build_model(tokenizer, seed=seed), TransformersCodec(tokenizer))


def make_ours(settings: Settings, seed: int, *, solo_share: float = 1.0) -> OurTrainer:
    """Our trainer; with `solo_share=1` no helper ever answers."""
    config = TrainConfig(
        env="rulebook-consult",
        env_options=TASK_OPTIONS | {"prompt": "bare"},
        seed=seed,
        steps=settings.warmup + settings.steps,
        prompts_per_step=settings.prompts,
        samples_per_prompt=settings.samples,
        solo_share=solo_share,
        sampling=SamplingConfig(max_tokens=settings.max_tokens, batch_size=settings.prompts * settings.samples),
        learning_rate=settings.learning_rate,
        warmup_steps=0,
        final_learning_rate=1.0,
        betas=BETAS,
        weight_decay=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        updates_per_batch=1,
        micro_batch_size=settings.micro_batch,
    )
    return OurTrainer(config, make_policy(settings, seed), coin=settings.reward == "coin")


def our_step(trainer: Trainer) -> Run:
    """One timed step of ours."""
    watch = Stopwatch()
    _, trajectories = trainer.train_step()
    run = Run(rollouts=len(trajectories))
    watch.stop(run)
    rewards = [t.reward for t in trajectories]
    lengths = [t.count(Source.POLICY) for t in trajectories]
    run.tokens, run.reward = sum(lengths), sum(rewards)
    run.trained_tokens = trained_tokens(rewards, lengths, trainer.config.samples_per_prompt)
    run.reply_tokens = sum(t.count(Source.AGENT) for t in trajectories)
    return run


def peer_missing() -> str | None:
    """Why TRL cannot take part, or None."""
    for name in ("trl", "datasets", "accelerate"):
        if importlib.util.find_spec(name) is None:
            return f"TRL did not take part: {name} is not installed ({install_command('bench')})"
    return None


def run_pair(settings: Settings, seed: int, on_step: Callable[[], None]) -> tuple[Run, Run | None]:
    """One repeat: both trainers from the same weights, step by step in turn.

    Returns:
        Ours, and TRL's; None where it is not installed.
    """
    ours, trainer, done = Run(), make_ours(settings, seed), 0

    def take_our_step() -> None:
        nonlocal done
        step = our_step(trainer)
        done += 1
        if done > settings.warmup:
            ours.add(step)
        on_step()

    if peer_missing():
        for _ in range(settings.warmup + settings.steps):
            take_our_step()
        return ours, None
    return ours, _run_trl(settings, seed, take_our_step)


def _run_trl(settings: Settings, seed: int, between: Callable[[], None]) -> Run:
    """TRL's run, with a call of `between` after each of its steps, which is not in its time."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    policy = make_policy(settings, seed)
    codec, total = policy.codec, Run()
    family = RulebookTasks(**TASK_OPTIONS)  # type: ignore[arg-type]
    num_steps = settings.warmup + settings.steps
    tasks = [family.task(index) for index in range(num_steps * settings.prompts)]
    # The tokenizer reads the start token in text, so that the ids are those of our prompts.
    start = policy.tokenizer.bos_token
    rows = {"prompt": [f"{start}{task.problem}" for task in tasks], "gold": [task.gold for task in tasks]}
    watch, current = Stopwatch(), Run()

    def reward(completion_ids: list[list[int]], gold: list[str], **_: object) -> list[float]:
        if settings.reward == "coin":
            rewards = [coin_reward(ids) for ids in completion_ids]
        else:
            rewards = [right_reward(codec.decode(i), g) for i, g in zip(completion_ids, gold, strict=True)]
        lengths = [len(ids) for ids in completion_ids]
        current.add(
            Run(sum(lengths), trained_tokens(rewards, lengths, settings.samples), 0, len(lengths), sum(rewards))
        )
        return rewards

    class TakeTurns(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: object, state: object, control: object, **_: object) -> None:
            watch.start()

        def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
            watch.stop(current)
            if state.global_step > settings.warmup:  # type: ignore[attr-defined]
                total.add(current)
            current.__init__()  # type: ignore[misc]
            between()
            watch.start()

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            max_steps=num_steps,
            per_device_train_batch_size=settings.micro_batch,
            gradient_accumulation_steps=settings.prompts * settings.samples // settings.micro_batch,
            num_generations=settings.samples,
            max_completion_length=settings.max_tokens,
            shuffle_dataset=False,
            temperature=1.0,
            beta=0.0,
            num_iterations=1,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="constant",
            warmup_steps=0,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            weight_decay=0.0,
            max_grad_norm=MAX_GRAD_NORM,
            seed=seed,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=copy.deepcopy(policy.model),
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_dict(rows),
            processing_class=policy.tokenizer,
            callbacks=[TakeTurns()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return total


def run_with_helpers(settings: Settings, seed: int, on_step: Callable[[], None]) -> Run:
    """Our trainer by itself, half of each group assisted."""
    total, trainer = Run(), make_ours(settings, seed, solo_share=0.5)
    for index in range(settings.warmup + settings.steps):
        step = our_step(trainer)
        if index >= settings.warmup:
            total.add(step)
        on_step()
    return total


def summarise(runs: Sequence[Run], *, trained: bool) -> dict[str, report.Spread]:
    """Speeds and lengths of one side over its repeats.

    Args:
        runs: one per repeat.
        trained: whether speed counts sampled-and-trained tokens, or sampled ones.
    """
    tokens = [run.trained_tokens if trained else run.tokens for run in runs]
    return {
        "tokens_per_second": report.spread([t / r.seconds for t, r in zip(tokens, runs, strict=True)]),
        "tokens_per_cpu_second": report.spread([t / r.cpu_seconds for t, r in zip(tokens, runs, strict=True)]),
        "mean_length": report.spread([run.tokens / run.rollouts for run in runs]),
        "trained_share": report.spread([run.trained_tokens / run.tokens for run in runs]),
        "replies_per_second": report.spread([run.reply_tokens / run.seconds for run in runs]),
        "reward": report.spread([run.reward / run.rollouts for run in runs]),
    }


def compare(ours: Sequence[Run], theirs: Sequence[Run], *, trained: bool) -> dict[str, report.Spread]:
    """Ours over theirs, repeat by repeat: in wall time, in processor time, and of the mean lengths."""

    def speeds(runs: Sequence[Run], *, cpu: bool) -> list[float]:
        return [(r.trained_tokens if trained else r.tokens) / (r.cpu_seconds if cpu else r.seconds) for r in runs]

    return {
        "tokens_per_second": report.ratios(speeds(ours, cpu=False), speeds(theirs, cpu=False)),
        "tokens_per_cpu_second": report.ratios(speeds(ours, cpu=True), speeds(theirs, cpu=True)),
        "mean_length": report.ratios([r.tokens / r.rollouts for r in ours], [r.tokens / r.rollouts for r in theirs]),
    }


def benchmark(settings: Settings) -> dict[str, object]:
    """Runs everything; returns the report."""
    import torch

    from algorithms.progress import quiet_libraries

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(settings.threads)
    quiet_libraries()
    logging.getLogger("trl").setLevel(logging.ERROR)
    about = report.machine(PACKAGES, threads=settings.threads)
    ours: list[Run] = []
    theirs: list[Run] = []
    helped: list[Run] = []
    notes = [] if (missing := peer_missing()) is None else [missing]
    steps = settings.repeats * (settings.warmup + settings.steps) * (1 + settings.helpers)
    with make_progress() as progress, _quiet():
        bar = progress.add_task("steps", total=steps, note="")
        for seed in range(settings.seed, settings.seed + settings.repeats):
            own, their = run_pair(settings, seed, lambda: progress.advance(bar))
            ours.append(own)
            if their is not None:
                theirs.append(their)
            if settings.helpers:
                helped.append(run_with_helpers(settings, seed, lambda: progress.advance(bar)))
            gc.collect()
    trained = settings.reward == "coin"
    summary: dict[str, object] = {"aipo": summarise(ours, trained=trained)}
    if theirs:
        summary["trl"] = summarise(theirs, trained=trained)
        summary["ratio"] = compare(ours, theirs, trained=trained)
    if helped:
        summary["aipo_with_helpers"] = summarise(helped, trained=trained)
    about["load_at_end"] = round(os.getloadavg()[0], 2)
    return {
        "machine": about,
        "settings": dataclasses.asdict(settings),
        "unit": "sampled-and-trained tokens" if trained else "sampled tokens",
        "runs": {"aipo": ours, "trl": theirs, "aipo_with_helpers": helped},
        "summary": summary,
        "notes": notes,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Peers warn about settings that are meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def print_speeds(result: dict[str, object]) -> None:
    """The report as a table."""
    summary: dict[str, dict[str, report.Spread]] = result["summary"]  # type: ignore[assignment]
    settings: dict[str, object] = result["settings"]  # type: ignore[assignment]
    labels = {"aipo": "AIPO", "trl": "TRL GRPOTrainer", "aipo_with_helpers": "AIPO, half assisted"}
    rows = [
        [
            label,
            summary[name]["tokens_per_second"].text(),
            summary[name]["tokens_per_cpu_second"].text(),
            summary[name]["mean_length"].text(1),
            summary[name]["trained_share"].text(2),
            summary[name]["reward"].text(2),
        ]
        for name, label in labels.items()
        if name in summary
    ]
    notes: list[str] = list(result["notes"])  # type: ignore[call-overload]
    if "ratio" in summary:
        ratio = summary["ratio"]
        rows.append(
            [
                "AIPO / TRL",
                ratio["tokens_per_second"].text(2, "x"),
                ratio["tokens_per_cpu_second"].text(2, "x"),
                ratio["mean_length"].text(2),
                "",
                "",
            ]
        )
    if "aipo_with_helpers" in summary:
        replies = summary["aipo_with_helpers"]["replies_per_second"].text()
        notes.append(f"With helpers another {replies} reply tokens per second are fed and trained on.")
    notes.append(f"Tokens: {result['unit']}. The row with helpers is ours alone, and no comparison.")
    notes.append(f"Medians over {settings['repeats']} repeats of {settings['steps']} steps (least .. largest).")
    notes.append("What is equal and what is not: `python -c 'import benchmarks.trainer_speed as t; help(t)'`.")
    about: dict[str, object] = result["machine"]  # type: ignore[assignment]
    shown = {"settings": {k: v for k, v in settings.items() if k != "json"}}
    columns = ["", "tokens / s", "tokens / processor s", "mean length", "trained", "reward"]
    report.print_report("Trainer speed", about | shown, columns, rows, notes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark from the command line."""
    settings = tyro.cli(Settings, args=arguments, description=(__doc__ or "").split("\n", 1)[0])
    result = benchmark(settings)
    print_speeds(result)
    if settings.json is not None:
        report.write_json(settings.json, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
