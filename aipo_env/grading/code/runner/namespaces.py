"""How the supervisor leaves the caller's namespaces, as root or as an ordinary user."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Sequence

from . import linux, rootfs

_INSIDE_ID = 1000
_NOBODY = 65534
_ALL = (
    linux.CLONE_NEWUSER
    | linux.CLONE_NEWNS
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
)


def enter(strategy: str, extra: Sequence[str]) -> bool:
    """Moves this process into namespaces of its own; its next child is process 1 of a new pid namespace.

    With ``root``, the private root is built with root's rights (an interpreter below /root stays readable), then
    root is given up for a user id that nothing else uses. With ``user``, everything happens inside a user namespace.

    Args:
        strategy: ``root`` or ``user``.
        extra: further directories that a submission may read.

    Returns:
        Whether the user id is an ordinary one, so that limits on processes bind.

    Raises:
        OSError: the kernel or its configuration refuses.
    """
    own_proc = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if strategy == "root":
        linux.unshare(linux.CLONE_NEWNS)
        rootfs.build(extra, whole_proc=False)
        rootfs.seal()
    if os.geteuid() == 0:
        become_ordinary(own_proc)
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(_ALL)
    _write(own_proc, "setgroups", "deny")
    _write(own_proc, "uid_map", f"{_INSIDE_ID} {uid} 1")
    _write(own_proc, "gid_map", f"{_INSIDE_ID} {gid} 1")
    os.close(own_proc)
    with contextlib.suppress(OSError), open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")  # counts for this namespace: no further one, in which a submission would have capabilities
    if strategy == "user":
        rootfs.build(extra, whole_proc=True)
    with contextlib.suppress(OSError):
        linux.libc().sethostname(b"sandbox", 7)
    return uid != 0


def mount_own_proc(strategy: str) -> bool:
    """Mounts /proc of this pid namespace and lets go of the old root; called once, by process 1 of it.

    Returns:
        Whether /proc could be mounted; where not (a container that masks parts of it), /proc is empty.
    """
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    try:
        linux.mount("proc", "/proc", "proc", flags)
        mounted = True
    except OSError:
        linux.mount("tmpfs", "/proc", "tmpfs", flags | linux.MS_RDONLY, "size=4k")
        mounted = False
    if strategy == "user":
        rootfs.seal()
    return mounted


def become_ordinary(own_proc: int | None = None) -> bool:
    """Gives up root for a user id that nothing else uses, or for nobody.

    RLIMIT_NPROC does not bind root, whatever root is called inside a user namespace.

    Args:
        own_proc: when given, /proc/self must stay writable for this process (for the id maps).

    Returns:
        Whether root was given up.
    """
    private = random.SystemRandom().randrange(0x50000000, 0x70000000)
    for uid in (private, _NOBODY):
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except OSError:
            continue
        if own_proc is not None:
            linux.prctl(linux.PR_SET_DUMPABLE, 1)
        return True
    return False


def _write(directory: int, name: str, text: str) -> None:
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, f"/proc/self/{name}: {error.strerror}") from error
