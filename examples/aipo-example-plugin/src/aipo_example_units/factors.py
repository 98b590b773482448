"""What a unit is worth, in whole numbers of the smallest unit of its kind."""

from __future__ import annotations

KINDS: dict[str, dict[str, int]] = {
    "length": {"inch": 1, "foot": 12, "yard": 36, "rod": 198, "chain": 792, "furlong": 7920, "mile": 63360},
    "mass": {"dram": 1, "ounce": 16, "pound": 256, "stone": 3584, "hundredweight": 28672},
    "volume": {"gill": 1, "pint": 4, "quart": 8, "gallon": 32, "peck": 64, "bushel": 256},
}


def convert(amount: int, unit: str, target: str) -> int | None:
    """The amount in another unit; None for units that are unknown, of two kinds, or do not divide."""
    for worth in KINDS.values():
        if unit in worth and target in worth:
            whole, rest = divmod(amount * worth[unit], worth[target])
            return whole if rest == 0 else None
    return None
