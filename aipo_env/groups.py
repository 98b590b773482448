"""How a group of rollouts of one task is shared between those that get help and those that do not."""

from __future__ import annotations

import math


def num_solo(solo_share: float, group_size: int) -> int:
    """How many of a group get no help: a share of it, halves rounded up, the same for every trainer and every rollout."""
    return math.floor(group_size * solo_share + 0.5)
