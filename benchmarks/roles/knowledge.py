"""A Knowledge helper that learns from the policy's success, and what the policy then learns from it.

The helper expands `473@128` rightly in some 15 % of its replies. It is trained for a policy that stays as it is: by the team's
reward, by the same times how likely the policy is to write the reply itself ("learnable"), and, as the control, by the team's
rewards shuffled within each query's replies. Then a policy is trained with the helper as it was, with the one that the team's
reward made of it, and with the embedded one, which is always right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np

from aipo_env.consulting import run_sync
from aipo_env.make_options import AgentLike
from aipo_env.protocol import ConsultRequest
from aipo_env.tasks.rulebook import OPERATORS
from algorithms.multi_agent import Branch, HelperTrainer, TrainedHelper
from algorithms.policies import Policy, load_policy
from algorithms.train_config import HelperReward
from algorithms.warmup import fit
from benchmarks.roles.setting import (
    Measured,
    Settings,
    accuracy,
    helper_config,
    kept,
    of_seeds,
    run_folder,
    table,
    train_policy,
)

RIGHT, WRONG = "@", "#"
ARMS: dict[str, HelperReward] = {"team": "team", "learnable": "learnable", "shuffled": "team"}
"""Name to the reward."""
HELPERS = ("start", "trained", "embedded")
"""With which a policy is trained."""


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


def run(settings: Settings, arm: str, seed: int) -> Measured:
    """Trains one helper; its start and its end."""
    out = run_folder(settings, "knowledge", arm, seed)

    def measure() -> Measured:
        kind = Shuffled if arm == "shuffled" else HelperTrainer
        trainer = kind(
            helper_config(settings, out, seed), "knowledge", load_policy("embedded"), reward=ARMS[arm],
            policy=start_helper(settings, seed),
        )  # fmt: skip
        before = right_share(trainer.helper, settings.problems)
        rows = trainer.train(None, ())
        return {
            "right at the start": before,
            "right": right_share(trainer.helper, settings.problems),
            "assisted at the start": rows[0]["eval/assisted_pass1"],
            "assisted": rows[-1]["eval/assisted_pass1"],
            "solo": rows[-1]["eval/solo_pass1"],
            "seconds": rows[-1]["seconds"],
        }

    return kept(out, measure)


def tell(settings: Settings, found: Mapping[str, Sequence[Measured]]) -> list[str]:
    """The page's section on them."""
    embedded = accuracy(load_policy("embedded"), settings.problems)
    columns = {
        "right, at the start": "right at the start",
        "right, at the end": "right",
        "accuracy with help, at the start": "assisted at the start",
        "at the end": "assisted",
    }
    return [
        "## A helper learns from the policy's success",
        f"{settings.steps} steps of 16 queries and 8 replies, the embedded policy as it is. Right: the reply is exactly the "
        "expansion. With the embedded helper, which is always right, the policy's accuracy with help is "
        f"{embedded:.3f}: in a part of its episodes it asks nobody.",
        table("reward", columns, found),
    ]


def run_policy(settings: Settings, arm: str, seed: int) -> Measured:
    """Trains a policy with a helper that stays as it is."""
    out = run_folder(settings, "policy", arm, seed)

    def measure() -> Measured:
        run(settings, "team", seed)
        helpers: dict[str, AgentLike] = {
            "start": TrainedHelper("knowledge", start_helper(settings, seed)),
            "trained": TrainedHelper.load("knowledge", run_folder(settings, "knowledge", "team", seed) / "policy"),
            "embedded": "knowledge",
        }
        policy = load_policy("embedded")
        _, found = train_policy(settings, out, seed, policy, {"knowledge": helpers[arm]})
        for name, helper in helpers.items():
            found[f"with {name}"] = accuracy(policy, settings.problems, {"knowledge": helper})
        return found

    return kept(out, measure)


def tell_policy(settings: Settings, found: Mapping[str, Sequence[Measured]]) -> list[str]:
    """The page's section on them."""
    before = [what for what in next(iter(found.values()))[0] if what.startswith("solo after")][-2]
    columns = {
        "solo, at the end": "solo",
        f"{before.removeprefix('solo ')} steps": before,
        "with its helper": "assisted",
    }
    lines = [
        "## A policy learns from the helper",
        f"{settings.policy_steps} steps of 16 problems and 8 rollouts, a quarter of them solo; the helper stays as it is.",
        table("helper", columns, found),
    ]
    if trained := found.get("trained"):
        cells = {
            "policy at the start": [
                of_seeds([m["assisted at the start"] for m in found[h]]) for h in found if h != "embedded"
            ],
            "policy that was trained with the trained helper": [
                of_seeds([m[f"with {h}"] for m in trained]) for h in found if h != "embedded"
            ],
        }
        solo = [of_seeds([m["solo at the start"] for m in trained]), of_seeds([m["solo"] for m in trained])]
        helpers = " | ".join(f"with the {h} helper" for h in found if h != "embedded")
        rows = [
            f"| {name} | {' | '.join(cell)} | {alone} |"
            for (name, cell), alone in zip(cells.items(), solo, strict=True)
        ]
        lines += [
            "Accuracy of each policy with each helper:",
            "\n".join([f"| | {helpers} | solo |", "|---" * (2 + len(cells)) + "|", *rows]),
        ]
    return lines
