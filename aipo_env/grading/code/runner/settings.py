"""What the supervisor tells the processes that it forks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How submissions of one worker are confined."""

    strategy: str
    """``root``, ``user`` (both use namespaces) or ``weak``."""
    readable: list[str]
    """Directories that a submission may read."""
    extra_paths: list[str]
    """Directories appended to the submission's ``sys.path``."""
    processes: bool
    """Whether a submission may fork."""
    memory_base: int
    """Bytes of address space that the bare interpreter occupies."""
    process_limit: int
    """RLIMIT_NPROC, or 0 where it would count other programs of the same user."""
    landlock: int
    """The kernel's Landlock version, 0 for none."""
    seccomp: bool
    """Whether the filter of system calls is installed."""
    folder: str
    """Where a test's private folder is mounted; empty where every job names a folder of its own."""
    own_proc: bool
    """Whether /proc can be mounted inside."""

    @property
    def namespaces(self) -> bool:
        """Whether namespaces are in force."""
        return self.strategy != "weak"
