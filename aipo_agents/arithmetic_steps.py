"""Next steps for arithmetic: the innermost operation, or how to take the last one apart."""

from __future__ import annotations

import functools
import math
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
    """A single operation written as smaller ones, which leaves the result open."""
    op, parts = _operation(node)
    values = [value for part in parts if (value := literal_value(part)) is not None]
    shown = render(node)
    if op in ("root", "/") and not values[-1]:
        return "stop: division by zero has no value"
    whole = all(value.denominator == 1 for value in values)
    hint = _integers(op, *map(int, values)) if whole else _fractions(op, *values) if len(values) == 2 else None
    return f"{shown} = {hint}" if hint is not None and len(shown) <= MAX_SHOWN else None


def _operation(node: Node) -> tuple[str, list[Node]]:
    """What a node does, and its arguments as they are written."""
    match node:
        case Add([first, Num(value)]) if value < 0:
            return "-", [first, Num(-value)]
        case Add([first, Mul([Num(value), rest])]) if value < 0:
            return "-", [first, Mul([Num(-value), rest])]
        case Mul([_, Pow(_, Num(minus_one))]) if minus_one == -1:
            return "/", _operands(node)
        case Call(name, args):
            return name, args
    return {Add: "+", Mul: "*", Pow: "^"}[type(node)], children(node)


def _fractions(op: str, a: Fraction, b: Fraction) -> str | None:
    common = math.lcm(a.denominator, b.denominator)
    match op:
        case "+" | "-":
            return f"{a * common}/{common}{op}{b * common}/{common}"
        case "*":
            return f"({a.numerator}*{b.numerator})/({a.denominator}*{b.denominator})"
        case "/":
            return f"({a.numerator}*{b.denominator})/({a.denominator}*{b.numerator})"
    return None


def _integers(op: str, *values: int) -> str | None:
    match op, values:
        case "*", [a, b] if 1 < b < 10 <= a:
            return _integers(op, b, a)
        case "+" | "-" | "*", [a, b] if a >= 0 and b >= 10:
            high = b - b % 10 ** (len(str(b)) - 1)
            low = b - high
            return None if not low else f"{a}*{high}+{a}*{low}" if op == "*" else f"{a}{op}{high}{op}{low}"
        case "*", [a, b] if a >= 0 and 1 < b < 10:
            return f"{a}*{b - 1}+{a}"
        case "/", [a, b] if a > 0 and b > 0:
            common = math.gcd(a, b)
            if 1 < common < b:
                prime = next((k for k in range(2, 1000) if common % k == 0), common)
                return f"{a // prime}/{b // prime}"
            tens = a - a % (10 * b)
            return f"{tens}/{b}+{a - tens}/{b}" if common == b and 0 < tens < a else None
        case "^", [a, n] if n > 1:
            base = str(a) if a >= 0 else f"({a})"
            return f"{base}*{base}" if n == 2 else f"({base}^{n // 2})^2" if n % 2 == 0 else f"{base}*{base}^{n - 1}"
        case "factorial", [n] if n > 1:
            return f"{n}*{n - 1}!"
        case "binom", [n, k] if 0 <= k <= n:
            return f"{n}!/({k}!*{n - k}!)"
        case "gcd", [a, b] if a and b:
            high, low = max(abs(a), abs(b)), min(abs(a), abs(b))
            return f"gcd({low},{high % low})"
        case "lcm", [a, b]:
            return f"{a}*{b}/gcd({a},{b})"
        case "root", [n, 2] if n > 1:
            square = next((k for k in range(min(math.isqrt(n - 1), 1000), 1, -1) if n % (k * k) == 0), 1)
            return f"sqrt({square**2}*{n // square**2})" if square > 1 else None
    return None
