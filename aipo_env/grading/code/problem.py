"""A programming problem: tests, and the resources that a submission may use on each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aipo_env.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class CodeTest:
    """One input and the output that is expected; LiveCodeBench's row format."""

    input: str
    """Standard input; for a functional test, the arguments as JSON, one per line."""
    output: str
    """Expected standard output; for a functional test, the expected value as JSON."""
    kind: Literal["stdin", "functional"] = "stdin"
    """Whether the program reads standard input or a function of it is called."""

    def __post_init__(self) -> None:
        if self.kind not in ("stdin", "functional"):
            raise ConfigurationError(f"kind={self.kind!r}: a test is 'stdin' or 'functional'. Use one of the two.")


@dataclass(frozen=True, slots=True)
class CodeProblem:
    """The tests that a submission must pass, all of them, each within the limits."""

    tests: Sequence[CodeTest]
    """At least one."""
    func_name: str | None = None
    """The function, or method of ``class Solution``, that functional tests call."""
    time_limit_s: float = 6.0
    """CPU seconds per test. Waiting for a busy machine does not count."""
    memory_limit_mb: int = 1024
    """MiB of address space per test, beyond that of the bare interpreter."""
    output_limit_mb: int = 16
    """MiB of standard output, and as much of standard error, per test."""
    wall_limit_s: float | None = None
    """Seconds per test on the clock, for programs that wait; by default 4 times ``time_limit_s`` plus 4."""

    def __post_init__(self) -> None:
        if not self.tests:
            raise ConfigurationError("tests is empty: any program would pass. Give at least one CodeTest.")
        if self.func_name is None and any(test.kind == "functional" for test in self.tests):
            raise ConfigurationError("a functional test needs func_name, the function to call. Set func_name.")
        for name in ("time_limit_s", "memory_limit_mb", "output_limit_mb"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: expected a positive number.")
        if self.wall_limit_s is not None and self.wall_limit_s < self.time_limit_s:
            raise ConfigurationError(
                f"wall_limit_s={self.wall_limit_s} is below time_limit_s={self.time_limit_s}: a busy machine would "
                "turn right programs into late ones. Raise it, or leave it out."
            )

    @property
    def wall_seconds(self) -> float:
        """Seconds on the clock after which a test is stopped."""
        return self.wall_limit_s if self.wall_limit_s is not None else 4 * self.time_limit_s + 4
