"""Supervised warm-ups: how they are fitted, and the one that made the embedded policy, from a random initialisation.

What that one teaches, on problems of the form `473@128=`:

- known operators (capital letters, none of them in the rulebook, each with a made-up rule): ask, write the reply oneself,
  compute. This is what any pretrained model brings along: looking digits up, copying, adding;
- unknown operators (those of the rulebook): ask, and compute from the reply, whose content here is random digits and bears
  no loss;
- unknown operators, alone: guess, with or without asking first.

What it never teaches is the content of a reply about an operator of the rulebook: at no place does a known operator add
the three digits that a rulebook operator adds there.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from aipo_env import markup
from aipo_env.tasks.rulebook import LEVELS, OPERATORS, Operator, Style, Term, evaluate_expansion, in_words
from algorithms.codec import TransformersCodec
from algorithms.logprobs import token_logprobs
from algorithms.policies import Policy
from algorithms.policies.embedded_model import Architecture, build_model, build_tokenizer
from algorithms.warmup_episodes import Row

DIGITS = 3
KNOWN_OPERATORS = "ABCDEFGHIJKLMNOPQRSTUVWX"
UNKNOWN_OPERATORS = LEVELS[2]


@dataclasses.dataclass(frozen=True)
class WarmupConfig:
    """The recipe of the embedded policy."""

    steps: int = 1400
    """Optimizer steps."""
    batch_size: int = 128
    """Sequences in a batch."""
    learning_rate: float = 2e-3
    """AdamW's peak; a linear rise over 100 steps, then a cosine down to 5 %."""
    architecture: Architecture = "llama"
    """Of the model; see `algorithms.policies.embedded_model`."""
    layers: int = 3
    """Transformer layers."""
    hidden: int = 96
    """Width."""
    heads: int = 4
    """Attention heads."""
    known_share: float = 0.4
    """Share of sequences on known operators."""
    asked_share: float = 0.4
    """Share of sequences that compute from a reply of random digits; the rest guess, half of them after asking."""
    style: Style = "terse"
    """How problems are put: `473@128=`, or in words for a language model."""
    shared_digits: int = 2
    """The most digits of one place's sum that a known operator may share with a rulebook operator; 3 would be the rule."""
    seed: int = 0
    """Decides initialisation, rules and data."""


def make_rules(config: WarmupConfig) -> dict[str, Operator]:
    """A made-up digit-wise rule for each known operator; none forms, at any place, a sum that a rulebook operator forms."""

    def sums(operator: Operator) -> list[Counter[str]]:
        """For each place, which digits are added; `abc` and `def` stand for the operands' digits."""
        return [Counter(text.split("+")) for text in operator.expand("abc", "def")]

    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(0,)))
    rulebook = [sums(OPERATORS[symbol]) for symbol in UNKNOWN_OPERATORS]
    rules: dict[str, Operator] = {}
    for symbol in KNOWN_OPERATORS:
        while symbol not in rules:
            draws = rng.integers(2 * DIGITS, size=3)
            terms = [Term("a" if draw < DIGITS else "b", shift=int(draw) % DIGITS) for draw in draws]
            rule = Operator(symbol, "known", (terms[0], terms[1], terms[2]))
            pairs = [(own, other) for known in rulebook for own, other in zip(sums(rule), known, strict=True)]
            if all((own & other).total() <= config.shared_digits for own, other in pairs):
                rules[symbol] = rule
    return rules


def make_sequence(
    rng: np.random.Generator, rules: dict[str, Operator], config: WarmupConfig, codec: TransformersCodec
) -> Row:
    """One training sequence: its ids, and which of them bear loss."""
    a, b = ("".join(map(str, rng.integers(10, size=DIGITS))) for _ in range(2))
    draw = rng.random()
    known = draw < config.known_share
    if known:
        symbol = KNOWN_OPERATORS[int(rng.integers(len(KNOWN_OPERATORS)))]
        expansion = ";".join(rules[symbol].expand(a, b))
    else:
        symbol = UNKNOWN_OPERATORS[int(rng.integers(len(UNKNOWN_OPERATORS)))]
        expansion = ";".join("+".join(map(str, rng.integers(10, size=3))) for _ in range(DIGITS))
    expression = f"{a}{symbol}{b}"
    ask = markup.consult_open("knowledge") + expression + markup.CONSULT_CLOSE
    feedback = markup.feedback_open("knowledge") + expansion + markup.FEEDBACK_CLOSE
    answer = markup.BOX_OPEN + evaluate_expansion(expansion) + markup.BOX_CLOSE
    if known:
        parts = [(ask, True), (feedback, True), (answer, True)]
    elif draw < config.known_share + config.asked_share:
        parts = [(ask, True), (feedback, False), (answer, True)]
    elif draw < (1 + config.known_share + config.asked_share) / 2:
        parts = [(ask, True), (answer, True)]
    else:
        parts = [(answer, True)]
    return to_row(codec, f"{expression}=" if config.style == "terse" else in_words(expression), parts)


def to_row(codec: TransformersCodec, prompt: str, parts: Sequence[tuple[str, bool]]) -> Row:
    """A training sequence of a prompt, what follows it, each with whether it bears loss, and an end token, which does."""
    ids = codec.encode_prompt(prompt)
    loss = [False] * len(ids)
    for text, bears_loss in parts:
        piece = codec.encode_tag(text)
        ids += piece
        loss += [bears_loss] * len(piece)
    return [*ids, *codec.eos_ids], [*loss, True]


def warm_up(
    config: WarmupConfig,
    folder: Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
    *,
    policy: Policy | None = None,
    device: str = "cpu",
) -> Policy:
    """Trains the embedded policy, or teaches the same to another one.

    Args:
        config: the recipe; the defaults made the weights that the package carries.
        folder: where to save it; None for nowhere.
        on_step: called with the step and its loss.
        policy: is trained in place, in place of a freshly initialised one.
        device: a torch device, for a freshly initialised one.
    """
    if policy is None:
        tokenizer = build_tokenizer()
        model = build_model(
            tokenizer,
            architecture=config.architecture,
            layers=config.layers,
            hidden=config.hidden,
            heads=config.heads,
            seed=config.seed,
        )
        policy = Policy("embedded", model.to(device), TransformersCodec(tokenizer))
    codec, rules = policy.codec, make_rules(config)
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(1,)))
    fit(
        policy,
        lambda: make_sequence(rng, rules, config, codec),
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        on_step=on_step,
    )
    if folder is not None:
        policy.save(folder)
    return policy


def fit(
    policy: Policy,
    row: Callable[[], Row],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    rise: int = 100,
    micro_batch_size: int | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Trains a policy in place on sequences as they come: AdamW, a linear rise, then a cosine down to 5 %.

    Args:
        policy: is trained.
        row: makes the next sequence, and says which of its tokens bear loss.
        steps: optimizer steps.
        batch_size: sequences of each.
        learning_rate: the peak.
        rise: steps of the rise.
        micro_batch_size: sequences in one forward and backward pass; None for all. It changes memory and speed, not the result.
        on_step: called with the step and its mean loss of a token.
    """
    model = policy.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / rise) * cosine
        rows = [row() for _ in range(batch_size)]
        num_tokens, total, size = sum(sum(loss) for _, loss in rows), 0.0, micro_batch_size or batch_size
        optimizer.zero_grad(set_to_none=True)
        for start in range(0, batch_size, size):
            loss = _summed_loss(policy, rows[start : start + size]) / num_tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, total)
    model.eval()


@torch.no_grad()
def sequence_loss(policy: Policy, rows: Sequence[Row]) -> float:
    """The mean loss of a token that bears it."""
    return float(_summed_loss(policy, rows)) / sum(sum(loss) for _, loss in rows)


def _summed_loss(policy: Policy, rows: Sequence[Row]) -> torch.Tensor:
    model, length = policy.model, max(len(ids) for ids, _ in rows)
    padded = [(ids + [0] * (length - len(ids)), bears + [False] * (length - len(ids))) for ids, bears in rows]
    ids_BL, selected_BL = (torch.tensor(column, device=model.device) for column in zip(*padded, strict=True))
    mask_BL = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in rows], device=model.device)
    return -token_logprobs(model, ids_BL, mask_BL, selected_BL).logprobs_T.sum()
