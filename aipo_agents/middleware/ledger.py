"""Ledger: what helpers were asked and what it cost, by role."""

from __future__ import annotations

import dataclasses
import threading

from aipo_env.checks import check_number
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import Usage


@dataclasses.dataclass(frozen=True, slots=True)
class Prices:
    """What a model costs, in US dollars per million tokens."""

    prompt: float = 0.0
    completion: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != 0 or isinstance(value, bool):
                check_number(f"Prices: {field.name}", value, what="US dollars per million tokens")

    def cost(self, usage: Usage) -> float:
        """US dollars for the tokens of one reply."""
        return (usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion) / 1e6


@dataclasses.dataclass(frozen=True, slots=True)
class RoleUsage:
    """What one role was asked and what it cost."""

    calls: int = 0
    """Requests that have come to an end; each of the next three counts a part of them."""
    errors: int = 0
    """Requests that ended with an exception or a reply with an error."""
    cancelled: int = 0
    """Requests that the caller gave up, as a time limit around the helper does."""
    cached: int = 0
    """Replies that cost no call of their own."""
    unmetered: int = 0
    """Replies, other than cached ones, that did not say what they took; tokens and cost lack them."""
    unpriced: int = 0
    """Replies and failures that told their tokens and not their cost; the cost lacks them."""
    prompt_tokens: int = 0
    """Without those of cached replies, as with the next three; with those of failures that were billed."""
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    """Of these, those that were thoughts."""
    cost_usd: float = 0.0

    def __add__(self, other: RoleUsage) -> RoleUsage:
        names = [field.name for field in dataclasses.fields(self)]
        return RoleUsage(**{name: getattr(self, name) + getattr(other, name) for name in names})


class Ledger:
    """Adds up what helpers took, by role, from any thread; several `Accounting`s may share one.

    `str(ledger)` is a table with one line per role.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._roles: dict[str, RoleUsage] = {}

    def add(self, role: str, usage: RoleUsage) -> None:
        """Adds to what a role took so far."""
        if not isinstance(usage, RoleUsage):
            raise ConfigurationError(f"Ledger.add takes a RoleUsage, got {type(usage).__name__}.")
        with self._lock:
            self._roles[role] = self._roles.get(role, RoleUsage()) + usage

    def usage(self, role: str) -> RoleUsage:
        """What a role took so far; nothing for a role that was never asked."""
        with self._lock:
            return self._roles.get(role, RoleUsage())

    def table(self) -> dict[str, RoleUsage]:
        """What each role took so far, by name."""
        with self._lock:
            return dict(sorted(self._roles.items()))

    def total(self) -> RoleUsage:
        """What all roles took so far, together."""
        return sum(self.table().values(), RoleUsage())

    def __str__(self) -> str:
        names = [field.name for field in dataclasses.fields(RoleUsage)]
        rows = [["role", *names]]
        for role, usage in [*self.table().items(), ("total", self.total())]:
            rows.append([role, *(_shown(getattr(usage, name)) for name in names)])
            if usage.unpriced and not usage.cost_usd:
                rows[-1][-1] = "unknown"
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        )


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"
