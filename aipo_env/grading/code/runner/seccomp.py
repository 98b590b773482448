"""A filter of system calls: no new processes, programs, namespaces, tracing, or sockets other than local ones.

The filter is a deny list in classic BPF and answers EPERM, so that Python raises PermissionError. The instruction
set is checked first; x86-64's 32-bit calls are refused. Source: seccomp(2), the kernel's syscall tables.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from dataclasses import dataclass

from . import linux

_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_MODE_FILTER = 2
_CLONE_THREAD = 0x00010000
_NAMESPACES = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_AF_UNIX = 1
_X32_BIT = 0x40000000
_NUMBER, _ARCHITECTURE, _ARGUMENT_0 = 0, 4, 16


@dataclass(frozen=True)
class _Table:
    audit: int
    clone: int
    socket: int
    process: tuple[int, ...]
    """fork, vfork, execve, execveat: refused when a submission may not start processes."""
    never: tuple[int, ...]
    """ptrace, process_vm_*, mounts, namespaces, keys, modules, bpf, perf, clocks, SysV IPC, ..."""


# Calls numbered alike everywhere: pidfd_send_signal, io_uring_*, open_tree to pidfd_open, pidfd_getfd,
# process_madvise, mount_setattr, memfd_secret, process_mrelease. memfd_create is refused because its memory counts
# towards no limit.
_COMMON = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 440, 442, 447, 448)
_TABLES = {
    "x86_64": _Table(
        audit=0xC000003E,
        clone=56,
        socket=41,
        process=(57, 58, 59, 322),
        never=(
            *(101, 310, 311, 312, 165, 166, 155, 161, 272, 308, 248, 249, 250, 175, 176, 313, 321, 298, 323),
            *(303, 304, 246, 320, 169, 103, 163, 164, 170, 171, 159, 305, 227, 167, 168, 172, 173, 179, 135),
            *(29, 30, 31, 67, 64, 65, 66, 220, 68, 69, 70, 71, 240, 241, 153, 212, 237, 238, 239, 256, 279, 319),
        ),
    ),
    "aarch64": _Table(
        audit=0xC00000B7,
        clone=220,
        socket=198,
        process=(221, 281),
        never=(
            *(117, 270, 271, 272, 40, 39, 41, 51, 97, 268, 217, 218, 219, 105, 106, 273, 280, 241, 282),
            *(264, 265, 104, 294, 142, 116, 89, 170, 161, 162, 171, 266, 112, 224, 225, 60, 92, 58),
            *(194, 195, 196, 197, 190, 191, 192, 193, 186, 187, 188, 189, 180, 181, 18, 235, 236, 237, 238, 239, 279),
        ),
    ),
}
_CLONE3 = 435


def available() -> bool:
    """Whether the calls of this instruction set are known here."""
    return linux.machine() in _TABLES


def install(processes: bool) -> None:
    """Installs the filter; no_new_privs must be set before.

    Args:
        processes: whether the submission may fork.

    Raises:
        OSError: the kernel has no seccomp filters.
    """
    code = program(processes)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    described = Program(len(code) // 8, ctypes.addressof(buffer))
    linux.prctl_pointer(linux.PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(described))


@functools.cache
def program(processes: bool) -> bytes:
    """Assembles the filter; once per worker, because the forked processes inherit the result.

    Every test is a pair of instructions, "if it holds fall into the return, else skip it", so no jump is far.

    Args:
        processes: whether the submission may fork.
    """
    table = _TABLES[linux.machine()]
    lines: list[bytes] = []

    def emit(code: int, value: int, yes: int = 0, no: int = 0) -> None:
        lines.append(struct.pack("=HBBI", code, yes, no, value))

    def refuse(error: int = _EPERM) -> None:
        emit(_RETURN, _ERRNO | error)

    emit(_LOAD, _ARCHITECTURE)
    emit(_JUMP_EQUAL, table.audit, yes=1)
    refuse()
    emit(_LOAD, _NUMBER)
    emit(_JUMP_ABOVE, _X32_BIT, no=1)
    refuse()
    emit(_JUMP_EQUAL, _CLONE3, no=1)
    refuse(_ENOSYS)  # the C library then falls back on clone, whose flags a filter can see
    for number in (*table.never, *_COMMON, *(() if processes else table.process)):
        emit(_JUMP_EQUAL, number, no=1)
        refuse()
    # clone: threads (or processes, if allowed), but no namespaces
    emit(_JUMP_EQUAL, table.clone, no=5)
    emit(_LOAD, _ARGUMENT_0)
    emit(_JUMP_BITS, _NAMESPACES, no=1)
    refuse()
    emit(_JUMP_BITS, 0 if processes else _CLONE_THREAD, yes=0 if processes else 1, no=1 if processes else 0)
    refuse()
    emit(_LOAD, _NUMBER)
    # socket: local ones only
    emit(_JUMP_EQUAL, table.socket, no=3)
    emit(_LOAD, _ARGUMENT_0)
    emit(_JUMP_EQUAL, _AF_UNIX, yes=1)
    refuse()
    emit(_RETURN, _ALLOW)
    return b"".join(lines)
