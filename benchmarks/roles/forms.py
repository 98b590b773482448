"""Explanation or finished answer: which of two right replies a helper learns to give, and what the policy learns from it.

The helper answers `473@128` with `4+4+1;7+7+2;3+3+8` or with `091614`; which one is its choice, a letter, and begins at one
half. The start policy is the embedded one, which learns to copy an answer that it is given too. Then a policy is trained with
the helper that came of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from aipo_agents.backends.base import Generation
from aipo_env import markup
from aipo_env.consulting import run_sync
from aipo_env.protocol import ConsultRequest, Reply
from aipo_env.tasks.rulebook import evaluate_expansion
from aipo_env.tasks.rulebook import expand as expand_application
from algorithms.multi_agent import HelperTrainer, TrainedHelper
from algorithms.policies import Policy, load_policy
from algorithms.train_config import HelperReward
from algorithms.warmup import WarmupConfig, fit, make_rules, make_sequence, to_row
from algorithms.warmup_episodes import Row
from benchmarks.roles.setting import Measured, Settings, helper_config, kept, run_folder, table, train_policy

ARMS: dict[str, tuple[HelperReward, bool]] = {
    "team": ("team", True),
    "gated": ("team", False),
    "learnable": ("learnable", True),
    "lookahead": ("lookahead", True),
}
"""Name to the reward, and whether a reply that states the answer is paid."""
EXPLAIN, ANSWER = "A", "B"
COPIED = 0.5
"""Share of the start policy's sequences in which the reply is the answer."""


class Choosing(TrainedHelper):
    """A helper whose model chooses the form of a reply; the reply itself is scripted, and right."""

    async def sample(self, request: ConsultRequest) -> Generation:
        """The choice, with the query in the place of a text."""
        return dataclasses.replace(await super().sample(request), text=request.query)

    def as_reply(self, generation: Generation) -> Reply:
        """The reply in the chosen form; an error where nothing was chosen."""
        chosen, expansion = super().as_reply(generation).text, expand_application(generation.text)
        if chosen not in (EXPLAIN, ANSWER) or expansion is None:
            return Reply("", error="no choice", declined=True)
        return Reply(expansion if chosen == EXPLAIN else evaluate_expansion(expansion))


def start_policy(settings: Settings) -> Policy:
    """Made once, and kept."""
    folder = settings.out / "start-forms"
    if not folder.exists():
        policy, rng, recipe = load_policy("embedded"), np.random.default_rng(0), WarmupConfig()
        rules = make_rules(recipe)

        def row() -> Row:
            if rng.random() >= COPIED:
                return make_sequence(rng, rules, recipe, policy.codec)
            a, b, answer = ("".join(map(str, rng.integers(10, size=size))) for size in (3, 3, 6))
            expression = f"{a}@{b}"
            asked = markup.consult_open("knowledge") + expression + markup.CONSULT_CLOSE
            told = markup.feedback_open("knowledge") + answer + markup.FEEDBACK_CLOSE
            parts = [(asked, True), (told, False), (markup.BOX_OPEN + answer + markup.BOX_CLOSE, True)]
            return to_row(policy.codec, f"{expression}=", parts)

        fit(policy, row, steps=settings.copying_steps, batch_size=48, learning_rate=1e-3)
        policy.save(folder)
    return load_policy(str(folder))


def start_helper(seed: int) -> Policy:
    """The embedded model, tuned to choose either form as often."""
    policy, rng = load_policy("embedded"), np.random.default_rng(seed)

    def row() -> Row:
        a, b = ("".join(map(str, rng.integers(10, size=3))) for _ in range(2))
        prompt = policy.codec.encode_prompt(f"{a}@{b}")
        reply = [*policy.codec.encode(EXPLAIN if rng.random() < 0.5 else ANSWER), min(policy.eos_ids)]
        return [*prompt, *reply], [False] * len(prompt) + [True] * len(reply)

    fit(policy, row, steps=20, batch_size=64, learning_rate=1e-3, rise=5)
    return policy


def explained(helper: Choosing, problems: int) -> float:
    """How often it explains."""
    rng = np.random.default_rng(1_000_003)
    queries = [f"{rng.integers(100, 1000)}@{rng.integers(100, 1000)}" for _ in range(problems)]

    async def ask() -> list[str]:
        return [(await helper.respond(ConsultRequest(query, seed=seed))).text for seed, query in enumerate(queries)]

    helper.policy.model.eval()
    said = run_sync(ask())
    helper.backend.forget()
    return sum(";" in text for text in said) / problems


def run(settings: Settings, arm: str, seed: int) -> Measured:
    """Trains a helper, then a policy with it."""
    out = run_folder(settings, "forms", arm, seed)

    def measure() -> Measured:
        reward, may_answer = ARMS[arm]
        begun = start_helper(seed)
        config = helper_config(settings, out / "helper", seed, steps=settings.choice_steps, eval_tasks=1)
        trainer = HelperTrainer(
            config, "knowledge", start_policy(settings), reward=reward, may_answer=may_answer, policy=begun
        )
        trainer.helper = helper = Choosing("knowledge", begun, max_tokens=4)
        before = explained(helper, settings.problems)
        trainer.train(None, ())
        found = {"explains at the start": before, "explains": explained(helper, settings.problems)}
        return found | train_policy(settings, out, seed, start_policy(settings), {"knowledge": helper})[1]

    return kept(out, measure)


def tell(settings: Settings, found: Mapping[str, Sequence[Measured]]) -> list[str]:
    """The page's section on them."""
    columns = {
        "explains, at the start": "explains at the start",
        "at the end": "explains",
        "the policy with it, at the start": "assisted at the start",
        "at the end ": "assisted",
        "solo": "solo",
    }
    return [
        "## Explanation or finished answer",
        "The helper chooses whether it replies with the expansion or with the answer, both right: "
        f"{settings.choice_steps} steps of 16 queries and 8 replies. Then the policy is trained with it: "
        f"{settings.policy_steps} steps of 16 problems and 8 rollouts, a quarter of them solo. Gated: a reply that states the "
        "answer earns nothing.",
        table("reward", columns, found),
    ]
