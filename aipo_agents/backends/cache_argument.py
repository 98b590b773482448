"""Under which name a model takes its key-value cache: `transformers` renamed it in 5.24."""

from __future__ import annotations

import inspect
from collections.abc import Callable

_NAMES = ("cache", "past_key_values")
"""The newest first."""


def cache_argument(forward: Callable[..., object]) -> str | None:
    """The parameter of a model's `forward` that takes a key-value cache; None where it names none.

    Args:
        forward: of a causal language model of `transformers`, 5.15 to 5.2x.
    """
    parameters = inspect.signature(forward).parameters
    return next((name for name in _NAMES if name in parameters), None)
