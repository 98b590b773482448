"""Verify learns to judge sums by the direct label.

Claims such as `4+4+1=10` are right half of the time, else off by 1 to 3 or with their digits swapped. The helper that it begins
with is tuned on verdicts of which a share is right. Operands of the measurement are none of those that are trained on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np

from aipo_agents.verdicts import leading_verdict
from aipo_env.consulting import ask_together, run_sync
from aipo_env.playing import Player
from aipo_env.protocol import Consult, ConsultRequest, TurnRequest
from algorithms.multi_agent import Branch, HelperTrainer, TrainedHelper
from algorithms.policies import Policy, load_policy
from algorithms.warmup import fit
from benchmarks.roles.setting import Measured, Settings, helper_config, kept, run_folder, table

ARMS = ("verdict",)
RIGHT_LABELS = 0.6
"""Among those that the start helper is tuned on."""


def claim(rng: np.random.Generator, *, right: bool, held_out: bool = False) -> str:
    """A claim about a sum of three digits; one in five of the sums is held out."""
    while True:
        digits = rng.integers(10, size=3).tolist()
        if (int("".join(map(str, digits))) % 5 == 0) == held_out:
            break
    value = f"{sum(digits):02d}"
    said = value
    if not right:
        other = max(0, int(value) + int(rng.choice([-3, -2, -1, 1, 2, 3])))
        said = value[::-1] if rng.random() < 0.2 else f"{other:02d}"
        said = f"{int(value) + 1:02d}" if said == value else said
    return f"{'+'.join(map(str, digits))}={said}"


class Asking:
    """A policy that asks whether a claim holds; its request's seed decides the claim."""

    name = "asking"

    async def act(self, request: TurnRequest) -> Consult:
        """The question."""
        rng = np.random.default_rng(request.seed)
        return Consult("verify", claim(rng, right=bool(rng.random() < 0.5)))


class ClaimTrainer(HelperTrainer):
    """Asked by a script: of a verdict nothing is played on."""

    async def _branch_out(self) -> list[list[Branch]]:
        player = Player(self.env.game, Asking())
        return await ask_together([self._branch(player, slot, task) for slot, task in enumerate(self._tasks(0))])


def start_helper(settings: Settings, seed: int) -> Policy:
    """The embedded model, tuned on verdicts of which a share is right."""
    policy, rng = load_policy("embedded"), np.random.default_rng(seed)

    def row() -> tuple[list[int], list[bool]]:
        right = bool(rng.random() < 0.5)
        said = "correct" if right == (rng.random() < RIGHT_LABELS) else "incorrect"
        prompt = policy.codec.encode_prompt(claim(rng, right=right))
        reply = [*policy.codec.encode(said), min(policy.eos_ids)]
        return [*prompt, *reply], [False] * len(prompt) + [True] * len(reply)

    fit(policy, row, steps=settings.tuning_steps, batch_size=128, learning_rate=1e-3, rise=10)
    return policy


def rates(helper: TrainedHelper, problems: int) -> tuple[float, float]:
    """How often a right claim is called right, and a wrong one wrong, on held-out operands."""
    rng = np.random.default_rng(1_000_003)
    claims = [claim(rng, right=index % 2 == 0, held_out=True) for index in range(2 * problems)]

    async def ask() -> list[str]:
        requests = [ConsultRequest(query, seed=seed) for seed, query in enumerate(claims)]
        return [reply.text for reply in await asyncio.gather(*map(helper.respond, requests))]

    helper.policy.model.eval()
    said = [leading_verdict(text) for text in run_sync(ask())]
    helper.backend.forget()
    return sum(v == "correct" for v in said[::2]) / problems, sum(v == "incorrect" for v in said[1::2]) / problems


def run(settings: Settings, arm: str, seed: int) -> Measured:
    """Trains one helper."""
    out = run_folder(settings, "verdicts", arm, seed)

    def measure() -> Measured:
        config = helper_config(settings, out, seed, eval_tasks=1)
        team, begun = load_policy("embedded"), start_helper(settings, seed)
        trainer = ClaimTrainer(config, "verify", team, reward="verdict", policy=begun)
        before = rates(trainer.helper, settings.problems)
        trainer.train(None, ())
        after = rates(trainer.helper, settings.problems)
        return {
            "true positives at the start": before[0],
            "true negatives at the start": before[1],
            "balanced at the start": sum(before) / 2,
            "true positives": after[0],
            "true negatives": after[1],
            "balanced": sum(after) / 2,
        }

    return kept(out, measure)


def tell(settings: Settings, found: Mapping[str, Sequence[Measured]]) -> list[str]:
    """The page's section on them."""
    columns = {
        "balanced accuracy, at the start": "balanced at the start",
        "at the end": "balanced",
        "right claims called right": "true positives",
        "wrong claims called wrong": "true negatives",
    }
    return [
        "## A Verify helper learns to judge sums",
        f"{settings.steps} steps of 16 claims such as `4+4+1=10` and 8 verdicts, paid by the embedded helper's verdict. The "
        f"start helper was tuned on verdicts of which {RIGHT_LABELS:.0%} are right. Measured on {settings.problems} right and "
        "as many wrong claims about operands that nothing was trained on.",
        table("reward", columns, found),
    ]
