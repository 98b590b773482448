"""Whether two scalars are the same: exactly if both are rational, else by value at several points."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction

from aipo_env.grading.arithmetic import Budget, NoValue, Value, to_complex
from aipo_env.grading.nodes import Mul, Node, Num, walk
from aipo_env.grading.numeric import POINTS, Evaluator, PreciseEvaluator
from aipo_env.grading.policy import GradingPolicy
from aipo_env.grading.trees import counts, has_variables, needs_positive


@dataclass(slots=True)
class Outcome:
    """Whether two answers are equal, None if our rules cannot tell, and the rule that decided."""

    equal: bool | None
    rule: str


def compare_scalars(gold: Node, answer: Node, policy: GradingPolicy, budget: Budget | None = None) -> Outcome:
    """Compare two trees that have scalar values.

    Double precision decides what differs; what it finds equal must be equal in high precision too.
    """
    budget = budget if budget is not None else Budget()
    if gold == answer:
        return Outcome(True, "same")
    if not has_variables(gold) and not has_variables(answer):
        return _compare_constants(gold, answer, policy, budget)
    positive = needs_positive(gold) or needs_positive(answer)
    whole = counts(gold) or counts(answer)
    compared, opaque, approximate = 0, False, False
    for point in range(16 if whole else POINTS):
        # Variables of both signs show up |x| = x; roots and logarithms are compared where they are real.
        left = Evaluator(budget, point % POINTS, positive=positive, whole=whole, key=str(point // POINTS))
        right = Evaluator(budget, point % POINTS, positive=positive, whole=whole, key=str(point // POINTS))
        try:
            gold_value, answer_value = left.value(gold), right.value(answer)
        except NoValue:
            continue
        opaque = opaque or left.opaque or right.opaque
        approximate = approximate or left.approximate or right.approximate
        compared += 1
        if not _close(gold_value, answer_value, 1e-9):
            return Outcome(None if opaque else False, "expression")
        if compared == POINTS:
            break
    if compared < 3:
        return Outcome(None, "expression.undefined")
    if not approximate and not _confirmed(gold, answer, budget, positive, whole):
        return Outcome(None if opaque else False, "expression.precise")
    return Outcome(True, "expression.opaque" if opaque else "expression")


def _compare_constants(gold: Node, answer: Node, policy: GradingPolicy, budget: Budget) -> Outcome:
    left, right = Evaluator(budget), Evaluator(budget)
    try:
        gold_value = left.value(gold)
    except NoValue:
        return Outcome(None, "number.no_value")
    try:
        answer_value = right.value(answer)
    except NoValue as error:
        # The gold is a number; an answer that has no value is not that number. What we do not model is not
        # judged.
        return Outcome(None if str(error) == "structure" else False, "number.undefined")
    opaque = left.opaque or right.opaque
    if isinstance(gold_value, Fraction) and isinstance(answer_value, Fraction):
        if gold_value == answer_value:
            return Outcome(True, "number.exact")
    elif _close(gold_value, answer_value, 1e-9) and (
        left.approximate or right.approximate or _confirmed(gold, answer, budget)
    ):
        return Outcome(True, "number.real")
    rounded = _rounding(gold, answer, gold_value, answer_value, policy)
    if rounded is not None:
        return Outcome(True, rounded)
    return Outcome(None if opaque else False, "number")


MAX_PRECISION = 4096


def _confirmed(gold: Node, answer: Node, budget: Budget, positive: bool = True, whole: bool = False) -> bool:
    """Whether two trees are equal in high precision, at a point that only both of them together determine.

    The precision is such that a difference as small as the smallest number on the way cannot hide.
    """
    constant = not has_variables(gold) and not has_variables(answer)
    key = "" if constant else hashlib.blake2b(repr((gold, answer)).encode(), digest_size=8).hexdigest()
    for attempt in range(8):
        precision = 192
        while precision <= MAX_PRECISION:
            choices = {"positive": positive, "whole": whole, "key": key + str(attempt)}
            left, right = (PreciseEvaluator(precision, budget, attempt % POINTS, **choices) for _ in range(2))
            try:
                a, b = left.value(gold), right.value(answer)
            except NoValue:
                break  # undefined at this point: try another
            if isinstance(a, Fraction) and isinstance(b, Fraction):
                return a == b
            largest = max(left.largest, right.largest)
            needed = largest - min(left.smallest, right.smallest) + 128
            if needed <= precision:
                gap = left.precise.magnitude(left.precise.inexact(a) - left.precise.inexact(b))
                return gap is None or gap < largest - precision + 40
            precision = needed
        if constant:
            return False
    return False


def _close(left: Value, right: Value, tolerance: float) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    try:
        a, b = to_complex(left), to_complex(right)
    except OverflowError:
        return False
    # Cancellation leaves about 1e-15 where zero is meant; high precision tells whether it is.
    return abs(a - b) <= max(tolerance * max(abs(a), abs(b)), 1e-13)


def same_number(left: Value, right: Value) -> bool:
    """Whether two real constants are equal: exactly if rational, else to the precision of their computation."""
    return _close(left, right, 1e-13)


def _rounding(gold: Node, answer: Node, gold_value: Value, answer_value: Value, policy: GradingPolicy) -> str | None:
    """Return the rounding rule under which two different numbers match, or None."""
    gold_decimal, answer_decimal = _decimal(gold), _decimal(answer)
    try:
        a, b = to_complex(gold_value), to_complex(answer_value)
    except OverflowError:
        return None
    if gold_decimal is not None and answer_decimal is None and not any(_decimal(part) for part in walk(answer)):
        # A fraction with a finite decimal form is another number than the gold; 22/7 is not what 3.14 stands for.
        digits = policy.gold_decimal_digits + isinstance(answer_value, Fraction)
        half_unit = 0.5 * 10.0**-gold_decimal.decimals * (1 + 1e-9)
        if gold_decimal.digits >= digits and not _terminates(answer_value) and abs(a - b) <= half_unit:
            return "number.exact_answer_rounds_to_gold"
    if answer_decimal is not None and gold_decimal is None and not _terminates(gold_value):
        unit = 10.0**-answer_decimal.decimals
        exact = _has_decimals(gold_value, answer_decimal.decimals)
        rounded = abs(a - b) <= 0.5 * unit * (1 + 1e-9) or (abs(a - b) < unit and abs(b) < abs(a))
        if answer_decimal.digits >= policy.answer_decimal_digits and not exact and rounded:
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
