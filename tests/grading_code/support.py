"""Shared by the tests of this folder."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aipo_env.errors import ConfigurationError
from aipo_env.grading.code import CodeGrader


def _can_isolate() -> bool:
    if sys.platform != "linux":
        return False
    try:
        with CodeGrader(1) as grader:
            return grader.isolation().is_sandbox
    except ConfigurationError:
        return False


needs_sandbox = pytest.mark.skipif(not _can_isolate(), reason="this machine does not permit namespaces")


def settles(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether the condition comes true within some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def settled_processes() -> set[int]:
    """The descendants of this process, once idle workers have forked the process for their next test."""
    found, before = sandbox_processes(), set[int]()
    while found != before:
        time.sleep(0.2)
        found, before = sandbox_processes(), found
    return found


def sandbox_processes() -> set[int]:
    """The sandbox's processes below this one: its supervisors and all that they started. Other tests have others."""
    supervisors = {pid for pid in processes_below(os.getpid()) if b"runner.supervisor" in command_line(pid)}
    return supervisors.union(*(processes_below(pid) for pid in supervisors))


def command_line(pid: int) -> bytes:
    """The command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def processes_below(pid: int) -> set[int]:
    """The process ids of all living descendants."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)] = int(fields[1])
    found = {pid}
    while True:
        more = {child for child, parent in parents.items() if parent in found} - found
        if not more:
            return found - {pid}
        found |= more
