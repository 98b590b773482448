"""A pool of killable worker processes that run the computer algebra system.

The deadline is kept here, in the caller's process, by waiting on a socket: no signal, no timer. A worker
that is late is killed by its zygote and replaced by a fresh fork, which costs milliseconds. Nothing of the
caller's program is imported again, so scripts need no ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aipo_env.errors import GradingError
from aipo_env.grading.worker import receive_message, send_message

_WORKER_FILE = str(Path(__file__).with_name("worker.py"))
# The worker finds packages where this process finds them, except in the current directory, where an untrusted
# program may have left a file called sympy.py.
_FLAGS = ["-I"]
_BOOT = """
import runpy, sys
sys.path[:] = sys.argv[2:]
del sys.argv[2:]
runpy.run_path({file!r}, run_name="__main__")
"""


@dataclass(slots=True)
class _Worker:
    pid: int
    channel: socket.socket


class WorkerPool:
    """Workers that decide whether two expressions are equivalent, each within a deadline.

    Thread-safe. Use one pool per process: after a fork, `abandon` it in the child.
    """

    def __init__(self, size: int = 2, start_timeout: float = 180.0) -> None:
        """Prepare a pool; nothing is started before `start`.

        Args:
            size: number of workers.
            start_timeout: seconds that importing the computer algebra system may take.
        """
        self.size = size
        self.start_timeout = start_timeout
        self._lock = threading.RLock()
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        self._workers: dict[int, _Worker] = {}
        self._ready = False

    def launch(self) -> None:
        """Start the zygote without waiting for it."""
        with self._lock:
            if self._zygote is not None:
                return
            ours, theirs = socket.socketpair()
            try:
                path = [entry for entry in sys.path if entry and os.path.isabs(entry)]
                self._zygote = subprocess.Popen(
                    [
                        sys.executable,
                        *_FLAGS,
                        "-c",
                        _BOOT.format(file=_WORKER_FILE),
                        str(theirs.fileno()),
                        *path,
                    ],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,  # Ctrl-C in the terminal is the caller's business alone
                )
            except OSError as error:
                ours.close()
                raise GradingError(
                    f"The grading worker could not be started with {sys.executable!r}: {error}. "
                    "Check that this Python can be executed and that processes can be created."
                ) from error
            finally:
                theirs.close()
            self._control = ours

    def start(self) -> None:
        """Start the workers and wait until they are ready.

        Raises:
            GradingError: if they cannot be started, for instance because math-verify is not installed.
        """
        with self._lock:
            if self._ready:
                return
            self.launch()
            try:
                hello = self._ask(None, self.start_timeout)
                if "ready" not in hello:
                    if "missing" in hello:
                        raise GradingError(
                            f"Grading this answer needs the package math-verify, and importing it failed: "
                            f"{hello['error']}. Install it with: pip install math-verify[antlr4-13-2]"
                        )
                    raise GradingError(
                        f"The grading worker failed to start: {hello.get('error')}. "
                        f"Run `{sys.executable} -c 'import math_verify'` to see why."
                    )
                self._idle = queue.SimpleQueue()
                for _ in range(self.size):
                    self._idle.put(self._fork())
            except BaseException:
                self.close()
                raise
            self._ready = True

    def equivalent(self, gold: str, answer: str, timeout: float) -> bool | Literal["timeout"] | None:
        """Ask a worker whether two expressions are equivalent.

        The deadline covers the computation, not the wait for a free worker.

        Returns:
            True or False, None if a side is not readable, "timeout" if the deadline passed.

        Raises:
            GradingError: if the workers cannot be started, or die twice on the same request.
        """
        deaths = 0
        while deaths < 2:
            if not self._ready:
                self.start()
            worker = self._idle.get()
            if worker is None:  # the pool was closed or broke while we waited
                self._idle.put(None)
                self.start()
                continue
            try:
                send_message(worker.channel, {"gold": gold, "answer": answer})
                reply = _receive_before(worker.channel, time.monotonic() + timeout)
            except TimeoutError:
                self._replace(worker)
                return "timeout"
            except OSError:
                reply = None
            except BaseException:  # such as KeyboardInterrupt: the worker's state is unknown
                self._replace(worker)
                raise
            if reply is not None:
                self._idle.put(worker)
                equal = reply.get("equal")
                return equal if isinstance(equal, bool) else None
            # The worker died: out of memory, a crash of the parser. Once may be bad luck.
            self._replace(worker)
            deaths += 1
        return None

    def _replace(self, worker: _Worker) -> None:
        with self._lock:
            if self._workers.pop(worker.pid, None) is None:
                return
            worker.channel.close()
            try:
                self._ask(b"k" + struct.pack(">q", worker.pid), 10.0)
                self._idle.put(self._fork())
            except (OSError, GradingError):
                self.close()  # the zygote is gone; the next request starts a new one

    def _fork(self) -> _Worker:
        assert self._control is not None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"f" + bytes(8)], [theirs.fileno()])
                reply = self._ask(None, self.start_timeout)
            except BaseException:
                ours.close()
                raise
        worker = _Worker(int(reply["worker"]), ours)
        self._workers[worker.pid] = worker
        return worker

    def _ask(self, request: bytes | None, timeout: float) -> dict[str, Any]:
        """Send a request to the zygote, if any, and return its next message."""
        control, zygote = self._control, self._zygote
        assert control is not None
        assert zygote is not None
        try:
            if request is not None:
                control.sendall(request)
            message = _receive_before(control, time.monotonic() + timeout)
        except TimeoutError:
            raise GradingError(
                f"The grading worker did not answer within {timeout:.0f} s of being asked. The machine may be "
                "overloaded; a larger start_timeout gives it more time."
            ) from None
        except OSError:
            message = None
        if message is None:
            raise GradingError(
                f"The grading worker process ended unexpectedly (exit status {zygote.poll()}). "
                f"Run `{sys.executable} -c 'import math_verify'` to see whether it can be imported."
            )
        return message

    def close(self) -> None:
        """Kill the workers and the zygote, and reap them. The pool may be started again."""
        with self._lock:
            was_ready, self._ready = self._ready, False
            for worker in self._workers.values():
                worker.channel.close()
            self._workers.clear()
            if self._control is not None:
                self._control.close()  # the zygote kills and reaps its workers, then leaves
                self._control = None
            if self._zygote is not None:
                try:
                    self._zygote.wait(5.0 if was_ready else 0.2)
                except subprocess.TimeoutExpired:
                    self._zygote.kill()
                    self._zygote.wait()
                self._zygote = None
            self._idle.put(None)  # wakes whoever waits for a worker

    def abandon(self) -> None:
        """Forget the processes in a forked child, without touching them: they belong to the parent."""
        for worker in self._workers.values():
            worker.channel.close()
        if self._control is not None:
            self._control.close()
        if self._zygote is not None:
            self._zygote.returncode = 0  # not our child: nothing to wait for
        self.__init__(self.size, self.start_timeout)  # type: ignore[misc]

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the zygote and the workers; empty until they are ready. Never blocks."""
        zygote = self._zygote
        return [zygote.pid, *list(self._workers)] if zygote is not None and self._ready else []


def _receive_before(sock: socket.socket, deadline: float) -> dict[str, Any] | None:
    sock.settimeout(max(deadline - time.monotonic(), 1e-3))
    try:
        return receive_message(sock)
    finally:
        with contextlib.suppress(OSError):
            sock.settimeout(None)
