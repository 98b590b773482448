"""The names that LiveCodeBench's own runner defines before a submission, so that official scores carry over.

Source: LiveCodeBench `lcb_runner/evaluation/testing_util.py`, `import_string`.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import sys
from typing import Any

_STARS = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys "
    "json builtins typing"
)
_NAMES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json"
)


def load() -> dict[str, Any]:
    """Imports the modules once and returns the names for every submission's globals."""
    lines = [f"from {name} import *" for name in _STARS.split()]
    lines += [f"import {name}" for name in _NAMES.split()]
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)  # noqa: S102 (our own text, two constants above)
    del names["__builtins__"]
    # `python -S` leaves these out.
    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    sys.setrecursionlimit(50000)
    sys.set_int_max_str_digits(0)
    return names
