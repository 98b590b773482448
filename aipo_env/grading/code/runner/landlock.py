"""Landlock: the kernel's own file, network and signal sandbox for ordinary processes (Linux 5.13 and later).

It stands behind the mount namespace: even a hole in the private root leaves nothing to execute and nothing to
write outside the temporary directory. Source: the kernel's userspace-api/landlock.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from . import linux

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_READ = _READ_FILE | _READ_DIR
_EXECUTE = 1 << 0
_TRUNCATE = 1 << 14
# Highest file right of each version: 1 up to MAKE_SYM, 2 REFER, 3 TRUNCATE, 5 IOCTL_DEV.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP_RIGHTS = 0b11
_SCOPES = 0b11


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("rights", ctypes.c_uint64), ("fd", ctypes.c_int32))


def version() -> int:
    """The kernel's Landlock version; 0 when it has none or it is switched off."""
    found: int = linux.libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    return max(found, 0)


def restrict(abi: int, readable: Sequence[str], writable: Sequence[str]) -> None:
    """Forbids this process everything but reading and writing below the given paths; there is no way back.

    Args:
        abi: what `version` returned, at least 1.
        readable: directories and files that may be read. Nothing may be executed.
        writable: directories and files that may be written as well.
    """
    handled = _FILE_RIGHTS[min(abi, 5)]
    rules = _Ruleset(files=handled, tcp=_TCP_RIGHTS if abi >= 4 else 0, scoped=_SCOPES if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    libc = linux.libc()
    ruleset = linux.check(
        libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0)), "landlock"
    )
    try:
        for path in readable:
            _allow(ruleset, path, _READ & handled)
        for path in writable:
            _allow(ruleset, path, handled & ~_EXECUTE)
        linux.check(libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no permission
    try:
        if not os.path.isdir(path):
            rights &= _WRITE_FILE | _READ_FILE | _TRUNCATE
        rule = _PathRule(rights=rights, fd=fd)
        linux.check(
            linux.libc().syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0)),
            f"landlock_add_rule({path})",
        )
    finally:
        os.close(fd)
