"""Numbers that stay exact while they are rational and small, and are complex floating point otherwise."""

from __future__ import annotations

import cmath
import math
import time
from fractions import Fraction

Value = Fraction | complex

MAX_BITS = 4096
"""Larger rationals become floating point."""


class NoValue(Exception):
    """The tree has no scalar value at this point: undefined, too large, or not a scalar."""


class OutOfBudget(Exception):
    """A decision took too many steps or too long; nothing is known. ``reason`` says which."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Budget:
    """Bounds the work and the time of one decision, however many evaluations it takes.

    Steps make verdicts repeatable; the clock is for what no count of steps foresees.
    """

    __slots__ = ("deadline", "left", "until_clock")

    def __init__(self, steps: int = 40_000, seconds: float = 0.6) -> None:
        self.left, self.until_clock = steps, 0
        self.deadline = time.monotonic() + seconds

    def spend(self, steps: int) -> None:
        """Take steps away.

        Raises:
            OutOfBudget: if no steps or no time is left.
        """
        self.left -= steps
        self.until_clock -= steps
        if self.left < 0:
            raise OutOfBudget("steps")
        if self.until_clock <= 0:
            self.until_clock = 64
            if time.monotonic() > self.deadline:
                raise OutOfBudget("time")


def to_complex(value: Value) -> complex:
    """Return a value as a complex number."""
    return complex(float(value)) if isinstance(value, Fraction) else value


def finite(value: Value) -> Value:
    """Return a value unless it overflowed."""
    if isinstance(value, complex) and not cmath.isfinite(value):
        raise NoValue("overflow")
    return value


def bits(value: Fraction) -> int:
    """Return the size of a rational."""
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def bounded(value: Fraction) -> Value:
    """Return a rational, in floating point if it is large."""
    return value if bits(value) <= MAX_BITS else to_complex(value)


def add(left: Value, right: Value) -> Value:
    """Return a sum, exact if both terms are rational."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return bounded(left + right)
    return finite(to_complex(left) + to_complex(right))


def multiply(left: Value, right: Value) -> Value:
    """Return a product, exact if both factors are rational."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return bounded(left * right)
    return finite(to_complex(left) * to_complex(right))


def power(base: Value, exponent: Value) -> Value:
    """Return a power, exact if it is rational and small."""
    if isinstance(exponent, Fraction) and isinstance(base, Fraction):
        if exponent.denominator == 1:
            count = exponent.numerator
            if base in (0, 1, -1) or abs(count) * bits(base) <= MAX_BITS:
                return base**count
        else:
            return _rational_power(base, exponent)
    number, power = to_complex(base), to_complex(exponent)
    if number == 0 and power == 0:
        raise NoValue("0^0")
    return finite(number**power)


def _rational_power(base: Fraction, exponent: Fraction) -> Value:
    """A root: exact if it is rational; odd roots of negative numbers are the real ones."""
    degree = exponent.denominator
    if base < 0 and degree % 2:
        inner = _rational_power(-base, exponent)
        return multiply(inner, Fraction(-1 if exponent.numerator % 2 else 1))
    if base >= 0 and degree <= 12 and bits(base) * abs(exponent.numerator) <= MAX_BITS:
        top, bottom = _exact_root(base.numerator, degree), _exact_root(base.denominator, degree)
        if top is not None and bottom is not None:
            return Fraction(top, bottom) ** exponent.numerator
    return finite(to_complex(base) ** float(exponent))


def _exact_root(number: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(number)
    else:
        if number.bit_length() > 900:
            return None
        root = round(number ** (1.0 / degree))
    return root if root**degree == number else None
