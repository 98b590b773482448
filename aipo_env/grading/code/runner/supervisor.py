"""Feeds submissions and collects what they write; started by the parent as ``python -I -S``, one per worker.

It holds code, inputs and outputs, never an expected output. Submissions run in a pid namespace from which this
process cannot be seen. When the parent goes away, it ends and everything below it is killed by the kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from typing import Any

from . import landlock, linux, namespaces, rootfs, seccomp, zygote
from .prelude import load
from .settings import Settings
from .wire import receive_frame, send_frame

_PIECE = 1 << 16
_KEPT_STDERR = 4096
_GRACE_S = 10.0
_OWN_PROCESSES = 2  # the supervisor and the zygote
_MAX_THREADS, _MAX_PROCESSES = 64, 32


def main() -> None:
    """Sets the worker up as its arguments say, then serves the parent."""
    # Whatever the caller ignores or blocks; and a number that the zygote is sure to close.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    parent = socket.socket(fileno=os.dup(int(sys.argv[1])))
    os.close(int(sys.argv[1]))
    options = json.loads(sys.argv[2])
    try:
        names = load()  # while the interpreter's own files are certainly readable
        settings = _set_up(options)
        channel, pid = _start_zygote(settings, names)
    except BaseException as error:
        send_frame(parent, {"error": f"{type(error).__name__}: {error}"}, [])
        return
    send_frame(parent, {"ready": True}, [])
    base = None if settings.namespaces else tempfile.mkdtemp(prefix="submission-")
    try:
        while frame := receive_frame(parent):
            folder = "" if base is None else tempfile.mkdtemp(dir=base)
            try:
                answer, pieces = _Job(parent, channel, *frame, folder).run()
            finally:
                if base is not None:
                    shutil.rmtree(folder, ignore_errors=True)
            send_frame(parent, answer, pieces)
    except BaseException as error:
        with contextlib.suppress(OSError):
            send_frame(parent, {"error": f"{type(error).__name__}: {error}"}, [])
    finally:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if base is not None:
            shutil.rmtree(base, ignore_errors=True)


def _set_up(options: dict[str, Any]) -> Settings:
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # when memory runs out, a submission goes first and the caller last
    strategy: str = options["strategy"]
    extra: list[str] = options["extra_paths"]
    with open("/proc/self/statm") as file:
        memory_base = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    readable = rootfs.readable_paths(extra)
    usual, other = rootfs.PRIVATE_FOLDERS
    folder = other if any(path.startswith(usual + "/") for path in readable) else usual
    allowed = _OWN_PROCESSES + (_MAX_PROCESSES if options["processes"] else _MAX_THREADS)
    if strategy == "weak":
        folder = ""
        own_id = os.geteuid() == 0 and namespaces.become_ordinary()
        limit = allowed + (0 if own_id else _count_tasks(os.getuid()))
        limit = limit if os.geteuid() != 0 else 0
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
    else:
        was_root = os.geteuid() == 0
        ordinary = namespaces.enter(strategy, extra)
        # Older kernels count the processes of a user in all namespaces together.
        limit = allowed if ordinary and (was_root or _kernel() >= (5, 14)) else 0
    return Settings(
        strategy=strategy,
        readable=readable,
        extra_paths=extra,
        processes=options["processes"],
        memory_base=memory_base + (32 << 20),
        process_limit=limit,
        landlock=landlock.version(),
        seccomp=seccomp.available(),
        folder=folder,
        own_proc=False,
    )


def _start_zygote(settings: Settings, names: dict[str, Any]) -> tuple[socket.socket, int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        os.closerange(theirs.fileno() + 1, 4096)
        os.closerange(3, theirs.fileno())
        zygote.serve(theirs, settings, names)
    theirs.close()
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    answer = json.loads(ours.recv(_PIECE) or b'{"error": "the zygote died while it started"}')
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return ours, pid


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def _count_tasks(uid: int) -> int:
    total = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                total += len(os.listdir(f"/proc/{name}/task"))
    return total


class _Job:
    """One test of one submission: its pipes, and the answer as it builds up."""

    def __init__(
        self, parent: socket.socket, channel: socket.socket, header: dict[str, Any], blobs: list[bytes], folder: str
    ) -> None:
        self._parent, self._channel, self._header = parent, channel, header
        code, data = blobs
        functional = header["kind"] == "functional"
        job = {key: header[key] for key in ("kind", "func_name", "memory_bytes")}
        head = json.dumps({**job, "folder": folder, "code_bytes": len(code)}).encode() + b"\n"
        self._poll = select.poll()
        self._poll.register(parent, select.POLLIN)
        self._poll.register(channel, select.POLLIN)
        theirs = []
        self._writers: dict[int, memoryview] = {}
        for payload in (head + code + (data if functional else b""), b"" if functional else data):
            read_end, write_end = os.pipe()
            theirs.append(read_end)
            os.set_blocking(write_end, False)
            self._writers[write_end] = memoryview(payload)
            self._poll.register(write_end, select.POLLOUT)
        self._outputs: dict[int, bytearray] = {}
        for _ in ("stdout", "stderr", "report"):
            read_end, write_end = os.pipe()
            theirs.append(write_end)
            os.set_blocking(read_end, False)
            self._outputs[read_end] = bytearray()
            self._poll.register(read_end, select.POLLIN)
        self._readers = dict.fromkeys(self._outputs, 0)  # bytes read so far; gone when closed
        _, self._stderr, _ = self._outputs
        self._flooded = False
        order = zygote.ORDER.pack(header["cpu_seconds"], header["wall_seconds"])
        socket.send_fds(channel, [order], theirs)
        for fd in theirs:
            os.close(fd)

    def run(self) -> tuple[dict[str, Any], list[bytes]]:
        """Pumps until the process tree is gone; returns the answer's header and blobs."""
        deadline = time.monotonic() + self._header["wall_seconds"] + _GRACE_S
        report = None
        while report is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConnectionError("the zygote does not answer")
            for fd, _ in self._poll.poll(left * 1000):
                if fd in self._writers:
                    self._feed(fd)
                elif fd in self._readers:
                    self._drain(fd)
                elif fd == self._parent.fileno():
                    raise ConnectionError("the parent is gone")  # it never speaks while a job runs
                else:
                    report = self._channel.recv(64)
                    if not report:
                        raise ConnectionError("the zygote is gone")
        for fd in list(self._writers):
            self._close(self._writers, fd)
        for fd in list(self._readers):  # every writer is dead: what is in the pipes is all there will be
            while fd in self._readers:
                self._drain(fd)
        status, killed, cpu, wall, resident = zygote.REPORT.unpack(report)
        answer = {
            "status": status,
            "killed": "output" if self._flooded else zygote.KILLED[killed],
            "cpu_seconds": cpu,
            "wall_seconds": wall,
            "resident_bytes": int(resident),
        }
        return answer, [bytes(output) for output in self._outputs.values()]

    def _feed(self, fd: int) -> None:
        try:
            self._writers[fd] = self._writers[fd][os.write(fd, self._writers[fd][: 1 << 20]) :]
        except BlockingIOError:
            return
        except OSError:  # the reader does not want it
            self._close(self._writers, fd)
            return
        if not self._writers[fd]:
            self._close(self._writers, fd)

    def _drain(self, fd: int) -> None:
        try:
            piece = os.read(fd, _PIECE)
        except BlockingIOError:
            piece = b""
        if not piece:
            self._close(self._readers, fd)
            return
        self._readers[fd] += len(piece)
        if self._readers[fd] > self._header["output_bytes"]:
            if not self._flooded:
                self._flooded = True
                self._channel.send(zygote.KILL)
            return
        output = self._outputs[fd]
        output += piece
        if fd == self._stderr and len(output) > 2 * _KEPT_STDERR:
            del output[:-_KEPT_STDERR]

    def _close(self, table: dict[int, Any], fd: int) -> None:
        del table[fd]
        self._poll.unregister(fd)
        os.close(fd)
