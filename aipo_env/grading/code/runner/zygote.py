"""Forks one process per test from a warm interpreter; single-threaded, and process 1 of its pid namespace.

The next process is forked, and confines itself, as soon as the one before has been reported: it is ready when the
next order comes.

No code, input or output of any submission passes through this process's memory, so a later submission finds no
trace of an earlier one in the memory that it inherits.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import struct
import time
from dataclasses import replace
from typing import Any, NoReturn

from . import linux, seccomp, submission
from .namespaces import mount_own_proc
from .settings import Settings

ORDER = struct.Struct("=dd")
"""CPU seconds and wall seconds allowed to the next process; five descriptors travel along."""
REPORT = struct.Struct("=iiddd")
"""Wait status, why it was killed (an index of KILLED), CPU seconds, wall seconds, largest resident size in bytes."""
KILL = b"kill"
KILLED = ("", "cpu", "wall", "asked")
_SMALLEST_WAIT_S = 0.01


def serve(channel: socket.socket, settings: Settings, names: dict[str, Any]) -> NoReturn:
    """Answers orders until the supervisor goes away.

    Args:
        channel: message socket to the supervisor.
        settings: how submissions are confined.
        names: globals that every submission starts with.
    """
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        if settings.namespaces:
            settings = replace(settings, own_proc=mount_own_proc(settings.strategy))
        else:
            linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        linux.limit_allocator_arenas()
        own = os.pidfd_open(os.getpid())
        if settings.seccomp:
            seccomp.program(settings.processes)
        gc.collect()
        gc.freeze()
        pid, orders = _prepare(own, settings, names)
    except BaseException as error:
        channel.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        os._exit(1)
    channel.send(b"{}")
    while True:
        data, fds, _, _ = socket.recv_fds(channel, 64, submission.NUM_FDS)
        if not data:
            os._exit(0)
        if data == KILL:
            continue  # it ended before the request came
        cpu_seconds, wall_seconds = ORDER.unpack(data)
        start = time.monotonic()
        with orders:
            socket.send_fds(orders, [submission.CPU_SECONDS.pack(cpu_seconds)], list(fds))
        for fd in fds:
            os.close(fd)
        killed = _watch(channel, pid, cpu_seconds, start + wall_seconds)
        if not settings.namespaces:
            _kill_strays(pid)
        _, status, usage = os.wait4(pid, 0)
        while os.WIFSTOPPED(status):  # a process that asked to be traced by its parent stops before it ends
            os.kill(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
        if not settings.namespaces:
            _reap_strays()
        cpu = usage.ru_utime + usage.ru_stime
        wall = time.monotonic() - start
        channel.send(REPORT.pack(status, KILLED.index(killed), cpu, wall, usage.ru_maxrss * 1024.0))
        pid, orders = _prepare(own, settings, names)


def _prepare(own: int, settings: Settings, names: dict[str, Any]) -> tuple[int, socket.socket]:
    """Forks the process for the next test; returns its id and the channel on which it awaits the order."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if settings.namespaces:
        linux.unshare(linux.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        submission.run(theirs, settings, names)
    if settings.namespaces:
        linux.setns(own, linux.CLONE_NEWPID)  # the next fork starts from here again
    theirs.close()
    return pid, ours


def _watch(channel: socket.socket, pid: int, cpu_seconds: float, deadline: float) -> str:
    """Waits until the process has ended, or ends it; the whole pid namespace goes with it."""
    clock = (~pid << 3) | 2  # the CPU clock of a process, as clock_getcpuclockid(3) makes it
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(channel, select.POLLIN)
    killed = ""
    try:
        while True:
            try:
                cpu_left = cpu_seconds - time.clock_gettime(clock)
            except OSError:  # it has just ended
                return ""
            wall_left = deadline - time.monotonic()
            if cpu_left <= 0 or wall_left <= 0:
                killed = "cpu" if cpu_left <= 0 else "wall"
                break
            # Threads can use the CPU time faster than the clock on the wall moves.
            ready = dict(poll.poll(1000 * max(_SMALLEST_WAIT_S, min(cpu_left / 2, wall_left))))
            if pidfd in ready:
                return ""
            if channel.fileno() in ready:
                message = channel.recv(64)
                if not message:
                    os._exit(0)
                killed = "asked"
                break
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return killed
    except ProcessLookupError:
        return killed
    finally:
        os.close(pidfd)


def _kill_strays(pid: int) -> None:
    """Without a pid namespace: kills the process group, then every process that was left to this one."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _reap_strays() -> None:
    children = f"/proc/self/task/{os.getpid()}/children"
    while True:
        try:
            with open(children) as file:
                strays = [int(word) for word in file.read().split()]
        except OSError:
            return
        if not strays:
            return
        for stray in strays:
            try:
                os.kill(stray, signal.SIGKILL)
                os.waitpid(stray, 0)
            except (ProcessLookupError, ChildProcessError):
                continue
