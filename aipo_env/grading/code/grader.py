"""Grades submissions in parallel: from any thread, from asyncio, from several processes."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from aipo_env.errors import ConfigurationError
from aipo_env.grading.code.grade import CodeFailure, CodeGrade, CodeVerdict
from aipo_env.grading.code.isolation import Isolation
from aipo_env.grading.code.judge import judge
from aipo_env.grading.code.problem import CodeProblem, CodeTest
from aipo_env.grading.code.worker import Run, Worker, WorkerError

_REMEDY = (
    "Allow unprivileged user namespaces (sysctl user.max_user_namespaces above 0; on Debian "
    "kernel.unprivileged_userns_clone=1; on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0; in a container, "
    "a seccomp profile that permits unshare, mount and pivot_root, or --privileged), or pass "
    "allow_weak_isolation=True if you trust the programs: what is left then is not a sandbox."
)
_EMPTY = CodeProblem([CodeTest("", "")])


class CodeGrader:
    """Runs untrusted Python programs in sandboxes and judges what they produce.

    Each worker runs one test at a time, in a fresh process. Workers start when they are first needed and are
    replaced when they fail. Close the grader, or use it as a context manager; it is also closed at exit.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        allow_weak_isolation: bool = False,
        allow_fork: bool = False,
        extra_paths: Sequence[str] = (),
    ) -> None:
        """Prepares a grader; nothing is started yet.

        Args:
            workers: how many tests run at once; by default one for each CPU core that this process may use.
            allow_weak_isolation: run even where namespaces are refused. Not a sandbox: for trusted programs only.
            allow_fork: let submissions fork. By default only threads are possible, which bounds a test's memory.
            extra_paths: directories with packages that submissions may import, for instance one with numpy.

        Raises:
            ConfigurationError: ``workers`` is below 1, or a path is not an absolute directory.
        """
        if workers is not None and workers < 1:
            raise ConfigurationError(f"workers={workers}: expected at least 1. Leave it out for one per core.")
        for path in extra_paths:
            if not (os.path.isabs(path) and os.path.isdir(path)):
                raise ConfigurationError(f"extra_paths: {path!r} is not an absolute path of a directory. Correct it.")
        self.workers = workers or _num_cores()
        self._allow_weak = allow_weak_isolation
        self._allow_fork = allow_fork
        self._extra_paths = tuple(extra_paths)
        self._strategy: str | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self.workers)
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._threads: ThreadPoolExecutor | None = None
        _GRADERS.add(self)

    def grade(
        self, code: str, problem: CodeProblem, *, stop_at_first_failure: bool = True, reveal: bool = False
    ) -> CodeGrade:
        """Runs a program on the tests of a problem and says how it did; blocks, may be called from any thread.

        Args:
            code: the program. Only ever pass text that the policy wrote.
            problem: the tests and limits.
            stop_at_first_failure: leave out the tests after the first failure.
            reveal: let the reason of a failure quote the expected output. Never show such a reason to a policy.

        Raises:
            ConfigurationError: this machine cannot isolate programs and weak isolation was not allowed, or the
                grader is closed.
            DataFormatError: an expected output is not what its test's kind demands.
        """
        source = code.encode(errors="replace")
        passed, cpu, wall = 0, 0.0, 0.0
        first: CodeFailure | None = None
        isolation: Isolation | None = None
        for index, test in enumerate(problem.tests):
            try:
                run = self._run(source, problem, test)
            except WorkerError as error:
                first = CodeFailure(index, CodeVerdict.HARNESS_ERROR, str(error)[:300])
                break
            # The record must hold for the whole grade: what was in force in every run.
            isolation = run.isolation if isolation is None else isolation & run.isolation
            cpu += run.cpu_seconds
            wall += run.wall_seconds
            verdict, reason = judge(run, problem, test, reveal)
            if verdict is CodeVerdict.PASS:
                passed += 1
                continue
            first = first or CodeFailure(index, verdict, reason)
            if stop_at_first_failure:
                break
        verdict = CodeVerdict.PASS if first is None else first.verdict
        return CodeGrade(verdict, passed, len(problem.tests), first, isolation or Isolation(), cpu, wall)

    async def grade_async(
        self, code: str, problem: CodeProblem, *, stop_at_first_failure: bool = True, reveal: bool = False
    ) -> CodeGrade:
        """Does what `grade` does without blocking the event loop."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="code-grader")
            threads = self._threads

        def call() -> CodeGrade:
            return self.grade(code, problem, stop_at_first_failure=stop_at_first_failure, reveal=reveal)

        return await asyncio.get_running_loop().run_in_executor(threads, call)

    def isolation(self) -> Isolation:
        """Runs an empty program and returns the mechanisms that were in force.

        Raises:
            ConfigurationError: this machine cannot isolate programs and weak isolation was not allowed.
        """
        return self.grade("", _EMPTY).isolation

    def close(self) -> None:
        """Ends the workers; calls that are running raise ConfigurationError."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, None
            workers, self._all = list(self._all), set()
            self._idle.clear()
        for worker in workers:
            worker.close()
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    def _is_closed(self) -> bool:
        return self._closed

    def _abandon(self) -> None:
        """In a forked child: the workers belong to the parent; locks and threads did not survive the fork."""
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self.workers)
        self._threads = None
        self._idle.clear()
        for worker in self._all:
            worker.abandon()
        self._all.clear()

    def _run(self, code: bytes, problem: CodeProblem, test: CodeTest) -> Run:
        with self._slots:
            try:
                with self._borrow() as worker:
                    return worker.run(code, problem, test)
            except WorkerError:
                with self._borrow(fresh=True) as worker:  # once more
                    return worker.run(code, problem, test)

    @contextlib.contextmanager
    def _borrow(self, fresh: bool = False) -> Iterator[Worker]:
        with self._lock:
            if self._is_closed():
                raise _closed_error()
            worker = self._idle.pop() if self._idle and not fresh else None
        if worker is None:
            worker = self._start()
            with self._lock:
                late = self._is_closed()
                if not late:
                    self._all.add(worker)
            if late:
                worker.close()
                raise _closed_error()
        try:
            yield worker
        except BaseException:
            with self._lock:
                self._all.discard(worker)
            worker.close()
            raise
        with self._lock:
            if worker in self._all:  # else the grader was closed, and the worker with it
                self._idle.append(worker)

    def _start(self) -> Worker:
        if _platform() != "linux":
            raise ConfigurationError(
                f"running untrusted programs needs Linux (namespaces); this is {_platform()}. "
                "Grade code on a Linux machine or in a Linux virtual machine."
            )
        if self._strategy is not None:
            return Worker(self._strategy, self._extra_paths, self._allow_fork)
        failures = []
        strategies = [*(["root"] if os.geteuid() == 0 else []), "user", *(["weak"] if self._allow_weak else [])]
        for strategy in strategies:
            try:
                worker = Worker(strategy, self._extra_paths, self._allow_fork)
                try:
                    worker.run(b"", _EMPTY, _EMPTY.tests[0])
                except WorkerError:
                    worker.close()
                    raise
            except WorkerError as error:
                failures.append(f"{strategy}: {error}")
                continue
            self._strategy = strategy
            return worker
        raise ConfigurationError(
            "untrusted programs run only inside user, mount, pid, network, ipc and uts namespaces, and this machine "
            f"refuses them ({'; '.join(failures)}). {_REMEDY}"
        )


def _closed_error() -> ConfigurationError:
    return ConfigurationError("this grader is closed. Make a new one.")


def _platform() -> str:
    return sys.platform


def _num_cores() -> int:
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


_GRADERS: weakref.WeakSet[CodeGrader] = weakref.WeakSet()


def _close_all() -> None:
    for grader in list(_GRADERS):
        grader.close()


def _abandon_all() -> None:
    for grader in list(_GRADERS):
        grader._abandon()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_abandon_all)
