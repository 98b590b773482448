"""Runs one submission on one test, in a process of its own that ends here.

Nothing in this file is secret and nothing in it is trusted once the submission's first line has run: what comes
back is a claim (some output, some JSON value) that the parent compares with an expectation this process never saw.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import socket
import struct
import sys
import threading
import traceback
import types
from typing import Any, NoReturn

from .confine import confine, limit
from .settings import Settings

FUNCTIONAL = "functional"
READY = b"ready "
CPU_SECONDS = struct.Struct("=d")
NUM_FDS = 5
_REPORT_FD = 3


def run(orders: socket.socket, settings: Settings, names: dict[str, Any]) -> NoReturn:
    """Confines this process, waits for its job, runs the program and exits.

    Args:
        orders: brings the CPU seconds allowed and five descriptors: the job (to read), standard input, output and
            error, and the report (to write).
        settings: how to confine.
        names: globals that every submission starts with.
    """
    os.dup2(orders.detach(), _REPORT_FD, inheritable=False)
    os.closerange(_REPORT_FD + 1, 4096)
    in_force: list[str] | None = None
    failure: BaseException | None = None
    try:
        if settings.folder:
            in_force = confine(settings, settings.folder)
    except BaseException as error:
        failure = error
    module = types.ModuleType("__main__")
    module.__dict__.update({**names, "__builtins__": __builtins__, "__file__": "solution.py"})
    data, fds, _, _ = socket.recv_fds(socket.socket(fileno=_REPORT_FD), 64, NUM_FDS)
    if len(fds) < NUM_FDS:
        os._exit(0)  # the worker is going away
    (cpu_seconds,) = CPU_SECONDS.unpack(data)
    job_fd, *standard, report = fds  # all above 3: dup2 below overwrites none that is still needed
    os.dup2(report, _REPORT_FD, inheritable=False)
    try:
        if failure is not None:
            raise failure
        head, _, rest = _read_all(job_fd).partition(b"\n")
        job = json.loads(head)
        code, data = rest[: job["code_bytes"]], rest[job["code_bytes"] :]
        for number, fd in enumerate(standard):
            os.dup2(fd, number, inheritable=False)
        os.closerange(_REPORT_FD + 1, 4096)
        if in_force is None:
            in_force = confine(settings, job["folder"])
        limit(settings, cpu_seconds, job["memory_bytes"])
    except BaseException as error:
        _write(f"failed {type(error).__name__}: {error}".encode())
        os._exit(1)
    _write(READY + json.dumps(in_force).encode())
    sys.path += settings.extra_paths
    sys.argv[:] = ["solution.py"]
    os.environ.clear()
    if settings.extra_paths:
        os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    _finish(_execute(code.decode(), data.decode(), job["kind"], job["func_name"], module))


def _execute(code: str, data: str, kind: str, func_name: str | None, module: types.ModuleType) -> int:
    """Runs the program to its last line and returns its exit status."""
    if kind == FUNCTIONAL:  # as in LiveCodeBench, the block under `if __name__ == "__main__"` does not run
        module.__name__ = "solution"
    sys.modules[module.__name__] = module
    _note_thread_errors()
    try:
        arguments = [json.loads(line) for line in data.split("\n") if line.strip()] if kind == FUNCTIONAL else []
        program = compile(code, "solution.py", "exec", dont_inherit=True)
        exec(program, module.__dict__)  # noqa: S102 (the submission itself: confined above)
        if kind == FUNCTIONAL:
            value = _find(module.__dict__, str(func_name))(*arguments)
            _write(json.dumps({"value": value}, default=_plain).encode())
    except SystemExit as error:
        return _exit_status(error)
    except BaseException as error:
        _show(error)
        return 1
    return 0


def _find(names: dict[str, Any], func_name: str) -> Any:
    """The method ``func_name`` of an instance of ``Solution``, or the plain function of that name."""
    solution = names.get("Solution")
    if solution is not None and hasattr(solution, func_name):
        return getattr(solution(), func_name)
    if func_name not in names:
        raise NameError(f"neither a class Solution with a method {func_name!r} nor a function {func_name!r}")
    return names[func_name]


def _plain(value: Any) -> Any:
    """Numpy's scalars and arrays become plain numbers and lists; nothing else is converted."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"the returned value holds a {type(value).__name__}, which is not a JSON type")


def _exit_status(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    _show(error)
    return 1


def _show(error: BaseException) -> None:
    """Notes the exception's class for the parent and prints its traceback."""
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    _write(json.dumps({"error": "MemoryError" if no_memory else type(error).__name__}).encode())
    try:
        traceback.print_exception(error, limit=-8)
    except BaseException:  # a hostile __str__, or no memory left
        os.write(2, type(error).__name__.encode())


def _note_thread_errors() -> None:
    show = threading.excepthook

    def note(arguments: threading.ExceptHookArgs, /) -> None:
        _write(json.dumps({"error": arguments.exc_type.__name__}).encode())
        show(arguments)

    threading.excepthook = note


def _finish(status: int) -> NoReturn:
    """Ends as the interpreter would: waits for threads, runs exit handlers, flushes; then leaves at once."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except SystemExit as error:
        status = _exit_status(error)
    except BaseException as error:
        _show(error)
        status = status or 120
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        status = status or 120
    os._exit(status)


def _write(line: bytes) -> None:
    data = line + b"\n"
    try:
        while data:
            data = data[os.write(_REPORT_FD, data) :]
    except OSError:
        pass  # the submission closed or replaced the descriptor; then there is no value to report


def _read_all(fd: int) -> bytes:
    pieces = []
    while piece := os.read(fd, 1 << 20):
        pieces.append(piece)
    return b"".join(pieces)
