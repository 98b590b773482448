"""Credit of each reply: a policy that asks two helpers in an episode, of which one is right and the other says random digits.

With the credit of the trajectory both replies are learnt wherever the episode ends right; with that of branches only the one
without which it would not. The start policy is that of the boundary study's chains, which asks knowledge what to add and
verify whether its sums are right; it learns to go on where verify says digits, or nothing, and where knowledge does not
answer. What `@` means it does not learn. Both arms make as many rollouts, continuations among them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

import aipo_env
from aipo_env import markup
from aipo_env.make_options import AgentLike, Options
from aipo_env.protocol import ConsultRequest, Reply
from aipo_env.replay import NO_REPLY
from aipo_env.training_sample import to_training_sample
from aipo_env.trajectory import Source, Trajectory
from algorithms.batch import micro_batches
from algorithms.codec import TransformersCodec
from algorithms.logprobs import token_logprobs
from algorithms.policies import Policy, load_policy
from algorithms.rollout import LocalSampler
from algorithms.train_config import SamplingConfig
from algorithms.warmup import fit, to_row
from algorithms.warmup_episodes import Row
from benchmarks.boundary.chain import DIGITS, Rules, claimed
from benchmarks.boundary.chain import make_sequence as chain_sequence
from benchmarks.boundary.start_policies import start_folder
from benchmarks.roles.setting import RULES as OPERATOR
from benchmarks.roles.setting import Measured, Settings, kept, run_folder, table, train_policy

ARMS = ("branch", "trajectory")
JUNK = "verify"
"""The name of the helper that says random digits."""
RULES: Options = {**OPERATOR, "level": 5, "digits": DIGITS}
SAMPLING = SamplingConfig(max_tokens=160)
"""Room for two replies, or for the notice of one that did not come."""


class Junk:
    """A helper that says six random digits."""

    name = JUNK

    async def respond(self, request: ConsultRequest) -> Reply:
        """They depend on the request's seed alone."""
        return Reply(f"{random.Random(f'junk/{request.seed}').randrange(10**6):06d}")


def make_sequence(rng: np.random.Generator, codec: TransformersCodec) -> Row:
    """One of the start policy's sequences: two questions, each with a reply or a notice, and the answer of its sums."""

    def digits(count: int) -> str:
        return "".join(map(str, rng.integers(10, size=count)))

    expression, expansion = f"{digits(DIGITS)}@{digits(DIGITS)}", ";".join("+".join(digits(3)) for _ in range(DIGITS))
    silent = rng.choice(["", "knowledge", JUNK], p=[0.4, 0.3, 0.3])
    # Where nobody told it the sums, those that it adds are a guess.
    answer = "".join(map(claimed, expansion.split(";")))
    told = {"knowledge": (expression, expansion), JUNK: (f"{expansion}={answer}", digits(6))}
    parts: list[tuple[str, bool]] = []
    for name, (query, reply) in told.items():
        notice = f"{markup.NOTICE_OPEN}{name} could not answer: {NO_REPLY.error}{markup.NOTICE_CLOSE}"
        parts.append((markup.consult_open(name) + query + markup.CONSULT_CLOSE, True))
        parts.append((notice if name == silent else markup.feedback_open(name) + reply + markup.FEEDBACK_CLOSE, False))
    return to_row(codec, f"{expression}=", [*parts, (markup.BOX_OPEN + answer + markup.BOX_CLOSE, True)])


def start_policy(settings: Settings) -> Policy:
    """Made once, and kept."""
    folder = settings.out / "start-credit"
    if not folder.exists():
        policy, rng = (
            load_policy(str(start_folder("gpt_neox", settings.out, "chain", steps=settings.start_steps))),
            np.random.default_rng(0),
        )
        rules = Rules.draw(np.random.default_rng(0))

        def row() -> Row:
            known = rng.random() < 0.3
            return chain_sequence(rng, rules, policy.codec) if known else make_sequence(rng, policy.codec)

        fit(policy, row, steps=settings.warmup_steps, batch_size=32, learning_rate=5e-4, rise=10)
        policy.save(folder)
    return load_policy(str(folder))


@torch.no_grad()
def probabilities(policy: Policy, trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """The mean probability under the policy of the tokens of each helper's replies, their tags among them."""
    samples = [to_training_sample(t) for t in trajectories]
    helpers = [[s.agent for s in t.segments if s.source is Source.AGENT for _ in s.token_ids] for t in trajectories]
    found: dict[str, list[float]] = {}
    for part in micro_batches(samples, np.zeros(len(samples), np.float32), 64, pad_id=0):
        masks = part.input_ids_BL, part.attention_mask_BL, part.selected_BL
        probabilities_T = token_logprobs(policy.model, *masks).logprobs_T.exp()
        for index in set(part.sequence_ids_T.tolist()):
            chosen_T = (part.sequence_ids_T == index) & (part.sources_T == Source.AGENT)
            for name, value in zip(helpers[index], probabilities_T[chosen_T].tolist(), strict=True):
                found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def run(settings: Settings, arm: str, seed: int) -> Measured:
    """Trains one policy."""
    out = run_folder(settings, "credit", arm, seed)

    def measure() -> Measured:
        policy = start_policy(settings)
        agents: dict[str, AgentLike] = {"knowledge": "knowledge", JUNK: Junk()}
        fields: dict[str, Any] = {
            "env_options": RULES, "prompts_per_step": 8, "sampling": SAMPLING, "warmup_steps": 5,
            # At 3e-4 this start policy comes to nothing, whatever the credit.
            "learning_rate": 1e-4, "eval_every": 0,
        }  # fmt: skip
        if arm == "branch":
            fields |= {"steps": settings.credit_steps, "reply_credit": "branch"}
        else:
            fields |= {"steps": math.ceil(run(settings, "branch", seed)["rollouts"] / (8 * 8))}
        # The same replies at the same places before and after.
        options: dict[str, Any] = {**RULES, "split": "test", "agents": agents}
        env = aipo_env.make("rulebook-consult", codec=policy.codec, **options)
        heard = LocalSampler(policy, SAMPLING).rollout(env, range(settings.problems), group_size=1, seed=5)
        before = probabilities(policy, heard)
        trainer, found = train_policy(settings, out, seed, policy, agents, **fields)
        after = probabilities(policy, heard)
        for name, what in (("knowledge", "right reply"), (JUNK, "junk reply")):
            found |= {f"{what} at the start": before.get(name, math.nan), what: after.get(name, math.nan)}
            credits = [row[key] for row in trainer.history if (key := f"train/reply_credit_{name}") in row]
            if credits:
                found[f"credit of the {what}"] = float(np.mean(credits))
        return found

    return kept(out, measure)


def tell(settings: Settings, found: Mapping[str, Sequence[Measured]]) -> list[str]:
    """The page's section on them."""
    columns = {
        "junk reply, at the start": "junk reply at the start",
        "at the end": "junk reply",
        "right reply, at the start": "right reply at the start",
        "at the end ": "right reply",
        "solo": "solo",
        "with help": "assisted",
    }
    counts = {"steps": "steps", "rollouts": "rollouts", "trained tokens": "trained tokens"}
    credits = {f"credit of the {what}": f"credit of the {what}" for what in ("right reply", "junk reply")}
    branched = {arm: rows for arm, rows in found.items() if all(what in row for what in credits for row in rows)}
    return [
        "## A junk reply beside a right one",
        f"The policy asks knowledge, which is right, and {JUNK}, which says six random digits, about problems `47@12=`. "
        f"8 problems of 8 rollouts a step, a quarter solo; {settings.credit_steps} steps with the credit of branches, and "
        "with that of the trajectory as many as make the same number of rollouts, continuations counted. Of replies: the "
        "mean probability under the policy of their tokens, tags included, on what the start policy was told about "
        f"{settings.problems} test problems.",
        table("`reply_credit`", columns, found),
        table("`reply_credit`", counts, found, ".0f"),
        "Mean credit of a reply in an episode that earned something:",
        table("`reply_credit`", credits, branched),
    ]
