"""Does a helper learn from the success of the policy that asks it? Embedded policies, minutes on two cores.

    python -m benchmarks.roles

A Knowledge helper that expands `473@128` rightly in some 15 % of its replies is trained for a policy that stays as it is: by
the team's reward, by the same times how likely the policy is to write the reply itself ("learnable"), and, as the control, by
the team's rewards shuffled within each query's replies. The same command goes on where it was cut.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

import aipo_env
from aipo_env.consulting import run_sync
from aipo_env.make_options import Options
from aipo_env.protocol import ConsultRequest
from aipo_env.tasks.rulebook import OPERATORS
from algorithms.config import ObjectiveConfig
from algorithms.evaluation import count_correct
from algorithms.multi_agent import Branch, HelperTrainer, TrainedHelper
from algorithms.policies import Policy, load_policy
from algorithms.rollout import LocalSampler
from algorithms.train_config import HelperReward, SamplingConfig, TrainConfig
from algorithms.warmup import fit
from benchmarks import report
from benchmarks.boundary.study import PACKAGES, prepare_process

RULES: Options = {"level": 2, "operators": "@", "style": "terse", "prompt": "bare", "max_reply_chars": 40}
RIGHT, WRONG = "@", "#"
ARMS: dict[str, HelperReward] = {"team": "team", "learnable": "learnable", "shuffled": "team"}
"""Name to the reward."""
_SHOWN = ("right at the start", "right", "assisted at the start", "assisted")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes."""

    out: Path = Path("runs/roles")
    """Gets roles.md, roles.json and the runs."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of each arm."""
    steps: int = 60
    """Of the helper; each has 16 queries of 8 replies."""
    right_share: float = 0.5
    """Of the rule among the sequences that the start helper is tuned on; it mixes the rules place by place."""
    tuning_steps: int = 60
    """Of that."""
    problems: int = 128
    """Of a measurement."""


class Shuffled(HelperTrainer):
    """The control: each reply gets the reward of another one to the same query."""

    def _pay(self, branches: list[Branch]) -> None:  # type: ignore[override]
        super()._pay(branches)
        rng = np.random.default_rng(self.sampling_seed(1) % 2**32)
        rewards = rng.permutation([branch.reward for branch in branches])
        for branch, reward in zip(branches, rewards, strict=True):
            branch.reward = float(reward)


def expand(query: str, operator: str) -> str:
    """The expansion of `473@128` by an operator's rule."""
    return ";".join(OPERATORS[operator].expand(query[:3], query[4:7]))


def start_helper(settings: Settings, seed: int) -> Policy:
    """The embedded model, tuned on expansions of which a share follows the rule."""
    policy = load_policy("embedded")
    rng = np.random.default_rng(seed)

    def row() -> tuple[list[int], list[bool]]:
        a, b = ("".join(map(str, rng.integers(10, size=3))) for _ in range(2))
        query = f"{a}{RIGHT}{b}"
        said = expand(query, RIGHT if rng.random() < settings.right_share else WRONG)
        prompt, reply = policy.codec.encode_prompt(query), [*policy.codec.encode(said), min(policy.eos_ids)]
        return [*prompt, *reply], [False] * len(prompt) + [True] * len(reply)

    fit(policy, row, steps=settings.tuning_steps, batch_size=128, learning_rate=1e-3, rise=10)
    return policy


def right_share(helper: TrainedHelper, problems: int) -> float:
    """How often a reply is exactly the expansion, on queries of its own."""
    rng = np.random.default_rng(1_000_003)
    queries = [f"{rng.integers(100, 1000)}{RIGHT}{rng.integers(100, 1000)}" for _ in range(problems)]

    async def ask() -> list[str]:
        requests = [ConsultRequest(query, seed=seed) for seed, query in enumerate(queries)]
        return [reply.text for reply in await asyncio.gather(*map(helper.respond, requests))]

    helper.policy.model.eval()
    said = run_sync(ask())
    helper.backend.forget()
    return sum(text == expand(query, RIGHT) for query, text in zip(queries, said, strict=True)) / problems


def run(settings: Settings, arm: str, seed: int) -> dict[str, float]:
    """Trains one helper; its start and its end."""
    out = settings.out / f"{arm}-{seed}"
    if (out / "measured.json").exists():
        found: dict[str, float] = json.loads((out / "measured.json").read_text())
        return found
    config = TrainConfig(
        env="rulebook-consult", env_options=RULES, out=out, seed=seed, steps=settings.steps, updates_per_batch=1,
        prompts_per_step=16, samples_per_prompt=8, solo_share=1.0,
        objective=ObjectiveConfig(agent_loss="mask", policy_baseline="group"),
        sampling=SamplingConfig(max_tokens=48), eval_every=0, eval_tasks=settings.problems, eval_samples=1, trace_every=0,
    )  # fmt: skip
    kind = Shuffled if arm == "shuffled" else HelperTrainer
    trainer = kind(config, "knowledge", load_policy("embedded"), reward=ARMS[arm], policy=start_helper(settings, seed))
    before = right_share(trainer.helper, settings.problems)
    rows = trainer.train(None, ())
    measured = {
        "right at the start": before,
        "right": right_share(trainer.helper, settings.problems),
        "assisted at the start": rows[0]["eval/assisted_pass1"],
        "assisted": rows[-1]["eval/assisted_pass1"],
        "solo": rows[-1]["eval/solo_pass1"],
        "seconds": rows[-1]["seconds"],
    }
    (out / "measured.json").write_text(json.dumps(measured))
    return measured


def main(settings: Settings) -> int:
    """Runs what is not finished, and writes roles.md and roles.json; returns the exit code."""
    prepare_process()
    settings.out.mkdir(parents=True, exist_ok=True)
    report.same_settings(settings, settings.out, ("out", "seeds"))
    measured = {}
    for seed in settings.seeds:
        for arm in ARMS:
            measured[f"{arm}, seed {seed}"] = found = run(settings, arm, seed)
            print(f"{arm}, seed {seed}: right {found['right at the start']:.3f} -> {found['right']:.3f}", flush=True)
    lines = [
        "# A helper that learns from the policy's success",
        f"Generated by `{report.command()}`: {settings.steps} steps of 16 queries and 8 replies, the embedded policy as it is; "
        f"{settings.problems} queries and problems of a measurement, sampled at temperature 1. Right: the reply is exactly the "
        "expansion. With the embedded helper, which is always right, the policy's accuracy with help is "
        f"{_with_embedded(settings.problems):.3f}: in a part of its episodes it asks nobody.",
        "| reward | right, at the start | right, at the end | accuracy with help, at the start | at the end |\n"
        + "|---" * 5
        + "|",
    ]
    for arm in ARMS:
        of_arm = [found for name, found in measured.items() if name.startswith(arm)]
        lines[-1] += f"\n| {arm} | {' | '.join(_seeds([found[what] for found in of_arm]) for what in _SHOWN)} |"
    (settings.out / "roles.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    about = report.machine(PACKAGES, threads=1)
    report.write_json(settings.out / "roles.json", {"machine": about, "settings": settings, "measured": measured})
    return 0


def _seeds(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})"


def _with_embedded(problems: int) -> float:
    policy = load_policy("embedded")
    options: dict[str, Any] = {**RULES, "split": "test"}
    env = aipo_env.make("rulebook-consult", codec=policy.codec, **options)
    sampler = LocalSampler(policy, SamplingConfig(max_tokens=48))
    return sum(count_correct(sampler, env, range(problems), num_samples=1, seed=1, assisted=True)) / problems


if __name__ == "__main__":
    sys.exit(report.start(Settings, main, "benchmarks.roles", __doc__))
