"""Which mechanisms stood between a submission and the machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Isolation:
    """The mechanisms that were in force while a submission ran; recorded in every result."""

    user: bool = False
    """A user namespace: no rights over anything outside."""
    mount: bool = False
    """A mount namespace whose root holds only the standard library, shared libraries and an empty /tmp."""
    pid: bool = False
    """A pid namespace: no other process can be seen, and all its processes die together."""
    net: bool = False
    """A network namespace without any interface that is up."""
    ipc: bool = False
    """An IPC namespace."""
    uts: bool = False
    """A UTS namespace (host name)."""
    landlock: bool = False
    """Landlock: files, TCP, signals; nothing may be executed."""
    seccomp: bool = False
    """A filter of system calls: no new processes, tracing, namespaces, keys, IP sockets, ..."""
    no_new_privs: bool = False
    """No program can give back a privilege, and all capabilities are dropped."""
    rlimits: bool = False
    """Limits on CPU time, address space, file size, open files, core dumps. Alone, this is no sandbox."""
    process_limit: bool = False
    """RLIMIT_NPROC binds: the submission's user id is not root's and is counted for this submission alone."""
    session: bool = False
    """A session and process group of its own."""
    private_tmp: bool = False
    """An empty temporary directory (mode 0700) that ends with the test."""

    @property
    def is_sandbox(self) -> bool:
        """Whether all six namespaces were in force; anything less runs only with an explicit opt-in."""
        return self.user and self.mount and self.pid and self.net and self.ipc and self.uts

    @property
    def in_force(self) -> tuple[str, ...]:
        """The names of the mechanisms in force."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name))

    def __and__(self, other: Isolation) -> Isolation:
        return Isolation.of(set(self.in_force) & set(other.in_force))

    @classmethod
    def of(cls, names: Iterable[str]) -> Isolation:
        """Builds the record from the names that the confined process reported before the submission began."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: True for name in names if name in known})
