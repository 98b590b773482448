"""The functions whose values are known."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from fractions import Fraction

from aipo_env.grading.arithmetic import NoValue, Value, multiply, power, to_complex


def _root(values: list[Value]) -> Value | None:
    radicand, degree = values
    if not isinstance(degree, Fraction) or degree == 0:
        return power(radicand, power(degree, Fraction(-1)))
    return power(radicand, 1 / degree)


def _integers(values: list[Value], limit: int) -> list[int] | None:
    if all(isinstance(v, Fraction) and v.denominator == 1 and abs(v.numerator) <= limit for v in values):
        return [v.numerator for v in values if isinstance(v, Fraction)]
    return None


def _factorial(values: list[Value]) -> Value | None:
    whole = _integers(values, 400)
    if whole is not None and whole[0] >= 0:
        return Fraction(math.factorial(whole[0]))
    if isinstance(values[0], Fraction) and 0 < values[0] < 100:
        return complex(math.gamma(float(values[0]) + 1))
    return None


def _binomial(values: list[Value]) -> Value | None:
    if len(values) != 2:
        return None
    whole = _integers(values, 1000)
    if whole is None:
        return None
    n, k = whole
    if n < 0:
        return None
    return Fraction(math.comb(n, k)) if 0 <= k <= n else Fraction(0)


def _fractions(values: list[Value]) -> list[Fraction] | None:
    fractions = [v for v in values if isinstance(v, Fraction)]
    return fractions if values and len(fractions) == len(values) else None


def _gcd(values: list[Value]) -> Value | None:
    exact = _fractions(values)
    if exact is None:
        return None
    return Fraction(math.gcd(*(v.numerator for v in exact)), math.lcm(*(v.denominator for v in exact)))


def _lcm(values: list[Value]) -> Value | None:
    exact = _fractions(values)
    if exact is None:
        return None
    return Fraction(math.lcm(*(v.numerator for v in exact)), math.gcd(*(v.denominator for v in exact)))


def _modulo(values: list[Value]) -> Value | None:
    left, right = values
    if isinstance(left, Fraction) and isinstance(right, Fraction) and right:
        return left % right
    a, b = to_complex(left), to_complex(right)
    if a.imag or b.imag or not b.real:
        return None
    return complex(a.real - b.real * math.floor(a.real / b.real))


def _extreme(values: list[Value], pick: Callable[[list[float]], float]) -> Value | None:
    exact = _fractions(values)
    if exact is not None:
        return max(exact) if pick([0.0, 1.0]) else min(exact)
    reals = [to_complex(v) for v in values]
    return None if any(v.imag for v in reals) or not reals else complex(pick([v.real for v in reals]))


def _rounded(value: Value, rounding: Callable[[float], int]) -> Value:
    number = value if isinstance(value, Fraction) else _real(value)
    return Fraction(math.floor(number) if rounding is math.floor else math.ceil(number))


def _real(value: Value) -> float:
    number = to_complex(value)
    if abs(number.imag) > 1e-12:
        raise NoValue("complex")
    return number.real


def _absolute(value: Value) -> Value:
    return abs(value) if isinstance(value, Fraction) else complex(abs(value))


def _real_log(value: Value) -> Value:
    if isinstance(value, Fraction) and value > 0:
        # The logarithm of a large rational must not pass through an overflowing float.
        return complex(math.log(value.numerator) - math.log(value.denominator))
    return cmath.log(to_complex(value))


def _by(function: Callable[[complex], complex]) -> Callable[[Value], Value]:
    return lambda value: function(to_complex(value))


UNARY: dict[str, Callable[[Value], Value]] = {
    "sin": _by(cmath.sin), "cos": _by(cmath.cos), "tan": _by(cmath.tan), "sinh": _by(cmath.sinh),
    "cosh": _by(cmath.cosh), "tanh": _by(cmath.tanh), "arcsin": _by(cmath.asin), "arccos": _by(cmath.acos),
    "arctan": _by(cmath.atan), "arsinh": _by(cmath.asinh), "arcosh": _by(cmath.acosh), "artanh": _by(cmath.atanh),
    "sec": _by(lambda z: 1 / cmath.cos(z)), "csc": _by(lambda z: 1 / cmath.sin(z)),
    "cot": _by(lambda z: cmath.cos(z) / cmath.sin(z)), "sech": _by(lambda z: 1 / cmath.cosh(z)),
    "csch": _by(lambda z: 1 / cmath.sinh(z)), "coth": _by(lambda z: cmath.cosh(z) / cmath.sinh(z)),
    "arccot": _by(lambda z: math.pi / 2 - cmath.atan(z)), "arcsec": _by(lambda z: cmath.acos(1 / z)),
    "arccsc": _by(lambda z: cmath.asin(1 / z)), "exp": _by(cmath.exp), "ln": _real_log, "log": _real_log,
    "log10": lambda v: to_complex(_real_log(v)) / math.log(10), "abs": _absolute,
    "floor": lambda v: _rounded(v, math.floor), "ceil": lambda v: _rounded(v, math.ceil),
    "sgn": lambda v: Fraction((_real(v) > 0) - (_real(v) < 0)),
}  # fmt: skip


EXACT: dict[str, Callable[[list[Value]], Value | None]] = {
    "root": _root, "factorial": _factorial, "binom": _binomial, "gcd": _gcd, "lcm": _lcm, "mod": _modulo,
    "max": lambda v: _extreme(v, max), "min": lambda v: _extreme(v, min),
    "ratio": lambda v: multiply(v[0], power(v[1], Fraction(-1))) if len(v) == 2 else None,
}  # fmt: skip
