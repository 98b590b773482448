"""The parent's end of one worker: starts its supervisor, hands it one test at a time, and ends it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aipo_env.grading.code.isolation import Isolation
from aipo_env.grading.code.problem import CodeProblem, CodeTest
from aipo_env.grading.code.runner.wire import receive_frame, send_frame

_BOOT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from runner.supervisor import main
sys.path.pop(0)
main()
"""
_START_TIMEOUT_S = 60.0
_GRACE_S = 30.0
_READY = b"ready "


class WorkerError(Exception):
    """The worker failed, whatever the submission was."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one test run produced. Everything but the figures is the submission's claim."""

    status: int
    """Wait status of the process."""
    killed: str
    """Why it was killed: ``cpu``, ``wall``, ``output``, or nothing."""
    cpu_seconds: float
    wall_seconds: float
    resident_bytes: int
    stdout: bytes
    stderr: bytes
    report: bytes
    """Lines of JSON that the runner wrote after the submission began."""
    isolation: Isolation


class Worker:
    """One supervisor process; not thread-safe."""

    def __init__(self, strategy: str, extra_paths: Sequence[str], processes: bool) -> None:
        """Starts the supervisor and waits until it can run submissions.

        Raises:
            WorkerError: it cannot; the message says at which step.
        """
        ours, theirs = socket.socketpair()
        options = {"strategy": strategy, "extra_paths": list(extra_paths), "processes": processes}
        command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT, str(Path(__file__).parent)]
        # Some interpreters find their own library through this variable; submissions never see it.
        environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno()), json.dumps(options)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise WorkerError(f"the interpreter {sys.executable!r} did not start: {error}") from error
        self._channel = ours
        try:
            ours.settimeout(_START_TIMEOUT_S)
            frame = receive_frame(ours)
            if frame is None:
                raise WorkerError("the runner died while it started")
            if "error" in frame[0]:
                raise WorkerError(str(frame[0]["error"]))
        except (OSError, ValueError) as error:
            self.close()
            raise WorkerError(f"the runner did not start: {error}") from error
        except WorkerError:
            self.close()
            raise

    def run(self, code: bytes, problem: CodeProblem, test: CodeTest) -> Run:
        """Runs a program on one test. The expected output is not sent.

        Raises:
            WorkerError: the machinery failed; the worker must be closed.
        """
        header = {
            "kind": test.kind,
            "func_name": problem.func_name,
            "memory_bytes": problem.memory_limit_mb << 20,
            "output_bytes": problem.output_limit_mb << 20,
            "cpu_seconds": problem.time_limit_s,
            "wall_seconds": problem.wall_seconds,
        }
        # Programs are written for this system's line ends, whatever system the tests were written on.
        data = test.input.replace("\r\n", "\n").encode(errors="replace")
        try:
            self._channel.settimeout(problem.wall_seconds + _GRACE_S)
            send_frame(self._channel, header, [code, data])
            frame = receive_frame(self._channel)
        except (OSError, ValueError) as error:
            raise WorkerError(f"no answer from the runner: {error}") from error
        if frame is None:
            raise WorkerError("the runner died")
        if "error" in frame[0]:
            raise WorkerError(f"the runner failed: {frame[0]['error']}")
        answer, (stdout, stderr, report) = frame
        first, _, report = report.partition(b"\n")
        if not first.startswith(_READY):
            raise WorkerError(first.decode(errors="replace") or "the submission's process died before it began")
        return Run(
            **answer,
            stdout=stdout,
            stderr=stderr,
            report=report,
            isolation=Isolation.of(json.loads(first[len(_READY) :])),
        )

    def close(self) -> None:
        """Ends the supervisor; the kernel kills everything below it."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)  # reaches it even if a forked child holds a copy
        self._channel.close()
        try:
            self._process.wait(timeout=1.0)  # it ends when the channel does
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def abandon(self) -> None:
        """Forgets the supervisor in a forked child: it belongs to the parent."""
        self._channel.close()
        self._process.returncode = 0
