r"""Our trainer beside TRL's `GRPOTrainer`: sampled-and-trained tokens per second, in one run.

    python -m benchmarks.trainer_speed [--steps N] [--repeats N] [--json FILE]

A sampled-and-trained token is one that was drawn from the policy, and whose log-probability was then in the loss with
an advantage that is not zero. The end-of-sequence token counts; prompt, padding and helpers' tokens do not.

**Order.** One process. TRL's training loop runs; after each of its steps a callback runs one step of ours. So the two
alternate, and a busy machine slows both. A TRL step is all the time between two callbacks (its data loading is in it),
a step of ours is all of `Trainer.train_step`. The first `--warmup` steps of each repeat do not count. A repeat starts
with fresh trainers from the same weights, and gives one ratio.

**Equal:** start weights, tokenizer, prompts (equally long, so neither side pads them), group size, prompts per step,
limit of new tokens, temperature 1, reward, one update per batch, sequences in one forward and backward pass, AdamW with
the same constants, no KL term, fp32 on the CPU with the same number of threads, no dropout, no checkpoints, no
evaluation, no logging.

**Reward.** A rollout earns 1 if the sum of its token ids is even: that is cheap and splits every group, so every token of
both sides has a gradient. (The start policy has no answer right: with those as the reward our trainer makes no forward and
backward pass, TRL does, and a ratio says nothing.)

**Not equal:**

- TRL samples with `model.generate`; ours with continuous batching, in which finished rows leave the batch, keeps the
  sampler's log-probabilities, and runs an episode for each rollout (parsing, grading, records). TRL's reward
  function gets the ids.
- TRL pads completions on the right to the longest of the batch; ours sorts rows by length before it cuts micro-batches.
- TRL computes the entropy of each token for its metrics. It has no switch.
- Samples come from different random streams. Mean completion lengths are reported for both.
- Loss: TRL's default ("dapo": token mean, clip) with its group-normalised advantage; ours is our default with the
  group's mean. On a batch without helpers both are a clipped token mean.

TRL gets its best settings for a CPU: no gradient checkpointing, no bf16 (its defaults are on), no data-loading workers.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from aipo_env.installation import DISTRIBUTION, install_command
from aipo_env.make_options import Options
from aipo_env.tasks.rulebook import RulebookTasks
from aipo_env.trajectory import Source, Trajectory
from algorithms.progress import count_progress, quiet_libraries
from algorithms.train_config import SamplingConfig, TrainConfig
from algorithms.trainer import Trainer
from benchmarks import report

if TYPE_CHECKING:
    from algorithms.policies import Policy

PACKAGES = (DISTRIBUTION, "torch", "transformers", "tokenizers", "trl", "accelerate", "datasets")
TASK_OPTIONS: Options = {"level": 2, "operators": "@", "style": "terse"}
BETAS = (0.9, 0.99)
MAX_GRAD_NORM = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(report.Settings):
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
    """Of both, constant; a pretrained model wants less."""
    start: Literal["embedded", "random", "smollm2"] = "embedded"
    """The package's warmed-up weights, the same architecture freshly initialised, whose completions seldom end early, or
    SmolLM2-135M-Instruct."""

    least: ClassVar = {"steps": 1, "repeats": 1, "threads": 1, "warmup": 0}

    def __post_init__(self) -> None:
        """Refuses what cannot be timed."""
        super().__post_init__()
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
    """Those of them that had an advantage other than zero: of groups whose rewards differ."""
    rollouts: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def add(self, other: Run) -> None:
        """Adds a step."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def count(self, rewards: Sequence[float], lengths: Sequence[int], group: int) -> None:
        """Counts a step's rollouts; both lists are group by group, `group` rollouts each."""
        self.rollouts, self.tokens = len(rewards), sum(lengths)
        starts = range(0, len(rewards), group)
        self.trained_tokens = sum(sum(lengths[i : i + group]) for i in starts if len(set(rewards[i : i + group])) > 1)

    def stop(self, started: tuple[float, float]) -> None:
        """Notes the time since `clock` was read."""
        self.seconds, self.cpu_seconds = (now - then for now, then in zip(clock(), started, strict=True))

    def figures(self) -> dict[str, float]:
        """Speeds, in sampled-and-trained tokens, and means."""
        return {
            "tokens_per_second": self.trained_tokens / self.seconds,
            "tokens_per_cpu_second": self.trained_tokens / self.cpu_seconds,
            "mean_length": self.tokens / self.rollouts,
            "trained_share": self.trained_tokens / self.tokens,
        }


def clock() -> tuple[float, float]:
    """Wall and processor time."""
    return time.perf_counter(), time.process_time()


class InOrder(RulebookTasks):
    """Tasks that are drawn in order: 0, 1, 2, ... So both trainers see the same prompts."""

    _drawn = 0

    def sample_index(self, rng: np.random.Generator) -> int:
        """The next index."""
        self._drawn += 1
        return self._drawn - 1


class OurTrainer(Trainer):
    """Our trainer on tasks in order, with the reward that splits every group."""

    def __init__(self, config: TrainConfig, policy: Policy) -> None:
        super().__init__(config, policy=policy)
        self.env.game.tasks = self.curriculum.tasks = InOrder(**TASK_OPTIONS)  # type: ignore[arg-type, misc]

    def collect(self) -> list[Trajectory]:
        """As always, then the reward."""
        trajectories = super().collect()
        for trajectory in trajectories:
            own = (i for s in trajectory.segments if s.source is Source.POLICY for i in s.token_ids)
            trajectory.reward = coin_reward(own)
        return trajectories


def coin_reward(token_ids: Iterable[int]) -> float:
    """1 if the sum of the ids is even: a coin that both sides toss alike."""
    return float(sum(token_ids) % 2 == 0)


def make_policy(settings: Settings, seed: int) -> Policy:
    """The start policy; two calls give equal weights."""
    from algorithms.codec import TransformersCodec
    from algorithms.policies import Policy, load_policy
    from algorithms.policies.embedded_model import build_model, build_tokenizer

    if settings.start != "random":
        return load_policy(settings.start)
    tokenizer = build_tokenizer()
    return Policy("random", build_model(tokenizer, seed=seed), TransformersCodec(tokenizer))


def make_ours(settings: Settings, seed: int) -> OurTrainer:
    """Our trainer; no helper ever answers, for TRL has none."""
    config = TrainConfig(
        env="rulebook-consult",
        env_options={**TASK_OPTIONS, "prompt": "bare"},
        seed=seed,
        steps=settings.warmup + settings.steps,
        prompts_per_step=settings.prompts,
        samples_per_prompt=settings.samples,
        solo_share=1.0,
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
    return OurTrainer(config, make_policy(settings, seed))


def our_step(trainer: Trainer) -> Run:
    """One timed step of ours."""
    run, started = Run(), clock()
    _, trajectories = trainer.train_step()
    run.stop(started)
    lengths = [t.count(Source.POLICY) for t in trajectories]
    run.count([t.reward for t in trajectories], lengths, trainer.config.samples_per_prompt)
    return run


def peer_missing() -> str | None:
    """Why TRL cannot take part, or None."""
    missing = [name for name in ("trl", "datasets", "accelerate") if importlib.util.find_spec(name) is None]
    return f"TRL did not take part: no {', '.join(missing)} ({install_command('bench')})" if missing else None


def run_ours(settings: Settings, seed: int, advance: Callable[[], None]) -> tuple[Run, Callable[[], None]]:
    """A run of ours, and what takes the next step of it; warm-up steps do not count."""
    run, trainer = Run(), make_ours(settings, seed)

    def step() -> None:
        timed = our_step(trainer)
        if trainer.step > settings.warmup:
            run.add(timed)
        advance()

    return run, step


def run_trl(settings: Settings, seed: int, between: Callable[[], None]) -> Run:
    """TRL's run, with a call of `between` after each of its steps, which is not in its time."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    policy = make_policy(settings, seed)
    total = Run()
    num_steps = settings.warmup + settings.steps
    family = RulebookTasks(**TASK_OPTIONS)  # type: ignore[arg-type, misc]
    tasks = [family.task(index) for index in range(num_steps * settings.prompts)]
    # The tokenizer reads special tokens in text, so that the ids are those of our prompts.
    rows = {"prompt": [policy.tokenizer.decode(policy.codec.encode_prompt(task.problem)) for task in tasks]}
    current, started = Run(), clock()

    def reward(completion_ids: list[list[int]], **_: object) -> list[float]:
        rewards = [coin_reward(ids) for ids in completion_ids]
        counted = Run()
        counted.count(rewards, [len(ids) for ids in completion_ids], settings.samples)
        current.add(counted)
        return rewards

    class TakeTurns(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: object, state: object, control: object, **_: object) -> None:
            nonlocal started
            started = clock()

        def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
            nonlocal current, started
            current.stop(started)
            if state.global_step > settings.warmup:  # type: ignore[attr-defined]
                total.add(current)
            between()
            current, started = Run(), clock()

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


def compare(ours: Sequence[Run], theirs: Sequence[Run]) -> dict[str, report.Spread]:
    """Ours over theirs, repeat by repeat: in wall time, in processor time, and of the mean lengths."""
    sides = [[run.figures() for run in runs] for runs in (ours, theirs)]
    names = ("tokens_per_second", "tokens_per_cpu_second", "mean_length")
    return {name: report.ratios(*([figures[name] for figures in side] for side in sides)) for name in names}


def benchmark(settings: Settings) -> report.Result:
    """Runs the pairs."""
    import torch

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(settings.threads)
    quiet_libraries()
    missing = peer_missing()
    runs: dict[str, list[Run]] = {"AIPO": [], "TRL GRPOTrainer": []}
    num_steps = settings.warmup + settings.steps
    with count_progress("steps", settings.repeats * num_steps) as advance, report.quiet():
        for seed in range(settings.repeats):
            ours, step = run_ours(settings, seed, advance)
            runs["AIPO"].append(ours)
            if missing:
                for _ in range(num_steps):
                    step()
            else:
                runs["TRL GRPOTrainer"].append(run_trl(settings, seed, step))
            gc.collect()
    notes = [
        *([missing] if missing else []),
        "Tokens: sampled and trained. Medians over the repeats (least .. largest).",
        "What is equal and what is not: `python -c 'import benchmarks.trainer_speed as t; help(t)'`.",
    ]
    return report.Result([speed_table(runs, notes)], {"runs": runs})


def speed_table(runs: Mapping[str, Sequence[Run]], notes: Sequence[str]) -> report.Table:
    """A side a row, and the ratio."""
    summary = {name: report.spreads([run.figures() for run in own]) for name, own in runs.items() if own}
    if len(summary) == 2:
        summary["AIPO / TRL"] = compare(*runs.values())
    columns = {
        "tokens_per_second": "tokens / s",
        "tokens_per_cpu_second": "tokens / processor s",
        "mean_length": "mean length",
        "trained_share": "trained",
    }
    rows = []
    for side, figures in summary.items():
        digits = {name: 0 if name.endswith("_second") and side in runs else 2 for name in columns}
        rows.append([side, *(figures[name].text(digits[name]) if name in figures else "" for name in columns)])
    return report.Table("Trainer speed", ["", *columns.values()], rows, notes)


if __name__ == "__main__":
    raise SystemExit(report.run(Settings, benchmark, PACKAGES))
