"""The process that forks the workers, and the workers: run by path, never imported by the library.

A *zygote* imports the computer algebra system once, then forks a worker whenever the library asks for one;
it never sees an answer. Each worker serves requests on its own socket until that socket closes or it is
killed. The zygote is single-threaded, so its forks are clean; it is the only process that reaps workers, so
a process id that it kills cannot have been reused.

Protocol: each message is a 4-byte big-endian length and that many bytes of JSON.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
from typing import Any

MAX_MESSAGE = 1 << 20
MEMORY_LIMIT = 2 << 30
CPU_SECONDS_PER_JOB = 20
"""A worker orphaned in the middle of a computation ends itself; the deadline proper is the parent's."""


def send_message(sock: socket.socket, message: dict[str, Any]) -> None:
    """Write one message."""
    data = json.dumps(message).encode("ascii")
    sock.sendall(struct.pack(">I", len(data)) + data)


def receive_message(sock: socket.socket) -> dict[str, Any] | None:
    """Read one message; None when the other side is gone."""
    header = _receive_exactly(sock, 4)
    if header is None:
        return None
    (size,) = struct.unpack(">I", header)
    data = _receive_exactly(sock, size) if size <= MAX_MESSAGE else None
    return None if data is None else json.loads(data)


def _receive_exactly(sock: socket.socket, size: int) -> bytes | None:
    chunks = b""
    while len(chunks) < size:
        chunk = sock.recv(size - len(chunks))
        if not chunk:
            return None
        chunks += chunk
    return chunks


def _limit(cpu_seconds: int | None) -> None:
    """Bound memory once, or the CPU time of the next job; where a limit is not offered, go on without it."""
    import resource

    try:
        if cpu_seconds is None:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, hard))
        else:
            used = resource.getrusage(resource.RUSAGE_SELF)
            soft = int(used.ru_utime + used.ru_stime) + cpu_seconds
            resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    except (OSError, ValueError):
        pass


class _Algebra:
    """math-verify with its own timeouts off, and the parsed golds of this worker."""

    def __init__(self) -> None:
        # Heavy imports belong to this process alone.
        import logging

        from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

        logging.disable(logging.CRITICAL)
        self._parse, self._verify = parse, verify
        self._config = [LatexExtractionConfig(), ExprExtractionConfig()]
        self._golds: dict[str, list[Any]] = {}

    def parse(self, latex: str) -> list[Any]:
        parsed: list[Any] = self._parse(f"${latex}$", extraction_config=self._config, parsing_timeout=0)
        return parsed

    def equivalent(self, gold: str, answer: str) -> bool | None:
        """True or False; None if either side is not mathematics."""
        parsed_gold = self._golds.get(gold)
        if parsed_gold is None:
            if len(self._golds) >= 512:
                self._golds.clear()
            parsed_gold = self._golds[gold] = self.parse(gold)
        parsed_answer = self.parse(answer)
        # math-verify lists the text itself behind the parsed expression; alone it means "not parsed".
        if all(isinstance(item, str) for item in parsed_gold) or all(isinstance(item, str) for item in parsed_answer):
            return None
        return bool(self._verify(parsed_gold, parsed_answer, float_rounding=10, timeout_seconds=None))


def serve(sock: socket.socket, algebra: _Algebra) -> None:
    """Answer requests until the library closes the socket."""
    while (request := receive_message(sock)) is not None:
        _limit(CPU_SECONDS_PER_JOB)
        try:
            reply: dict[str, Any] = {"equal": algebra.equivalent(request["gold"], request["answer"])}
        except (MemoryError, RecursionError) as error:
            reply = {"equal": None, "error": type(error).__name__}
        except Exception as error:  # whatever a parser raises on such text is a verdict on the text
            reply = {"equal": None, "error": type(error).__name__}
        send_message(sock, reply)


def _fork_worker(control: socket.socket, channel: socket.socket, algebra: _Algebra) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        control.close()
        _limit(None)
        serve(channel, algebra)
    except BaseException:  # a worker has nobody to tell: the library sees its socket close
        os._exit(1)
    os._exit(0)


_WARM_UP = (
    ("\\sqrt{2}+\\log(x)", "\\sin(x)^2"),
    ("(0,1) \\cup [2,3)", "(0,1) \\cup [2,4)"),
    ("\\operatorname{gcd}(x^2-1, x-1)", "x + y"),
)


def main(control_fd: int) -> None:
    """Fork and kill workers as the library asks; leave with all of them when the library goes."""
    control = socket.socket(fileno=control_fd)
    try:
        algebra = _Algebra()
        for gold, answer in _WARM_UP:  # fill lazy imports and caches before the first fork
            algebra.equivalent(gold, answer)
    except ImportError as error:
        send_message(control, {"missing": error.name or str(error), "error": str(error)})
        return
    except Exception as error:
        send_message(control, {"error": f"{type(error).__name__}: {error}"})
        return
    send_message(control, {"ready": os.getpid()})
    children: set[int] = set()
    try:
        while True:
            select.select([control], [], [])
            data, fds, _, _ = socket.recv_fds(control, 16, 1)
            if not data:
                break
            if data[:1] == b"f":
                with socket.socket(fileno=fds[0]) as channel:
                    pid = _fork_worker(control, channel, algebra)
                children.add(pid)
                send_message(control, {"worker": pid})
            else:
                (pid,) = struct.unpack(">q", data[1:9])
                if pid in children:
                    children.discard(pid)
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                send_message(control, {"killed": pid})
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
