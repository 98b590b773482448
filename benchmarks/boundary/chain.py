"""The task that needs all three helpers, and what its start policies are warmed up on.

Half of the problems of `rulebook`, level 5, are applications of an operator (`47@12`), half are chains (`47|12|35`). Reasoning
alone says what comes first in a chain (`37@15`), Knowledge alone what the operator means (`3+3+1;7+7+5`), and a start policy
adds with a slip that Verify finds: what makes 18 or more it writes ten too small.

The warm-up teaches to ask all three, to use what they reply, and to write replies itself, on *other* operators and chains,
whose symbols are letters. Of the rulebook it has what is asked, never what is replied: those replies are random, and bear no
loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aipo_env import markup
from aipo_env.tasks.rulebook import evaluate_expansion
from algorithms.codec import TransformersCodec
from algorithms.policies import Policy
from algorithms.warmup import fit, to_row
from algorithms.warmup_episodes import Row
from benchmarks.boundary.helpers import UNABLE

STEPS = 800
"""Of the warm-up, 128 sequences each."""
DIGITS = 2
SLIPS_FROM = 18
"""Sums from which on a start policy writes ten too few."""
_OPERATORS, _CHAINS = "ABCDEFGHIJKL", "MNOPQRSTUVWX"
_KNOWN, _UNABLE, _UNVERIFIED = 0.4, 0.15, 0.15
"""Shares: of sequences on known symbols; of replies about the rulebook that say nothing; of sums that nobody is asked about."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """What known symbols mean: which digits, by their place in the operands, are added or meet."""

    sums: dict[str, list[list[int]]]
    steps: dict[str, tuple[str, list[int]]]
    """Of a chain: the operator of its first step, and the digits there."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Rules:
        """Made-up rules, none of which has a sum, or a step, of the rulebook."""
        sums = {}
        for symbol in _OPERATORS:
            while symbol not in sums:
                drawn = rng.integers(2 * DIGITS, size=(DIGITS, 3)).tolist()
                # The rulebook's `@` adds a digit of a twice and that of b at its place.
                if all(sorted(three) != [i, i, i + DIGITS] for i, three in enumerate(drawn)):
                    sums[symbol] = drawn
        steps = {}
        for symbol in _CHAINS:
            places = rng.permutation(3 * DIGITS)[: 2 * DIGITS].tolist()
            steps[symbol] = (_OPERATORS[int(rng.integers(len(_OPERATORS)))], places)
        return cls(sums, steps)


def claimed(place: str) -> str:
    """What a start policy takes a sum for."""
    total = int(evaluate_expansion(place))
    return f"{total - 10 * (total >= SLIPS_FROM):02d}"


def make_sequence(rng: np.random.Generator, rules: Rules, codec: TransformersCodec, *, known: bool = False) -> Row:
    """One training sequence, if wanted one about what is known: its ids, and which of them bear loss."""
    known, chained = rng.random() < _KNOWN or known, rng.random() < 0.5

    def digits(count: int) -> str:
        return "".join(map(str, rng.integers(10, size=count)))

    def reply(right: str) -> tuple[str, bool]:
        """Of a helper who was asked about the rulebook, or written by the policy about what it knows."""
        if known:
            return right, True
        return (UNABLE if rng.random() < _UNABLE else right), False

    def ask(agent: str, question: str, answered: tuple[str, bool]) -> list[tuple[str, bool]]:
        text, learnt = answered
        return [
            (markup.consult_open(agent) + question + markup.CONSULT_CLOSE, True),
            (markup.feedback_open(agent) + text + markup.FEEDBACK_CLOSE, learnt),
        ]

    parts: list[tuple[str, bool]] = []
    operands = [digits(DIGITS) for _ in range(2 + chained)]
    operator = symbol = rng.choice(list(_OPERATORS)) if known else "@"
    if chained:
        symbol = rng.choice(list(_CHAINS)) if known else "|"
    problem = symbol.join(operands)
    if chained:
        operator, places = rules.steps[symbol] if known else ("@", [])
        picked = "".join("".join(operands)[i] for i in places) or digits(2 * DIGITS)
        step = f"{picked[:DIGITS]}{operator}{picked[DIGITS:]}"
        parts += ask("reasoning", problem, told := reply(step))
        if told[0] == UNABLE:
            step = f"{digits(DIGITS)}{operator}{digits(DIGITS)}"
        operands = step.split(operator)
    else:
        step = problem
    if known:
        sums = ["+".join("".join(operands)[i] for i in three) for three in rules.sums[operator]]
    else:
        sums = ["+".join(digits(3)) for _ in range(DIGITS)]
    parts += ask("knowledge", step, told := reply(";".join(sums)))
    if told[0] == UNABLE:
        sums = ["+".join(digits(3)) for _ in range(DIGITS)]
    right, own = map(evaluate_expansion, sums), map(claimed, sums)
    pairs = list(zip(sums, right, own, strict=True))
    answer = "".join(mine for _, _, mine in pairs)
    if rng.random() >= _UNVERIFIED:
        # Verify tells the first sum that is wrong.
        slip = next((i for i, (_, value, mine) in enumerate(pairs) if value != mine), None)
        verdict = "correct" if known or slip is None else f"incorrect: {pairs[slip][0]} is {pairs[slip][1]}"
        parts += ask("verify", f"{';'.join(sums)}={answer}", told := reply(verdict))
        if slip is not None and told[0].startswith("incorrect"):
            answer = "".join(value if i == slip else mine for i, (_, value, mine) in enumerate(pairs))
    parts.append((markup.BOX_OPEN + answer + markup.BOX_CLOSE, True))
    return to_row(codec, f"{problem}=", parts)


def warm_up(
    policy: Policy,
    folder: Path,
    steps: int = STEPS,
    on_step: Callable[[int, float], None] | None = None,
    *,
    seed: int = 0,
) -> None:
    """Trains a start policy, and saves it.

    Args:
        policy: the operator's start policy, which asks Knowledge and adds; it is trained in place.
        folder: where it goes.
        steps: optimizer steps.
        on_step: called with the step and its loss.
        seed: of rules and data.
    """
    rng = np.random.default_rng(seed)
    rules = Rules.draw(rng)
    make = lambda: make_sequence(rng, rules, policy.codec)  # noqa: E731
    fit(policy, make, steps=steps, batch_size=128, learning_rate=1e-3, on_step=on_step)
    policy.save(folder)
