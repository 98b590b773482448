"""Definite integrals of smooth functions, by two Gauss-Legendre rules that must agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache


@lru_cache(maxsize=4)
def _rule(size: int) -> tuple[tuple[float, float], ...]:
    """Return nodes and weights on [-1, 1] (Newton's method on the Legendre polynomial)."""
    pairs = []
    for index in range(size):
        x = math.cos(math.pi * (index + 0.75) / (size + 0.5))
        slope = 1.0
        for _ in range(50):
            previous, value = 1.0, x
            for k in range(2, size + 1):
                previous, value = value, ((2 * k - 1) * x * value - (k - 1) * previous) / k
            slope = size * (x * value - previous) / (x * x - 1)
            step = value / slope
            x -= step
            if abs(step) < 1e-15:
                break
        pairs.append((x, 2 / ((1 - x * x) * slope * slope)))
    return tuple(pairs)


def integrate(function: Callable[[float], complex], lower: float, upper: float) -> complex | None:
    """Return the integral, or None if the two rules disagree: the function is not smooth enough here."""
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    coarse, fine = (half * sum(weight * function(middle + half * x) for x, weight in _rule(size)) for size in (16, 23))
    return fine if abs(fine - coarse) <= 1e-11 * max(abs(fine), 1e-3) else None
