"""Sets of real numbers built from intervals and finite sets: equal if they have the same members.

Two such sets can only differ at an end point of one of them or between two neighbouring end points, so it is
enough to test those.
"""

from __future__ import annotations

import itertools

from aipo_env.grading.arithmetic import NoValue
from aipo_env.grading.nodes import Mul, Node, Num, Sequence, SetOperation, Sym
from aipo_env.grading.numeric import Evaluator
from aipo_env.grading.trees import has_variables

_INFINITE = 1e300


class _NotReal(Exception):
    """A set whose members are not all real constants."""


def equal_sets(gold: Node, answer: Node) -> bool | None:
    """Return whether two sets of reals have the same members; None if either is not such a set."""
    try:
        ends = sorted({round(x, 9) for tree in (gold, answer) for x in _ends(tree) if abs(x) < _INFINITE})
        if len(ends) > 32:
            return None
        probes = [*ends, *((a + b) / 2 for a, b in itertools.pairwise(ends))]
        probes += [ends[0] - 1, ends[-1] + 1] if ends else [0.0]
        return all(_contains(gold, x) == _contains(answer, x) for x in probes)
    except _NotReal:
        return None


def _real(node: Node) -> float:
    if node == Sym("\\infty"):
        return _INFINITE
    if isinstance(node, Mul) and len(node.factors) == 2 and node.factors[1] == Sym("\\infty"):
        factor = node.factors[0]
        if isinstance(factor, Num) and factor.value:
            return _INFINITE if factor.value > 0 else -_INFINITE
    if has_variables(node):
        raise _NotReal
    try:
        value = complex(Evaluator().value(node))
    except (NoValue, OverflowError):
        raise _NotReal from None
    if abs(value.imag) > 1e-12:
        raise _NotReal
    return value.real


def _ends(tree: Node) -> list[float]:
    if isinstance(tree, Sequence):
        if tree.opening in ("(", "[") and len(tree.items) != 2:
            raise _NotReal
        ends = [_real(item) for item in tree.items]
        if tree.opening in ("(", "[") and ends[0] > ends[1]:
            raise _NotReal  # a point of the plane, not an empty interval
        return ends
    if isinstance(tree, SetOperation):
        return [x for operand in tree.operands for x in _ends(operand)]
    if tree == Sym("\\mathbb R"):
        return []
    raise _NotReal


def _contains(tree: Node, x: float) -> bool:
    if isinstance(tree, SetOperation):
        inside = [_contains(operand, x) for operand in tree.operands]
        if tree.operator == "cup":
            return any(inside)
        if tree.operator == "cap":
            return all(inside)
        if tree.operator == "setminus":
            return inside[0] and not any(inside[1:])
        return sum(inside) % 2 == 1
    if isinstance(tree, Sequence):
        values = [_real(item) for item in tree.items]
        if tree.opening in ("(", "["):
            low, high = values
            if low + 1e-9 < x < high - 1e-9:
                return True
            at_low, at_high = abs(x - low) <= 1e-9, abs(x - high) <= 1e-9
            return (at_low and tree.opening == "[" and x <= high + 1e-9) or (
                at_high and tree.closing == "]" and x >= low - 1e-9
            )
        return any(abs(x - value) <= 1e-9 for value in values)
    return True  # all real numbers
