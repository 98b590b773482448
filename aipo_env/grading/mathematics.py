r"""The one reader and evaluator of mathematics: what the grader and the embedded helpers share.

    tree = read(r"\frac{1}{2} + 0.25")          # LaTeX or plain text to a tree of `nodes`; raises `Unreadable`
    evaluate(tree)                              # Fraction(3, 4): exact while rational, else complex floating point
    evaluate(read("2x+1"), {"x": Fraction(3)})  # Fraction(7, 1)
    variables(read("x^2+y"))                    # {"x", "y"}
    equal(read("x^2-1"), read("(x-1)(x+1)"))    # True, False, or None: cannot tell
    holds(read("10/3 = 3.33"))                  # the same for a relation or a chain of them

Trees are the dataclasses of `aipo_env.grading.nodes`. No text makes any of this run code, hang or grow without
bound: what is read has at most 2,000 characters, and `Budget` bounds steps and wall time of all that is
computed with it; pass one budget to several calls to bound them together. Everything is pure and thread-safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from aipo_env.grading.arithmetic import Budget, NoValue, OutOfBudget, Value, to_complex
from aipo_env.grading.clean import Refused, clean
from aipo_env.grading.lexer import Unreadable
from aipo_env.grading.nodes import Call, Node, Num, Quantity, Relation, Sequence
from aipo_env.grading.numeric import Evaluator
from aipo_env.grading.parser import parse
from aipo_env.grading.policy import GradingPolicy
from aipo_env.grading.scalars import compare_scalars
from aipo_env.grading.trees import split_unit, variables
from aipo_env.grading.units import unit_size

__all__ = [
    "Budget",
    "NoValue",
    "OutOfBudget",
    "Unreadable",
    "Value",
    "equal",
    "evaluate",
    "exact_value",
    "holds",
    "read",
    "variables",
]

_EXACT = GradingPolicy(gold_decimal_digits=99, answer_decimal_digits=99)
_ORDER = {"<": -1, "<=": -1, ">": 1, ">=": 1}


def read(text: str) -> Node:
    """Return the tree of a formula, an equation, an inequality, a list, a quantity.

    Args:
        text: LaTeX or plain ASCII mathematics, with or without dollar signs.

    Raises:
        Unreadable: if it is not mathematics, or too long or nested too deeply.
    """
    try:
        return parse(clean(text))
    except Refused as refused:
        raise Unreadable(refused.reason, final=True) from None
    except RecursionError:
        raise Unreadable("nesting", final=True) from None


def evaluate(node: Node, values: Mapping[str, Fraction] | None = None, budget: Budget | None = None) -> Value:
    """Return the value of a tree: a Fraction while it stays rational and small, else a complex number.

    A unit does not change a value, except that percent divides by 100 and a degree is pi/180.

    Args:
        node: a tree.
        values: the variables' values, by name as in `Sym.name`.
        budget: bounds the work; one of its own by default.

    Raises:
        NoValue: if it has no value: a variable or a function without one, a division by zero, a list.
        OutOfBudget: if it takes too long.
    """
    known = dict(values or {})
    missing = variables(node) - known.keys()
    if missing:
        raise NoValue(f"no value for {min(missing)}")
    evaluator = Evaluator(budget)
    evaluator.bound.update(known)
    value = evaluator.value(node)
    if evaluator.placeholders:
        raise NoValue("unknown function")
    return value


def exact_value(node: Node, values: Mapping[str, Fraction] | None = None, budget: Budget | None = None) -> Fraction:
    """Return the value of a tree that is rational; raises as `evaluate` does, and `NoValue` if it is not rational."""
    value = evaluate(node, values, budget)
    if not isinstance(value, Fraction):
        raise NoValue("not rational")
    return value


def equal(left: Node, right: Node, budget: Budget | None = None) -> bool | None:
    """Return whether two expressions have the same value for all values of their variables; None: cannot tell.

    Variables with roots or logarithms count as positive, indices of sums and binomials as whole numbers.
    """
    try:
        return compare_scalars(left, right, _EXACT, budget).equal
    except OutOfBudget:
        return None


def holds(
    claim: Node,
    values: Mapping[str, Fraction] | None = None,
    budget: Budget | None = None,
    *,
    rounding: bool = True,
) -> bool | None:
    """Return whether a claim is true: a relation, a chain, a congruence, or a list of them.

    Equations in variables are judged as identities: True if they hold for all values, None if not (they may be
    equations to solve). Constants, and variables with a value, are judged outright.

    Args:
        claim: a tree of `Relation`s.
        values: the variables' values.
        budget: bounds the work; one of its own by default.
        rounding: a decimal such as 3.33 may stand for what rounds to it.
    """
    budget = budget if budget is not None else Budget()
    try:
        if isinstance(claim, Sequence):
            return _all([holds(item, values, budget, rounding=rounding) for item in claim.items])
        if not isinstance(claim, Relation):
            return None
        sides = claim.members
        modulus: Node | None = None
        last = sides[-1]
        if isinstance(last, Call) and last.name == "congruent":
            sides, modulus = [*sides[:-1], last.args[0]], last.args[1]
        links = zip(sides, claim.operators, sides[1:], strict=False)
        return _all([_link(*link, modulus, dict(values or {}), budget, rounding) for link in links])
    except OutOfBudget:
        return None


def _all(parts: list[bool | None]) -> bool | None:
    if not parts or False in parts:
        return False if parts else None
    return None if None in parts else True


def _link(
    left: Node,
    operator: str,
    right: Node,
    modulus: Node | None,
    values: dict[str, Fraction],
    budget: Budget,
    rounding: bool,
) -> bool | None:
    (a_tree, a_unit), (b_tree, b_unit) = split_unit(left), split_unit(right)
    scale = Fraction(1)
    if a_unit and b_unit and a_unit != b_unit and not {a_unit, b_unit} & {"%", "deg"}:
        sizes = unit_size(a_unit), unit_size(b_unit)
        if sizes[0] is None or sizes[1] is None or sizes[0][1] != sizes[1][1]:
            return None
        scale = sizes[1][0] / sizes[0][0]
    if a_unit == b_unit or scale != 1:
        left, right = a_tree, b_tree
    try:
        a, b = evaluate(left, values, budget), evaluate(right, values, budget)
        if modulus is not None:
            step = evaluate(modulus, values, budget)
            exact = isinstance(a, Fraction) and isinstance(b, Fraction) and isinstance(step, Fraction) and step
            return (a - b) % step == 0 if exact else None  # type: ignore[operator]
    except NoValue:
        return True if operator == "=" and scale == 1 and equal(left, right, budget) else None
    if isinstance(b, Fraction):
        b = b * scale
    elif scale != 1:
        return None
    try:
        return _compare(operator, a, b, (left, right), rounding)
    except OverflowError:  # a rational beyond floating point, beside another number
        return None


def _compare(operator: str, a: Value, b: Value, trees: tuple[Node, Node], rounding: bool) -> bool | None:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        same, sign = a == b, (a > b) - (a < b)
    else:
        left, right = to_complex(a), to_complex(b)
        same = abs(left - right) <= 1e-11 * max(abs(left), abs(right), 1e-2)
        if (left.imag or right.imag) and not same:
            return {"=": False, "!=": True}.get(operator)
        sign = 1 if (left - right).real > 0 else -1
    if operator in _ORDER:
        return (same and "=" in operator) or (not same and sign == _ORDER[operator])
    if operator == "!=":
        return not same
    if operator not in ("=", "~"):
        return None
    if same or not rounding:
        return same
    gap = abs(to_complex(a) - to_complex(b))
    if operator == "~":
        return True if gap <= 0.05 * max(abs(to_complex(a)), abs(to_complex(b))) else None
    decimals = [tree.decimals for tree in map(_literal, trees) if tree is not None]
    return any(0 < places < 99 and gap <= 0.5 * 10.0**-places * (1 + 1e-9) for places in decimals)


def _literal(node: Node) -> Num | None:
    while isinstance(node, Quantity):
        node = node.value
    return node if isinstance(node, Num) else None
