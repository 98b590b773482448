"""Whether two scalars are the same: exactly if both are rational, else by value, at several points, in high precision."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from aipo_env.grading.arithmetic import Budget, NoValue, Value, to_complex
from aipo_env.grading.nodes import Mul, Node, Num, walk
from aipo_env.grading.numeric import POINTS, Evaluator
from aipo_env.grading.policy import GradingPolicy
from aipo_env.grading.trees import counts, has_variables, needs_positive


@dataclass(slots=True)
class Outcome:
    """Whether two answers are equal, None if our rules cannot tell, and the rule that decided."""

    equal: bool | None
    rule: str


def compare_scalars(gold: Node, answer: Node, policy: GradingPolicy, budget: Budget | None = None) -> Outcome:
    """Compare two trees that have scalar values, at points that only both of them together determine."""
    budget = budget if budget is not None else Budget()
    if gold == answer:
        return Outcome(True, "same")
    if not has_variables(gold) and not has_variables(answer):
        return _compare_constants(gold, answer, policy, budget)
    positive = needs_positive(gold) or needs_positive(answer)
    whole = counts(gold) or counts(answer)
    digest = hashlib.blake2b(repr((gold, answer)).encode(), digest_size=8).hexdigest()
    compared, opaque = 0, False
    for point in range(16 if whole else 2 * POINTS):
        # Variables of both signs show up |x| = x; roots and logarithms are compared where they are real.
        key = digest + str(point // POINTS)
        try:
            pair = _evaluated(gold, answer, budget, point % POINTS, positive=positive, whole=whole, key=key)
        except NoValue:
            continue
        opaque, compared = opaque or pair.opaque, compared + 1
        if not pair.equal:
            return Outcome(None if opaque else False, "expression")
        if compared == POINTS:
            break
    if compared < 3:
        return Outcome(None, "expression.undefined")
    return Outcome(True, "expression.opaque" if opaque else "expression")


def _compare_constants(gold: Node, answer: Node, policy: GradingPolicy, budget: Budget) -> Outcome:
    try:
        pair = _evaluated(gold, answer, budget)
    except NoValue as error:
        try:
            Evaluator(budget).value(gold)
        except NoValue:
            return Outcome(None, "number.no_value")
        # The gold is a number; an answer that has no value is not that number. What we do not model is not
        # judged.
        return Outcome(None if str(error) == "structure" else False, "number.undefined")
    exact = isinstance(pair.gold, Fraction) and isinstance(pair.answer, Fraction)
    if pair.equal:
        return Outcome(True, "number.exact" if exact else "number.real")
    rounded = _rounding(gold, answer, pair.gold, pair.answer, policy)
    if rounded is not None:
        return Outcome(True, rounded)
    return Outcome(None if pair.opaque else False, "number")


@dataclass(slots=True)
class _Pair:
    """The values of two trees at one point."""

    gold: Value
    answer: Value
    equal: bool
    opaque: bool


MAX_PRECISION = 4096
GOLD_DIGITS = 3
"""Of a decimal gold that an irrational answer may match by rounding; a fraction needs one more."""
ANSWER_DIGITS = 6
"""Of a decimal answer that may match a gold without a finite decimal form."""


def _evaluated(gold: Node, answer: Node, budget: Budget, point: int = 0, **choices: Any) -> _Pair:
    """Evaluate two trees so precisely that a difference as small as the smallest number on the way cannot hide.

    Raises:
        NoValue: if one of them has no value at this point.
    """
    precision, needed = 0, 192
    while precision < needed <= MAX_PRECISION:
        precision = needed
        left, right = (Evaluator(budget, point, precision=precision, **choices) for _ in range(2))
        a, b = left.value(gold), right.value(answer)
        largest = max(left.largest, right.largest)
        needed = largest - min(left.smallest, right.smallest) + 128
        if (isinstance(a, Fraction) and isinstance(b, Fraction)) or left.approximate or right.approximate:
            equal = _close(a, b, 1e-9)
            break
        if needed <= precision:
            gap = left.numbers.magnitude(left.numbers.inexact(a) - left.numbers.inexact(b))
            equal = gap is None or gap < largest - precision + 40
            break
    else:
        raise NoValue("precision")
    return _Pair(a, b, equal, left.opaque or right.opaque)


def _close(left: Value, right: Value, tolerance: float) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    try:
        a, b = to_complex(left), to_complex(right)
    except OverflowError:
        return False
    return abs(a - b) <= max(tolerance * max(abs(a), abs(b)), 1e-13)


def same_number(left: Value, right: Value) -> bool:
    """Whether two real constants are equal: exactly if rational, else to the precision of their computation."""
    return _close(left, right, 1e-13)


def _rounding(gold: Node, answer: Node, gold_value: Value, answer_value: Value, policy: GradingPolicy) -> str | None:
    """Return the rounding rule under which two different numbers match, or None."""
    if policy.kind == "integer":
        return None
    gold_decimal, answer_decimal = _decimal(gold), _decimal(answer)
    try:
        a, b = to_complex(gold_value), to_complex(answer_value)
    except OverflowError:
        return None
    if gold_decimal is not None and answer_decimal is None and not any(_decimal(part) for part in walk(answer)):
        # A fraction with a finite decimal form is another number than the gold; 22/7 is not what 3.14 stands for.
        digits = GOLD_DIGITS + isinstance(answer_value, Fraction)
        half_unit = 0.5 * 10.0**-gold_decimal.decimals * (1 + 1e-9)
        if gold_decimal.digits >= digits and not _terminates(answer_value) and abs(a - b) <= half_unit:
            return "number.exact_answer_rounds_to_gold"
    if answer_decimal is not None and gold_decimal is None and not _terminates(gold_value):
        unit = 10.0**-answer_decimal.decimals
        exact = _has_decimals(gold_value, answer_decimal.decimals)
        rounded = abs(a - b) <= 0.5 * unit * (1 + 1e-9) or (abs(a - b) < unit and abs(b) < abs(a))
        if answer_decimal.digits >= ANSWER_DIGITS and not exact and rounded:
            return "number.decimal_answer_rounds_gold"
    return None


def _decimal(node: Node) -> Num | None:
    """Return the literal if a tree is a decimal number with an optional sign."""
    if isinstance(node, Mul) and len(node.factors) == 2 and node.factors[0] == Num(Fraction(-1)):
        node = node.factors[1]
    return node if isinstance(node, Num) and node.decimals > 0 else None


def _has_decimals(value: Value, decimals: int) -> bool:
    """Whether a real such as log 100 comes to so few decimals that an answer must give them exactly."""
    if isinstance(value, Fraction) or decimals > 10:
        return False
    return abs(value.real - round(value.real, decimals)) <= 1e-12 * max(1.0, abs(value.real))


def _terminates(value: Value) -> bool:
    """Whether a number has a finite decimal form, so that an answer can and must give it exactly."""
    if not isinstance(value, Fraction):
        return False
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1
