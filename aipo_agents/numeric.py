"""Floating-point values of expressions, to refute claims that exact means cannot decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Final

from aipo_agents.exact import EvaluationError, NotExactError, apply
from aipo_agents.expressions import Call, Expression, Number, Variable, fold

DECIMAL_DIGITS: Final = 60

_FUNCTIONS: Final[Mapping[str, Callable[[float], float]]] = {
    "sqrt": math.sqrt, "sin": math.sin, "cos": math.cos, "tan": math.tan, "exp": math.exp, "ln": math.log,
    "cot": lambda x: 1 / math.tan(x), "sec": lambda x: 1 / math.cos(x), "csc": lambda x: 1 / math.sin(x),
    "arcsin": math.asin, "arccos": math.acos, "arctan": math.atan, "deg": math.radians, "abs": abs,
    "sinh": math.sinh, "cosh": math.cosh, "tanh": math.tanh, "floor": math.floor, "ceil": math.ceil,
}  # fmt: skip


def evaluate_float(expression: Expression, values: Mapping[str, float] | None = None) -> float | None:
    """The value at a point, or None where there is none (a domain error, an overflow, no such variable)."""
    known = {"pi": math.pi, "e": math.e, **(values or {})}

    def visit(node: Expression, args: tuple[float, ...]) -> float:
        if isinstance(node, Number):
            return float(node.value)
        if isinstance(node, Variable):
            return known[node.name]
        return _apply(node, args)

    try:
        value = fold(expression, visit)
    except (ArithmeticError, ValueError, KeyError, EvaluationError, NotExactError):
        return None
    # Past this size rounding decides: tan(pi/2) comes out as 1.6e16.
    return value if abs(value) < 1e15 else None


def clearly_different(left: float, right: float) -> bool:
    """Whether two values differ by more than rounding can explain."""
    return abs(left - right) > 1e-7 * max(1.0, abs(left), abs(right))


def evaluate_decimal(expression: Expression) -> Decimal | None:
    """The value to about 60 digits, for numbers made with the four operations, powers and roots; else None."""

    def visit(node: Expression, args: tuple[Decimal, ...]) -> Decimal:
        if isinstance(node, Number):
            return Decimal(node.value.numerator) / node.value.denominator
        if isinstance(node, Variable):
            raise ValueError(node.name)
        match node.op, args:
            case "+", (a, b):
                return a + b
            case "-", (a, b):
                return a - b
            case "*", (a, b):
                return a * b
            case "/", (a, b):
                return a / b
            case "neg", (a,):
                return -a
            case "sqrt", (a,):
                return a.sqrt()
            case "^", (a, b) if abs(b) <= 100:
                return a**b
            case "root", (a, b) if a >= 0 and 1 <= b <= 64:
                return a ** (1 / b)
            case op, _:
                raise ValueError(op)

    with localcontext() as context:
        context.prec = DECIMAL_DIGITS + 10
        try:
            return fold(expression, visit)
        except (ArithmeticError, ValueError):
            return None


def _apply(node: Call, args: tuple[float, ...]) -> float:
    match node.op, args:
        case "+", (a, b):
            return a + b
        case "-", (a, b):
            return a - b
        case "*", (a, b):
            return a * b
        case "/", (a, b):
            return a / b
        case "neg", (a,):
            return -a
        case "%", (a,):
            return a / 100
        case "^", (a, b):
            return math.pow(a, b)
        case "root", (a, b):
            return math.copysign(math.pow(abs(a), 1 / b), a) if a > 0 or b % 2 == 1 else math.pow(a, 1 / b)
        case "log", (a, b):
            return math.log(a) / math.log(b)
        case "log", (a,):
            # Without a base it is the natural or the decimal logarithm, depending on the author.
            raise ValueError("a logarithm without a base")
        case op, (a,) if op in _FUNCTIONS:
            return _FUNCTIONS[op](a)
        case op, _:
            return float(apply(op, tuple(Fraction(arg) for arg in args)))
