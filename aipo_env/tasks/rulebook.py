"""`rulebook`: a procedural family whose operators are defined nowhere but in the Knowledge agent's corpus.

`473@128` cannot be computed, or guessed, by a policy that never saw what `@` means; once it has the expansion
`4+4+1;7+7+2;3+3+8` it is three small sums. So a policy that never gets help stays at zero, and a policy that learns
from the help can do without it.

Values are digit strings. An operator works digit by digit: each place yields the sum of three digits, written with two
digits, and the places are joined: `4+4+1;7+7+2;3+3+8` is `091614`. With operands of three digits there are 28**3 =
21,952 possible answers.

Levels:
    1. one operand, one operator: `!473`
    2. two operands, one operator: `473@128`
    3. nested: `(473@128)#305142`
    4. an operator that is defined through others: `473$128`, which is `(473@128)#128128`
    5. half of them `47@12`, half chains such as `47|12|35`, of which Reasoning alone says what comes first: `37@15`

Variants:
    "expand": Knowledge answers `473@128` with its whole expansion.
    "steps": Knowledge only states the rule in words. Reasoning gives one place at a time (`473@128`: `4+4+1`, then
    `473@128:4+4+1`: `7+7+2`), and Verify tells a wrong sum (`4+4+1=10`). So all three helpers matter.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from aipo_env.errors import ConfigurationError, unknown_id
from aipo_env.grading import Grade, Verdict
from aipo_env.tasks.base import Task, check_index

Split = Literal["train", "test"]
Style = Literal["words", "terse"]
Variant = Literal["expand", "steps"]


@dataclasses.dataclass(frozen=True, slots=True)
class Term:
    """One digit of a sum: the digit of `operand` ("a" or "b") at place i + shift (cyclic), or mirrored."""

    operand: Literal["a", "b"]
    shift: int = 0
    mirror: bool = False

    def place(self, index: int, num_places: int) -> int:
        """The place that this term reads when the sum of place `index` is formed."""
        if self.mirror:
            return num_places - 1 - index
        return (index + self.shift) % num_places

    def words(self) -> str:
        """The term in words, for definitions."""
        if self.mirror:
            return f"the digit of {self.operand} at the mirrored place"
        if self.shift:
            return f"the digit of {self.operand} one place to the right (the first after the last)"
        return f"the digit of {self.operand} at that place"


@dataclasses.dataclass(frozen=True, slots=True)
class Operator:
    """A digit-wise operator: each place of the result is the sum of three digits."""

    symbol: str
    name: str
    terms: tuple[Term, Term, Term]

    @property
    def unary(self) -> bool:
        """Whether it takes one operand (and is written before it)."""
        return all(term.operand == "a" for term in self.terms)

    def expand(self, a: str, b: str = "") -> list[str]:
        """The sum of each place, as text: `["4+4+1", "7+7+2", "3+3+8"]`."""
        digits = {"a": a, "b": b}
        return ["+".join(digits[term.operand][term.place(i, len(a))] for term in self.terms) for i in range(len(a))]

    def definition(self) -> str:
        """The rule in words."""
        form = f"{self.symbol}a" if self.unary else f"a{self.symbol}b"
        terms = ", ".join(term.words() for term in self.terms)
        return (
            f"{form} ({self.name}): for each place, from left to right, add three digits: {terms}. Write each sum with "
            "two digits and join them."
        )


A, B = Term("a"), Term("b")
OPERATORS: dict[str, Operator] = {
    op.symbol: op
    for op in (
        Operator("!", "echo", (A, A, Term("a", shift=1))),
        Operator("?", "mirror", (A, Term("a", mirror=True), Term("a", mirror=True))),
        Operator("@", "twin", (A, A, B)),
        Operator("#", "second twin", (A, B, B)),
        Operator("~", "slide", (A, B, Term("b", shift=1))),
        Operator("&", "fold", (A, Term("a", mirror=True), B)),
    )
}
"""The operators with a digit-wise rule, by symbol."""

COMPOUND: dict[str, str] = {"$": "(a@b)#bb", "^": "(b~a)@aa"}
"""Operators defined through others, by symbol; `aa` is the digits of a, written twice."""

CHAIN = "|"
"""Joins three operands; `chain_step` says which of their digits meet."""

LEVELS: dict[int, tuple[str, ...]] = {
    1: ("!", "?"),
    2: ("@", "#", "~", "&"),
    3: ("@", "#", "~", "&"),
    4: ("$", "^"),
    5: ("@", CHAIN),
}
"""The operators that a level draws from."""

_UNARY = "".join(re.escape(o.symbol) for o in OPERATORS.values() if o.unary)
_BINARY = "".join(re.escape(s) for s in [o.symbol for o in OPERATORS.values() if not o.unary] + list(COMPOUND))
EXPRESSION = re.compile(
    rf"(?P<unary>[{_UNARY}])(?P<x>[0-9]{{1,64}})|(?P<a>[0-9]{{1,64}})(?P<op>[{_BINARY}])(?P<b>[0-9]{{1,64}})"
)
"""One operator applied to digit strings, without brackets: what one consult can be about."""


def define(symbol: str) -> str:
    """The definition of an operator in words.

    Raises:
        UnknownIdError: for a symbol that the rulebook does not have.
    """
    if symbol in OPERATORS:
        return OPERATORS[symbol].definition()
    if symbol in COMPOUND:
        return f"a{symbol}b: stands for {COMPOUND[symbol]}, where aa means the digits of a written twice, and bb those of b."
    raise unknown_id("rulebook operator", symbol, [*OPERATORS, *COMPOUND])


def expand(expression: str) -> str | None:
    """Expands one application of an operator: `473@128` to `4+4+1;7+7+2;3+3+8`, `473$128` to `(473@128)#128128`.

    Returns None for text that is no such application, or whose operands differ in length.
    """
    match = EXPRESSION.fullmatch(expression.strip())
    if match is None:
        return None
    if match["unary"]:
        return ";".join(OPERATORS[match["unary"]].expand(match["x"]))
    a, symbol, b = match["a"], match["op"], match["b"]
    if len(a) != len(b):
        return None
    if symbol in COMPOUND:
        return COMPOUND[symbol].translate(str.maketrans({"a": a, "b": b}))
    return ";".join(OPERATORS[symbol].expand(a, b))


def chain_step(expression: str) -> str | None:
    """What comes first in a chain: `47|12|35` is `37@15`, the diagonals c a b ... and b c a ... of its three operands.

    Returns None for text that is no chain, or whose operands differ in length.
    """
    if re.fullmatch(r"[0-9]{1,64}(?:\|[0-9]{1,64}){2}", text := expression.strip()) is None:
        return None
    a, b, c = text.split(CHAIN)
    if not len(a) == len(b) == len(c):
        return None
    left, right = ("".join(order[i % 3][i] for i in range(len(a))) for order in ((c, a, b), (b, c, a)))
    return f"{left}@{right}"


def evaluate_expansion(expansion: str) -> str:
    """Computes an expansion: `4+4+1;7+7+2;3+3+8` is `091614`."""
    return "".join(f"{sum(int(digit) for digit in place.split('+')):02d}" for place in expansion.split(";"))


def evaluate(expression: str) -> str:
    """The value of a rulebook expression with at most one pair of brackets, as a digit string.

    Raises:
        ConfigurationError: for text that is not a rulebook expression.
    """
    text = expression.strip()
    inner = re.search(r"\(([^()]*)\)", text)
    if inner is not None:
        return evaluate(text[: inner.start()] + evaluate(inner[1]) + text[inner.end() :])
    expansion = chain_step(text) or expand(text)
    if expansion is None:
        raise ConfigurationError(
            f"{expression[:80]!r} is not a rulebook expression: expected digits of equal length around one of "
            f"{' '.join([*OPERATORS, *COMPOUND])}, brackets at most once, or a chain a|b|c."
        )
    return evaluate(expansion) if EXPRESSION.search(expansion) or "(" in expansion else evaluate_expansion(expansion)


class RulebookTasks:
    """An endless family of rulebook problems; task i is a function of (seed, level, split, i) alone.

    Args:
        split: "train" or "test"; no operands occur in both (about one in eight operand choices is kept for the test).
        level: 1 to 5, see the module's docstring.
        seed: another seed is another sequence of problems.
        digits: digits per operand, 2 to 8. Three are the least for which guessing is hopeless (more than 10,000
            answers).
        operators: restricts the operators drawn; the default is all of the level.
        variant: which helpers give what, see the module's docstring.
        style: "words" states the problem for a language model, "terse" is the bare `473@128=` for tiny policies.
    """

    name = "rulebook"
    num_tasks = None

    def __init__(
        self,
        split: Split = "train",
        *,
        level: int = 2,
        seed: int = 0,
        digits: int = 3,
        operators: Sequence[str] | None = None,
        variant: Variant = "expand",
        style: Style = "words",
    ) -> None:
        if split not in ("train", "test"):
            raise unknown_id("rulebook split", split, ["train", "test"])
        if level not in LEVELS:
            raise ConfigurationError(f"rulebook levels are 1 to 5, got level={level!r}.")
        if not 2 <= digits <= 8:
            raise ConfigurationError(f"digits must be 2 to 8 per operand, got digits={digits!r}.")
        if variant not in ("expand", "steps"):
            raise ConfigurationError(f"variant must be 'expand' or 'steps', got {variant!r}.")
        if style not in ("words", "terse"):
            raise ConfigurationError(f"style must be 'words' or 'terse', got {style!r}.")
        if isinstance(operators, str):
            operators = tuple(operators)
        if operators is not None and (not operators or not set(operators) <= set(LEVELS[level])):
            raise ConfigurationError(
                f"level {level} has the operators {' '.join(LEVELS[level])}; operators={tuple(operators)!r} is empty or "
                "names others. Choose from these, or change level."
            )
        self.split, self.level, self.seed, self.digits, self.style = split, level, seed, digits, style
        self.operators = tuple(operators) if operators is not None else LEVELS[level]
        self.variant = variant
        self.default_agents: dict[str, str] = {}
        if variant == "steps":
            knowledge = "aipo_agents.knowledge:knowledge_without_expansions"
            self.default_agents = {"verify": "verify", "knowledge": knowledge, "reasoning": "reasoning"}

    def task(self, index: int) -> Task:
        """The task with this index."""
        index = check_index(index, None, "rulebook")
        key = (0 if self.split == "train" else 1, self.level, index)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))
        while True:
            expression, operands = self._draw(rng)
            if _is_test(operands) == (self.split == "test"):
                break
        problem = f"{expression}=" if self.style == "terse" else in_words(expression)
        return Task(
            id=f"rulebook/l{self.level}/{self.split}/{self.seed}/{index}",
            problem=problem,
            gold=evaluate(expression),
            metadata={"level": self.level, "expression": expression},
        )

    def sample_index(self, rng: np.random.Generator) -> int:
        """Draws the index of a task."""
        return int(rng.integers(2**31))

    def grade(self, task: Task, answer: str) -> Grade:
        """Compares digit for digit; spaces do not count. Leading zeros do: the answer is a digit string."""
        digits = "".join(answer.split())
        if not digits:
            return Grade(False, Verdict.NO_ANSWER, "rulebook:digits", None)
        correct = digits == task.gold
        return Grade(correct, Verdict.CORRECT if correct else Verdict.WRONG, "rulebook:digits", digits)

    async def grade_async(self, task: Task, answer: str) -> Grade:
        """As `grade`, which blocks nobody."""
        return self.grade(task, answer)

    def _draw(self, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
        """An expression, and its operands."""

        def digits(count: int) -> str:
            return "".join(str(d) for d in rng.integers(10, size=count))

        symbol = self.operators[int(rng.integers(len(self.operators)))]
        a, b = digits(self.digits), digits(self.digits)
        if self.level == 1:
            return f"{symbol}{a}", (a,)
        if symbol == CHAIN:
            operands = (a, b, digits(self.digits))
            return CHAIN.join(operands), operands
        if self.level == 3:
            outer = self.operators[int(rng.integers(len(self.operators)))]
            return f"({a}{symbol}{b}){outer}{digits(2 * self.digits)}", (a, b)
        return f"{a}{symbol}{b}", (a, b)


def _is_test(operands: tuple[str, ...]) -> bool:
    """Splits by the operands alone, so that no seed, level or operator mixes the two."""
    return hashlib.blake2b("|".join(operands).encode(), digest_size=1).digest()[0] < 32


def in_words(expression: str) -> str:
    """The problem as a language model reads it."""
    return (
        f"Compute {expression}. The operators of the rulebook work on digit strings: each place gives a sum, written with "
        "two digits, and the sums are joined to one digit string."
    )
