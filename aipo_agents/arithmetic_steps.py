"""Next steps for arithmetic: the innermost operation, or how to take the last one apart."""

from __future__ import annotations

import functools
from fractions import Fraction

from aipo_agents.algebra import MINUS_ONE, literal_value, value_of
from aipo_agents.render import render
from aipo_env.grading.mathematics import Budget, NoValue
from aipo_env.grading.nodes import Add, Call, Mul, Node, Num, Pow, children
from aipo_env.grading.trees import rebuilt

MAX_SHOWN = 200


def arithmetic_step(expression: Node, budget: Budget) -> str | None:
    """One step for an expression without variables: `3+4=7, so 7*5 is left`; None if nothing is to do."""
    expression = _binary(expression)
    target = _innermost(expression)
    if target is None:
        return None
    if target is expression:
        return _take_apart(target)
    try:
        value = value_of(target, None, budget)
    except NoValue as error:
        return f"stop at {render(target)}: {error}"
    if not isinstance(value, Fraction):
        return None
    shown, rest = f"{render(target)}={value}", render(_replaced(expression, target, _literal(value)))
    return f"{shown}, so {rest} is left" if len(rest) <= MAX_SHOWN else shown


def _binary(node: Node) -> Node:
    """The tree with sums and products of two parts each, from the left."""
    parts = list(map(_binary, children(node)))
    if isinstance(node, Add | Mul):
        kind = type(node)
        return functools.reduce(lambda left, right: kind([left, right]), parts)
    return rebuilt(node, parts)


def _innermost(node: Node) -> Node | None:
    """The first operation, bottom-up and from the left, on values alone."""
    if literal_value(node) is not None or not isinstance(node, Add | Mul | Pow | Call):
        return None
    parts = _operands(node)
    found = next((found for part in parts if (found := _innermost(part)) is not None), None)
    return found or (node if all(literal_value(part) is not None for part in parts) else None)


def _operands(node: Node) -> list[Node]:
    """The parts of an operation; of a quotient, what is divided by."""
    parts = children(node)
    if not isinstance(node, Mul):
        return parts
    return [part.base if isinstance(part, Pow) and part.exponent == MINUS_ONE else part for part in parts]


def _replaced(node: Node, target: Node, value: Node) -> Node:
    return value if node is target else rebuilt(node, [_replaced(part, target, value) for part in children(node)])


def _literal(value: Fraction) -> Node:
    if value.denominator == 1:
        return Num(value)
    return Mul([Num(Fraction(value.numerator)), Pow(Num(Fraction(value.denominator)), MINUS_ONE)])


def _take_apart(node: Node) -> str | None:
    """A single operation on whole numbers with one of them split at its leading digit, which leaves the result open."""
    parts = [value for part in _operands(node) if (value := literal_value(part)) is not None]
    if len(parts) != 2 or any(part.denominator != 1 for part in parts):
        return None
    a, b = map(int, parts)
    apart: str | None = None
    match node:
        case Mul([_, Pow(_, Num(minus_one))]) if minus_one == -1:
            if b == 0:
                return "stop: division by zero has no value"
            tens = a - a % (10 * b)
            apart = f"{tens}/{b}+{a - tens}/{b}" if b > 0 and a % b == 0 and 0 < tens < a else None
        case Mul():
            a, b = sorted((a, b), key=lambda factor: len(str(factor)))
            high, low = _leading(b)
            apart = f"{a}*{high}+{a}*{low}" if high and low else None
        case Add():
            high, low = _leading(abs(b))
            apart = f"{a}{'+' if b > 0 else '-'}{high}{'+' if b > 0 else '-'}{low}" if high and low else None
    return f"{render(node)} = {apart}" if apart is not None else None


def _leading(number: int) -> tuple[int, int]:
    """47 as 40 and 7; a single digit has nothing to lead."""
    high = number - number % 10 ** (len(str(number)) - 1) if number >= 10 else 0
    return high, number - high
