"""The caller's end of the process that runs reasoning-gym: starts it, asks it, kills it when it is late."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection, Pipe
from typing import Any

from aipo_env.errors import GradingError

START_SECONDS = 120.0
"""Importing the package takes seconds on a cold disk."""
MAX_MESSAGE = 1 << 20
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from aipo_env.tasks.reasoning_gym.worker import main; main()"


class ReasoningGymProcess:
    """One process that makes entries and scores answers; starts when it is first asked. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Connection | None = None
        self._owner = os.getpid()

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Sends a request and returns the reply.

        Args:
            request: what `worker.answer_request` takes.
            seconds: after which the process is killed; a later request starts another.

        Raises:
            TimeoutError: it was late, or died of the request.
            GradingError: the process does not start.
        """
        if os.getpid() != self._owner:
            self._abandon()
        with self._lock:
            channel = self._channel or self._start()
            try:
                channel.send_bytes(json.dumps(request).encode())
                reply = _receive(channel, seconds)
            except OSError:
                reply = None
            except BaseException:  # such as KeyboardInterrupt: a late reply must not answer the next request
                self._stop()
                raise
            if reply is None:
                self._stop()
                raise TimeoutError(f"reasoning-gym gave no reply within {seconds:g} s")
            return reply

    def close(self) -> None:
        """Ends the process; it may be started again."""
        if os.getpid() == self._owner:
            with self._lock:
                self._stop()

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        path = [entry for entry in sys.path if entry and os.path.isabs(entry)]
        with theirs:
            self._process = subprocess.Popen(
                # No -I: it would ignore the hash seed.
                [sys.executable, "-s", "-P", "-c", _BOOT, str(theirs.fileno()), *path],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C in the terminal is the caller's business alone
            )
        self._channel = ours
        start = time.monotonic()
        if _receive(ours, START_SECONDS) is None:
            self._stop()
            raise GradingError(
                f"the process that runs reasoning-gym did not start (after {time.monotonic() - start:.0f} s). Run "
                f"`{sys.executable} -c 'import reasoning_gym'` to see why."
            )
        return ours

    def _stop(self) -> None:
        process, self._process = self._process, None
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        if process is not None:
            process.kill()
            process.wait()

    def _abandon(self) -> None:
        """In a forked child: the process belongs to the parent, and locks did not survive."""
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.returncode = 0
        self.__init__()  # type: ignore[misc]


def _receive(channel: Connection, seconds: float) -> dict[str, Any] | None:
    """The next message; None when it is late, too long, or the other side is gone."""
    try:
        return dict(json.loads(channel.recv_bytes(MAX_MESSAGE))) if channel.poll(seconds) else None
    except (OSError, EOFError):
        return None


PROCESS = ReasoningGymProcess()
"""Shared by all task families of this process."""
atexit.register(PROCESS.close)
