"""The functions whose values are known, over the exact and the inexact numbers of `arithmetic`."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from aipo_env.grading.arithmetic import NoValue, Numbers, Value


def _root(values: list[Value], numbers: Numbers) -> Value | None:
    radicand, degree = values
    return numbers.power(radicand, numbers.power(degree, Fraction(-1)))


def _integers(values: list[Value], limit: int) -> list[int] | None:
    if all(isinstance(v, Fraction) and v.denominator == 1 and abs(v.numerator) <= limit for v in values):
        return [v.numerator for v in values if isinstance(v, Fraction)]
    return None


def _factorial(values: list[Value], numbers: Numbers) -> Value | None:
    whole = _integers(values, 400)
    if whole is not None and whole[0] >= 0:
        return Fraction(math.factorial(whole[0]))
    if isinstance(values[0], Fraction) and values[0] < 0 and values[0].denominator == 1:
        raise NoValue("factorial")
    if isinstance(values[0], Fraction) and 0 < values[0] < 100:
        return numbers.functions.gamma(numbers.inexact(values[0] + 1))
    return None


def _binomial(values: list[Value], numbers: Numbers) -> Value | None:
    if len(values) != 2:
        return None
    whole = _integers(values, 1000)
    if whole is None or whole[0] < 0:
        return None
    n, k = whole
    return Fraction(math.comb(n, k)) if 0 <= k <= n else Fraction(0)


def _fractions(values: list[Value]) -> list[Fraction] | None:
    fractions = [v for v in values if isinstance(v, Fraction)]
    return fractions if values and len(fractions) == len(values) else None


def _gcd(values: list[Value], numbers: Numbers) -> Value | None:
    exact = _fractions(values)
    if exact is None:
        return None
    return Fraction(math.gcd(*(v.numerator for v in exact)), math.lcm(*(v.denominator for v in exact)))


def _lcm(values: list[Value], numbers: Numbers) -> Value | None:
    exact = _fractions(values)
    inverse = _gcd([1 / v for v in exact], numbers) if exact and all(exact) else None
    return 1 / inverse if isinstance(inverse, Fraction) else None


def _modulo(values: list[Value], numbers: Numbers) -> Value | None:
    left, right = (numbers.real(value) for value in values)
    if not right:
        return None
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left % right
    a, b = numbers.inexact(left).real, numbers.inexact(right).real
    return numbers.inexact(a - b * numbers.floor(a / b))


def _extreme(pick: Callable[[Any], Any]) -> Callable[[list[Value], Numbers], Value | None]:
    def extreme(values: list[Value], numbers: Numbers) -> Value | None:
        exact = _fractions(values)
        if exact is not None:
            return pick(exact)
        return pick(values, key=lambda v: numbers.inexact(numbers.real(v)).real) if values else None  # type: ignore[call-arg]

    return extreme


def _ratio(values: list[Value], numbers: Numbers) -> Value | None:
    return numbers.multiply(values[0], numbers.power(values[1], Fraction(-1))) if len(values) == 2 else None


def _sign(value: Value, numbers: Numbers) -> Value:
    real = numbers.real(value)
    return Fraction((real > 0) - (real < 0))


def _named(name: str) -> Callable[[Value, Numbers], Value]:
    return lambda value, numbers: getattr(numbers.functions, name)(numbers.inexact(value))


_NAMES = (
    "sin",
    "cos",
    "tan",
    "sec",
    "csc",
    "cot",
    "sinh",
    "cosh",
    "tanh",
    "sech",
    "csch",
    "coth",
    "exp",
    "log",
    "log10",
)
UNARY: dict[str, Callable[[Value, Numbers], Value]] = {
    **{name: _named(name) for name in _NAMES},
    **{f"arc{name}": _named(f"a{name}") for name in ("sin", "cos", "tan", "sec", "csc")},
    **{f"ar{name}": _named(f"a{name}") for name in ("sinh", "cosh", "tanh")},
    "arccot": lambda v, n: n.functions.pi / 2 - n.functions.atan(n.inexact(v)), "ln": _named("log"), "sgn": _sign,
    "abs": lambda v, n: abs(v) if isinstance(v, Fraction) else n.inexact(abs(v)),
    "floor": lambda v, n: Fraction(n.floor(v)), "ceil": lambda v, n: -Fraction(n.floor(n.multiply(v, Fraction(-1)))),
}  # fmt: skip
EXACT: dict[str, Callable[[list[Value], Numbers], Value | None]] = {
    "root": _root, "factorial": _factorial, "binom": _binomial, "gcd": _gcd, "lcm": _lcm, "mod": _modulo,
    "max": _extreme(max), "min": _extreme(min), "ratio": _ratio,
}  # fmt: skip
