"""What the commands have in common: examples, config files, output for scripts, and Ctrl-C."""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

Command = TypeVar("Command", bound=Callable[..., object])

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


def command(*examples: str) -> Callable[[Command], Command]:
    """Tells `aipo` more about a command than its signature and its docstring do.

    Args:
        examples: command lines that its --help ends with, each with a comment behind two blanks and a "#".
    """

    def tell(function: Command) -> Command:
        function.__dict__.update(examples=examples)
        return function

    return tell


def print_json(value: object) -> None:
    """Prints one JSON document, the only thing that a command with --json writes to standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def interrupted(message: str) -> int:
    """Says on standard error that Ctrl-C ended the command, what is kept and how it goes on; returns the exit code."""
    print(f"aipo: interrupted. {message}", file=sys.stderr)
    return INTERRUPTED


@contextmanager
def repeats_collapsed() -> Iterator[None]:
    """Inside, a warning that comes again, numbers apart, is counted and not shown; the end says how often each came."""
    seen: dict[tuple[str, str], list[str]] = {}

    def is_new(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        message = record.getMessage()
        like = seen.setdefault((record.name, re.sub(r"\w*\d\w*", "#", message)), [])
        like.append(message)
        return len(like) == 1

    logs = [logging.getLogger(name) for name in ("aipo_env", "aipo_agents")]
    for log in logs:
        log.addFilter(is_new)
    try:
        yield
    finally:
        for log in logs:
            log.removeFilter(is_new)
        for (name, _), like in seen.items():
            if len(like) > 1:
                logging.getLogger(name).warning("%d times in all: %s", len(like), like[-1])


class StopRequest:
    """Whether Ctrl-C was pressed; see `finish_first`."""

    asked = False


@contextmanager
def finish_first(notice: str) -> Iterator[StopRequest]:
    """Inside, the first Ctrl-C is a request that the caller reads between two steps; the second one interrupts.

    SIGTERM and SIGHUP, which batch systems and closing terminals send, some of them twice, count as the first one. Outside of
    the main thread, where no signal arrives, nothing changes; nor for a signal that is ignored, as Ctrl-C is for a job in the
    background of a script.

    Args:
        notice: what is said on standard error at the first Ctrl-C.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: object) -> None:
        if request.asked:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        request.asked = True
        # Where a terminal was closed there is nobody to read it.
        with suppress(OSError):
            print(f"aipo: {notice}", file=sys.stderr, flush=True)

    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in signals}
    taken = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in taken:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
