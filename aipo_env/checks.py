"""Checks of numbers that a user sets."""

from __future__ import annotations

import math

import numpy as np

from aipo_env.errors import ConfigurationError


def check_number(
    where: str, value: float, *, what: str, least: float = 0.0, finite: bool = True, inclusive: bool = False
) -> float:
    """Returns a number above `least`; ConfigurationError names where it stands, what it should be, and what came.

    Args:
        where: the argument, as in "Timeout: seconds".
        value: what came.
        what: what the number means, with its unit.
        least: the bound that the number must be above.
        finite: whether infinity is refused.
        inclusive: whether the number may be `least` itself.
    """
    number = not isinstance(value, bool) and isinstance(value, int | float | np.integer | np.floating)
    low = not number or (value < least if inclusive else value <= least)
    if low or math.isnan(value) or (finite and math.isinf(value)):
        bound = f"from {least:g} on" if inclusive else f"above {least:g}"
        raise ConfigurationError(f"{where} is {what}, a number {bound}; got {value!r}.")
    return float(value)


def check_count(where: str, value: int, *, what: str, least: int = 1) -> int:
    """Returns a whole number from `least` on; ConfigurationError as with `check_number`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ConfigurationError(f"{where} is {what}, a whole number from {least} on; got {value!r}.")
    return int(value)
