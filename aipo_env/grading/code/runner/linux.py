"""The system calls that Python's standard library lacks, through ctypes.

Sources: man pages unshare(2), setns(2), mount(2), pivot_root(2), mount_setattr(2), prctl(2), capset(2).
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_MOUNT_ATTR_RDONLY = 0x1
_MOUNT_ATTR_NOSUID = 0x2
_CAPABILITY_VERSION_3 = 0x20080522
_M_ARENA_MAX = -8

# Numbers of system calls that have no wrapper in older C libraries; those from 424 on are the same everywhere.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442


@functools.cache
def libc() -> ctypes.CDLL:
    """The C library of this process, with errno kept per call."""
    return ctypes.CDLL(None, use_errno=True)


def machine() -> str:
    """The instruction set, as the kernel names it."""
    return os.uname().machine


def check(result: int, what: str) -> int:
    """Returns the result of a system call, or raises OSError that names the call.

    Args:
        result: what the call returned; negative means failure.
        what: the call, as the error message shows it.
    """
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def unshare(flags: int) -> None:
    """Moves this process (for CLONE_NEWPID: its next child) into new namespaces."""
    check(libc().unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, flags: int) -> None:
    """Enters the namespaces of the process behind a pidfd."""
    check(libc().setns(fd, flags), f"setns({flags:#x})")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mounts a file system; takes what the system call takes."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    result = libc().mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    check(result, f"mount({kind or 'bind'} on {target})")


def unmount(target: str) -> None:
    """Detaches a mount and everything below it."""
    check(libc().umount2(os.fsencode(target), MNT_DETACH), f"umount({target})")


def pivot_root(new: str, old: str) -> None:
    """Makes ``new`` the root of this mount namespace and puts the old root at ``old``."""
    number = _PIVOT_ROOT.get(machine())
    if number is None:
        raise OSError(38, f"pivot_root: its number on {machine()} is not known here")
    check(libc().syscall(number, os.fsencode(new), os.fsencode(old)), "pivot_root")


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("user_ns_fd", ctypes.c_uint64),
    )


def make_read_only(path: str) -> None:
    """Makes a mount and those below it read-only (Linux 5.12), or on older kernels the mount alone."""
    attributes = _MountAttributes(set=_MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID)
    result = libc().syscall(
        _MOUNT_SETATTR,
        _AT_FDCWD,
        os.fsencode(path),
        _AT_RECURSIVE,
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    if result < 0:
        locked = os.statvfs(path).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount(None, path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | locked)


def prctl(option: int, argument: int) -> None:
    """Sets one attribute of this process."""
    zero = ctypes.c_ulong(0)
    check(libc().prctl(option, ctypes.c_ulong(argument), zero, zero, zero), f"prctl({option})")


def prctl_pointer(option: int, argument: int, address: int) -> None:
    """Sets an attribute of this process that is described by a structure at ``address``."""
    zero = ctypes.c_ulong(0)
    result = libc().prctl(option, ctypes.c_ulong(argument), ctypes.c_void_p(address), zero, zero)
    check(result, f"prctl({option})")


def drop_capabilities() -> None:
    """Gives up every capability of this process; with no_new_privs there is no way back."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    check(libc().capset(header, data), "capset")


def limit_allocator_arenas() -> None:
    """Keeps glibc from reserving 64 MiB of address space per thread; other C libraries have no such knob."""
    if sys.platform == "linux" and hasattr(libc(), "mallopt"):
        libc().mallopt(_M_ARENA_MAX, 2)
