"""Whether two scalars are the same: exactly if both are rational, else by value at several points."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from aipo_env.grading.arithmetic import Budget, NoValue, Value
from aipo_env.grading.nodes import Mul, Node, Num
from aipo_env.grading.numeric import POINTS, Evaluator
from aipo_env.grading.policy import GradingPolicy
from aipo_env.grading.trees import counts, has_variables, needs_positive


@dataclass(slots=True)
class Outcome:
    """Whether two answers are equal, None if our rules cannot tell, and the rule that decided."""

    equal: bool | None
    rule: str


def compare_scalars(gold: Node, answer: Node, policy: GradingPolicy, budget: Budget | None = None) -> Outcome:
    """Compare two trees that have scalar values."""
    budget = budget if budget is not None else Budget()
    if not has_variables(gold) and not has_variables(answer):
        return _compare_constants(gold, answer, policy, budget)
    positive = needs_positive(gold) or needs_positive(answer)
    whole = counts(gold) or counts(answer)
    compared, opaque, differs = 0, False, False
    for point in range(POINTS):
        # Variables of both signs show up |x| = x; roots and logarithms are compared where they are real.
        left = Evaluator(budget, point, positive=positive, whole=whole)
        right = Evaluator(budget, point, positive=positive, whole=whole)
        try:
            gold_value = left.value(gold)
        except NoValue:
            continue
        try:
            answer_value = right.value(answer)
        except NoValue:
            continue
        opaque = opaque or left.opaque or right.opaque
        compared += 1
        if not _close(gold_value, answer_value, 1e-9):
            differs = True
            break
    if differs:
        return Outcome(None if opaque else False, "expression")
    if compared < 3:
        return Outcome(None, "expression.undefined")
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
    elif _close(gold_value, answer_value, policy.relative_tolerance):
        return Outcome(True, "number.real")
    rounded = _rounding(gold, answer, gold_value, answer_value, policy)
    if rounded is not None:
        return Outcome(True, rounded)
    return Outcome(None if opaque else False, "number")


def _close(left: Value, right: Value, tolerance: float) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    try:
        a = complex(float(left)) if isinstance(left, Fraction) else left
        b = complex(float(right)) if isinstance(right, Fraction) else right
    except OverflowError:
        return False
    size = max(abs(a), abs(b))
    # Cancellation leaves about 1e-15 where zero is meant; a rational that small was written so on purpose.
    written_tiny = any(isinstance(v, Fraction) and v != 0 for v in (left, right)) and min(abs(a), abs(b)) < 1e-9
    floor = 0.0 if written_tiny else 1e-13
    return abs(a - b) <= max(tolerance * size, floor)


def _rounding(gold: Node, answer: Node, gold_value: Value, answer_value: Value, policy: GradingPolicy) -> str | None:
    """Return the rounding rule under which two different numbers match, or None."""
    gold_decimal, answer_decimal = _decimal(gold), _decimal(answer)
    if gold_decimal is not None and answer_decimal is None and not _mentions_decimal(answer):
        half_unit = 0.5 * 10.0**-gold_decimal.decimals
        if gold_decimal.digits >= policy.gold_decimal_digits and _within(gold_value, answer_value, half_unit):
            return "number.exact_answer_rounds_to_gold"
    if answer_decimal is not None and gold_decimal is None and not _terminates(gold_value):
        unit = 10.0**-answer_decimal.decimals
        exact = _has_decimals(gold_value, answer_decimal.decimals)
        if (
            answer_decimal.digits >= policy.answer_decimal_digits
            and not exact
            and _within(gold_value, answer_value, unit)
        ):
            return "number.decimal_answer_rounds_gold"
    return None


def _within(left: Value, right: Value, distance: float) -> bool:
    try:
        a = complex(float(left)) if isinstance(left, Fraction) else left
        b = complex(float(right)) if isinstance(right, Fraction) else right
    except OverflowError:
        return False
    return abs(a - b) <= distance * (1 + 1e-9)


def _decimal(node: Node) -> Num | None:
    """Return the literal if a tree is a decimal number with an optional sign."""
    if isinstance(node, Mul) and len(node.factors) == 2 and node.factors[0] == Num(Fraction(-1)):
        node = node.factors[1]
    return node if isinstance(node, Num) and node.decimals > 0 else None


def _mentions_decimal(node: Node) -> bool:
    if isinstance(node, Num):
        return node.decimals > 0
    children: list[Node] = []
    for name in ("terms", "factors", "args"):
        children.extend(getattr(node, name, ()))
    for name in ("base", "exponent", "operand", "value"):
        child = getattr(node, name, None)
        if child is not None and not isinstance(child, Fraction):
            children.append(child)
    return any(_mentions_decimal(child) for child in children)


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
