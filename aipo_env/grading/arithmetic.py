"""Numbers that stay exact while they are rational, and are mpmath's numbers of any precision otherwise."""

from __future__ import annotations

import math
import threading
import time
from fractions import Fraction
from typing import Any

Value = Fraction | complex
"""A rational, or an inexact number: one of mpmath's, or a complex one where that is all that is known."""

MAX_BITS = 20_000
"""Larger rationals have no value here: rounding them would make different numbers equal."""


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
    return complex(float(value)) if isinstance(value, Fraction) else complex(value)


def bits(value: Fraction) -> int:
    """Return the size of a rational."""
    return max(value.numerator.bit_length(), value.denominator.bit_length())


class Numbers:
    """Rational numbers, which stay exact, and inexact ones with as many bits as asked for."""

    def __init__(self, precision: int) -> None:
        self.precision = precision

    @property
    def functions(self) -> Any:
        """Where the elementary functions and constants are: ``sin``, ``exp``, ``acosh``, ``pi``, ..."""
        context = _context()
        context.prec = self.precision
        return context

    def inexact(self, value: Value) -> Any:
        """Return a value as an inexact number."""
        return self.functions.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value

    def checked(self, value: Any) -> Any:
        """Return an inexact number unless it overflowed."""
        if not self.functions.isfinite(value):
            raise NoValue("overflow")
        return value

    def real(self, value: Value) -> Any:
        """Return a value that is real, as a rational or as a real number."""
        if isinstance(value, Fraction):
            return value
        if abs(value.imag) > 1e-12:
            raise NoValue("complex")
        return value.real

    def floor(self, value: Value) -> int:
        """Return the largest whole number that is not larger."""
        return math.floor(value) if isinstance(value, Fraction) else int(self.functions.floor(self.real(value)))

    def magnitude(self, value: Value) -> int | None:
        """Return the exponent of a number in base 2; None for zero."""
        if isinstance(value, Fraction):
            return value.numerator.bit_length() - value.denominator.bit_length() if value else None
        return int(self.functions.mag(value)) if value else None

    # -- operations, exact if both operands are rational
    # ------------------------------------------------------------------------------------------

    def add(self, left: Value, right: Value) -> Value:
        """Return a sum."""
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return _bounded(left + right)
        return self.checked(self.inexact(left) + self.inexact(right))

    def multiply(self, left: Value, right: Value) -> Value:
        """Return a product."""
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return _bounded(left * right)
        return self.checked(self.inexact(left) * self.inexact(right))

    def power(self, base: Value, exponent: Value) -> Value:
        """Return a power: exact if it is rational, the real one of the odd roots of a negative number."""
        if base == 0 and exponent == 0:
            raise NoValue("0^0")
        if isinstance(exponent, Fraction) and isinstance(base, Fraction):
            if exponent.denominator == 1:
                if base not in (0, 1, -1) and abs(exponent.numerator) * (bits(base) - 1) > MAX_BITS:
                    raise NoValue("size")
                return base**exponent.numerator
            return self._rational_power(base, exponent)
        return self.checked(self.inexact(base) ** self.inexact(exponent))

    def _rational_power(self, base: Fraction, exponent: Fraction) -> Value:
        degree = exponent.denominator
        if base < 0 and degree % 2:
            inner = self._rational_power(-base, exponent)
            return self.multiply(inner, Fraction(-1 if exponent.numerator % 2 else 1))
        if base >= 0 and degree <= 12 and bits(base) * abs(exponent.numerator) <= MAX_BITS:
            top, bottom = _exact_root(base.numerator, degree), _exact_root(base.denominator, degree)
            if top is not None and bottom is not None:
                return Fraction(top, bottom) ** exponent.numerator
        return self.checked(self.inexact(base) ** self.inexact(exponent))


_local = threading.local()


def _context() -> Any:
    """Return this thread's mpmath context: contexts hold the precision, so threads share none."""
    if not hasattr(_local, "context"):
        import mpmath  # lazily: most answers are rational

        _local.context = mpmath.MPContext()
    return _local.context


def _bounded(value: Fraction) -> Fraction:
    if bits(value) > MAX_BITS:
        raise NoValue("size")
    return value


def _exact_root(number: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(number)
    else:
        if number.bit_length() > 900:
            return None
        root = round(number ** (1.0 / degree))
    return root if root**degree == number else None
