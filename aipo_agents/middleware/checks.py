"""Checks of the numbers that middleware is set up with."""

from __future__ import annotations

import math

from aipo_env.errors import ConfigurationError


def check_number(where: str, value: float, *, what: str, least: float = 0.0, finite: bool = True) -> float:
    """Returns a number above `least`; ConfigurationError names where it stands, what it should be, and what came.

    Args:
        where: the argument, as in "Timeout: seconds".
        value: what came.
        what: what the number means, with its unit.
        least: the bound that the number must be above.
        finite: whether infinity is refused.
    """
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if not number or math.isnan(value) or value <= least or (finite and math.isinf(value)):
        raise ConfigurationError(f"{where} is {what}, a number above {least:g}; got {value!r}.")
    return float(value)


def check_count(where: str, value: int, *, what: str, least: int = 1) -> int:
    """Returns a whole number from `least` on; ConfigurationError as with `check_number`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{where} is {what}, a whole number from {least} on; got {value!r}.")
    return value
