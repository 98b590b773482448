"""The last steps before a submission's first instruction: from here on its process has no way back."""

from __future__ import annotations

import contextlib
import math
import os
import resource

from . import landlock, linux, seccomp
from .settings import Settings

_FILE_BYTES = 64 << 20
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_OPEN_FILES = 64
_STACK_BYTES = 120 << 20  # the gap below the stack is 128 MiB at least


def confine(settings: Settings, folder: str) -> list[str]:
    """Confines this process, but for the limits that depend on the job.

    Args:
        settings: what is available.
        folder: the private temporary directory; without namespaces it exists already.

    Returns:
        The names of the mechanisms now in force, as `aipo_env.grading.code.Isolation` spells them.

    Raises:
        OSError: a step failed; the submission must not run.
    """
    os.setsid()
    os.umask(0o077)
    in_force = ["session", "rlimits", "private_tmp", "no_new_privs"]
    if settings.namespaces:
        _private_mounts(settings, folder)
        in_force += ["user", "mount", "pid", "net", "ipc", "uts"]
    os.chdir(folder)
    limits = {
        resource.RLIMIT_FSIZE: _FILE_BYTES,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 256,
    }
    if settings.process_limit:
        limits[resource.RLIMIT_NPROC] = settings.process_limit
        in_force.append("process_limit")
    _lower(limits)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.drop_capabilities()
    if settings.landlock:
        landlock.restrict(settings.landlock, [*settings.readable, "/proc/self"], [folder, *_DEVICES])
        in_force.append("landlock")
    if settings.seccomp:
        seccomp.install(settings.processes)
        in_force.append("seccomp")
    return in_force


def _private_mounts(settings: Settings, folder: str) -> None:
    # SysV IPC objects would outlive the test in the worker's IPC namespace, unless the filter forbids them.
    linux.unshare(linux.CLONE_NEWNS | (0 if settings.seccomp else linux.CLONE_NEWIPC))
    flags = linux.MS_NOSUID | linux.MS_NODEV
    options = f"mode=0700,size={_FILE_BYTES},nr_inodes=1024,uid={os.getuid()},gid={os.getgid()}"
    linux.mount("tmpfs", folder, "tmpfs", flags, options)
    if settings.own_proc:
        try:
            linux.mount("proc", "/proc", "proc", flags | linux.MS_NOEXEC, "subset=pid")
        except OSError:  # Linux before 5.8 has no subset
            linux.mount("proc", "/proc", "proc", flags | linux.MS_NOEXEC)


def limit(settings: Settings, cpu_seconds: float, memory_bytes: int) -> None:
    """Sets the limits that depend on the job.

    Args:
        settings: what is available.
        cpu_seconds: CPU time allowed; the kernel's own limit is a whole second later.
        memory_bytes: address space allowed beyond that of the bare interpreter.
    """
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    stack = _STACK_BYTES if most == resource.RLIM_INFINITY else min(_STACK_BYTES, most)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_STACK, (stack, stack))
    _lower({resource.RLIMIT_CPU: math.ceil(cpu_seconds) + 1, resource.RLIMIT_AS: settings.memory_base + memory_bytes})


def _lower(limits: dict[int, int]) -> None:
    for kind, value in limits.items():
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))
