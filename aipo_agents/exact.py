"""Exact arithmetic on expressions without variables, with bounded sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from aipo_agents.expressions import Expression, Number, Variable, fold

MAX_BITS: Final = 4096
MAX_FACTORIAL: Final = 300
MAX_BINOMIAL: Final = 1000


class NotExactError(Exception):
    """The value is not a fraction, or depends on a variable; other means may decide."""


class EvaluationError(Exception):
    """There is no value, or it is too large; the message says which."""


def evaluate(expression: Expression, values: Mapping[str, Fraction] | None = None) -> Fraction:
    """The exact value of an expression.

    Args:
        expression: what to compute.
        values: the variables' values; without it a variable has none.

    Raises:
        NotExactError: irrational, or a variable without a value.
        EvaluationError: division by zero, a domain error, or numbers past the bounds.
    """
    known = values or {}

    def visit(node: Expression, args: tuple[Fraction, ...]) -> Fraction:
        if isinstance(node, Number):
            return node.value
        if isinstance(node, Variable):
            if node.name not in known:
                raise NotExactError(node.name)
            return known[node.name]
        return _bounded(apply(node.op, args))

    return fold(expression, visit)


def apply(op: str, args: tuple[Fraction, ...]) -> Fraction:
    """Applies one operation to exact values; raises as `evaluate` does."""
    match op, args:
        case "+", (a, b):
            return a + b
        case "-", (a, b):
            return a - b
        case "*", (a, b):
            return a * b
        case "/", (a, b):
            if not b:
                raise EvaluationError("division by zero")
            return a / b
        case "neg", (a,):
            return -a
        case "^", (a, b):
            return _power(a, b)
        case "!" | "factorial", (a,):
            if _integer(a) < 0:
                raise EvaluationError("a factorial of a negative number")
            if a > MAX_FACTORIAL:
                raise EvaluationError("a factorial is too large")
            return Fraction(math.factorial(int(a)))
        case "%", (a,):
            return a / 100
        case ("mod", (a, b)):
            if not b:
                raise EvaluationError("modulo zero")
            return Fraction(_integer(a) % _integer(b))
        case "abs", (a,):
            return abs(a)
        case "floor", (a,):
            return Fraction(math.floor(a))
        case "ceil", (a,):
            return Fraction(math.ceil(a))
        case "gcd", _:
            return Fraction(math.gcd(*map(_integer, args)))
        case "lcm", _:
            return _lcm(args)
        case "max", _:
            return max(args)
        case "min", _:
            return min(args)
        case "binom", (a, b):
            if not 0 <= _integer(b) <= _integer(a):
                raise EvaluationError("a binomial coefficient outside 0 <= k <= n")
            if a > MAX_BINOMIAL:
                raise EvaluationError("a binomial coefficient is too large")
            return Fraction(math.comb(int(a), int(b)))
        case "sqrt", (a,):
            return root(a, 2)
        case "root", (a, b):
            return root(a, _integer(b))
        case "log", (a, b):
            return _log(a, b)
        case "log" | "ln", (a,) if a == 1:
            return Fraction(0)
        case _:
            raise NotExactError(op)


def root(value: Fraction, degree: int) -> Fraction:
    """The real root, where it is a fraction."""
    if not 1 <= degree <= 64:
        raise EvaluationError("a root of an unusual degree")
    if value < 0:
        if degree % 2 == 0:
            raise EvaluationError("an even root of a negative number")
        return -root(-value, degree)
    numerator, denominator = _integer_root(value.numerator, degree), _integer_root(value.denominator, degree)
    if numerator**degree != value.numerator or denominator**degree != value.denominator:
        raise NotExactError("root")
    return Fraction(numerator, denominator)


def format_fraction(value: Fraction) -> str:
    """The value as people write it, an integer or `a/b`; long ones are abridged."""
    text = str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"
    return text if len(text) <= 60 else f"{text[:20]}...({len(text)} characters)"


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise EvaluationError("a number is too large")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if base < 0:
            raise NotExactError("power")
        return _power(root(base, exponent.denominator), Fraction(exponent.numerator))
    count = exponent.numerator
    if base in (0, 1, -1):
        if base == 0 and count <= 0:
            raise EvaluationError("0^0 has no agreed value" if count == 0 else "division by zero")
        return base ** (count % 2) if base == -1 else base
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if (bits - 1) * abs(count) > MAX_BITS or abs(count) > MAX_BITS:
        raise EvaluationError("a power is too large")
    return base**count


def _integer(value: Fraction) -> int:
    if value.denominator != 1:
        raise EvaluationError("an integer is needed")
    return value.numerator


def _integer_root(value: int, degree: int) -> int:
    """floor(value ** (1/degree)), by Newton's iteration on integers."""
    if value < 2 or degree == 1:
        return value
    if degree == 2:
        return math.isqrt(value)
    guess = 1 << -(-value.bit_length() // degree)
    while True:
        better = ((degree - 1) * guess + value // guess ** (degree - 1)) // degree
        if better >= guess:
            return guess
        guess = better


def _lcm(args: tuple[Fraction, ...]) -> Fraction:
    result = 1
    for arg in args:
        result = math.lcm(result, _integer(arg))
        _bounded(Fraction(result))
    return Fraction(result)


def _log(value: Fraction, base: Fraction) -> Fraction:
    if value <= 0 or base <= 0 or base == 1:
        raise EvaluationError("a logarithm outside its domain")
    estimate = round((math.log(value.numerator) - math.log(value.denominator)) / _log_float(base))
    if abs(estimate) <= MAX_BITS and _power(base, Fraction(estimate)) == value:
        return Fraction(estimate)
    raise NotExactError("log")


def _log_float(value: Fraction) -> float:
    """Log of a fraction near 1 too, where the difference of logarithms would lose everything."""
    return math.log1p(float(value - 1)) if abs(value - 1) < Fraction(1, 2) else math.log(value)
