"""How the learner's cost grows: tokens per processor second and memory by group size, consults, context and vocabulary.

    python -m benchmarks.cost_growth [--repeats N] [--json FILE]

Each row changes one size and leaves the others at the base's. The rollouts of a batch are made, not played: a prompt of
`context` tokens, then `consults` times a turn and a helper's reply, then a last turn. Sampling draws the turns' tokens and
computes the replies' (`aipo_agents.backends.row_batch`); the update is `Trainer.update`. Both count the policy's tokens, so
that a long prompt and replies show as cost. Seconds are the processor's, which other jobs of the machine change little.
Each row runs in a process of its own; memory is the growth of its peak resident memory over what it held before the batch:
gradients, the optimizer's moments, cache, activations.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from aipo_env.installation import DISTRIBUTION
from aipo_env.trajectory import Segment, Source, Trajectory
from algorithms.progress import count_progress
from benchmarks import report

if TYPE_CHECKING:
    from algorithms.trainer import Trainer

PACKAGES = (DISTRIBUTION, "torch", "transformers")

SWEEPS: dict[str, tuple[int, ...]] = {
    "samples": (4, 8, 16, 32),
    "consults": (0, 1, 2, 4),
    "context": (32, 128, 512),
    "vocabulary": (128, 8_192, 32_768, 131_072),
}
"""The sizes that are tried, one at a time."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A batch of rollouts and the model's vocabulary."""

    samples: int = 8
    """Rollouts of each prompt."""
    consults: int = 1
    """Turns that a reply follows."""
    context: int = 64
    """Tokens of a prompt."""
    vocabulary: int = 128
    """Of the embedded model's architecture, freshly initialised."""
    prompts: int = 4
    """Groups in the batch."""
    turn: int = 16
    """Tokens of a turn."""
    reply: int = 16
    """Tokens of a reply."""

    def __post_init__(self) -> None:
        """Refuses what is no batch."""
        least = {"samples": 2, "consults": 0, "context": 2, "vocabulary": 128, "prompts": 1, "turn": 1, "reply": 1}
        report.check_least(self, least)

    @property
    def policy_tokens(self) -> int:
        """Tokens of the whole batch that the policy samples."""
        return self.prompts * self.samples * (self.consults + 1) * self.turn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(report.Settings):
    """What is measured."""

    repeats: int = 5
    """Timed passes of each row, after one that is not."""
    threads: int = 1
    """That torch computes with."""

    least: ClassVar = {"repeats": 1, "threads": 1}


@dataclasses.dataclass(frozen=True)
class Cost:
    """One row."""

    sampled: report.Spread
    """Policy tokens per processor second of sampling."""
    updated: report.Spread
    """Policy tokens per processor second of the update."""
    peak_mib: float
    """Growth of the peak resident memory."""


def varied(base: Sizes) -> Iterator[tuple[str, Sizes]]:
    """What a row varies, and its sizes."""
    for name, values in SWEEPS.items():
        for value in values:
            yield name, dataclasses.replace(base, **{name: value})


def make_batch(sizes: Sizes, seed: int = 0) -> list[Trajectory]:
    """Trajectories of these sizes; prompts are equal within a group, rewards differ within it."""
    rng = np.random.default_rng(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(int(i) for i in rng.integers(4, sizes.vocabulary, size=count))

    batch = []
    for group in range(sizes.prompts):
        prompt = Segment(Source.PROMPT, "", token_ids=ids(sizes.context))
        for sample in range(sizes.samples):
            segments = [prompt]
            for turn in range(sizes.consults + 1):
                segments.append(Segment(Source.POLICY, "", ids(sizes.turn), logprobs=(-1.0,) * sizes.turn))
                if turn < sizes.consults:
                    segments.append(Segment(Source.AGENT, "", ids(sizes.reply), agent="knowledge"))
            batch.append(Trajectory("made", "", segments, float(sample % 2), group=group, sample=sample))
    return batch


def measure(sizes: Sizes, settings: Settings) -> Cost:
    """One row's speeds and memory, in this process."""
    import torch

    from algorithms.codec import TransformersCodec
    from algorithms.policies import Policy
    from algorithms.policies.embedded_model import build_model, build_tokenizer
    from algorithms.train_config import TrainConfig
    from algorithms.trainer import Trainer

    torch.set_num_threads(settings.threads)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    model.resize_token_embeddings(sizes.vocabulary, mean_resizing=False)
    trainer = Trainer(
        TrainConfig(prompts_per_step=sizes.prompts, samples_per_prompt=sizes.samples, solo_share=1.0),
        policy=Policy("made", model, TransformersCodec(tokenizer)),
    )
    before = report.peak_resident()
    sampling, updating = [], []
    for repeat in range(settings.repeats + 1):
        batch = make_batch(sizes, repeat)
        started = time.process_time()
        _sample(trainer, batch)
        sampled = time.process_time()
        trainer.update(batch)
        sampling.append(sizes.policy_tokens / (sampled - started))
        updating.append(sizes.policy_tokens / (time.process_time() - sampled))
    peak = (report.peak_resident() - before) / 2**20
    return Cost(report.spread(sampling[1:]), report.spread(updating[1:]), peak)


def _sample(trainer: Trainer, batch: Sequence[Trajectory]) -> None:
    """Samples as many tokens as the turns have; with the replies rows leave, and come back."""
    import torch

    from aipo_agents.backends.drawing import draw
    from aipo_agents.backends.row_batch import RowBatch

    count = len(batch)
    generators = [torch.Generator().manual_seed(number) for number in range(count)]
    rows, ids = RowBatch(trainer.model, keep=2 * count), [t.segments[0].token_ids for t in batch]
    logits_BV = rows.join(ids)
    for place, segment in enumerate(batch[0].segments[1:], start=1):
        if segment.source is Source.POLICY:
            for _ in segment.token_ids:
                token_ids, _ = draw(logits_BV, [1.0] * count, [1.0] * count, generators)
                ids = [(*own, token) for own, token in zip(ids, token_ids, strict=True)]
                logits_BV = rows.step(token_ids)
        else:
            rows.leave(range(count), {row: (own, True) for row, own in enumerate(ids)})
            ids = [(*own, *t.segments[place].token_ids) for own, t in zip(ids, batch, strict=True)]
            logits_BV = rows.join(ids)


def benchmark(settings: Settings) -> report.Result:
    """Measures every row in a process of its own."""
    base = Sizes()
    costs = []
    with count_progress("rows", sum(map(len, SWEEPS.values()))) as advance:
        for name, sizes in varied(base):
            costs.append((name, sizes, report.in_own_process(measure, sizes, settings)))
            advance()
    results = [{"varied": name, "sizes": sizes, "cost": cost} for name, sizes, cost in costs]
    return report.Result([cost_table(costs)], {"base": base, "results": results})


def cost_table(costs: Sequence[tuple[str, Sizes, Cost]]) -> report.Table:
    """What each row varied, and its cost."""
    rows = [
        [f"{name} {getattr(sizes, name):,}", cost.sampled.text(), cost.updated.text(), f"{cost.peak_mib:,.0f}"]
        for name, sizes, cost in costs
    ]
    base = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(Sizes()).items())
    notes = [
        f"Base: {base}.",
        "Medians of the passes (least .. largest); the policy's tokens alone are counted.",
    ]
    return report.Table(
        "How cost grows", ["", "sampled / processor s", "updated / processor s", "peak, MiB"], rows, notes
    )


if __name__ == "__main__":
    raise SystemExit(report.run(Settings, benchmark, PACKAGES))
