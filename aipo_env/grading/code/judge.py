"""From what one test run produced to a verdict on it."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from aipo_env.errors import DataFormatError
from aipo_env.grading.code.compare import difference_in_text, difference_in_value, parse_json, too_long
from aipo_env.grading.code.grade import CodeVerdict
from aipo_env.grading.code.problem import CodeProblem, CodeTest
from aipo_env.grading.code.worker import Run

_LONGEST_REASON = 300


def judge(run: Run, problem: CodeProblem, test: CodeTest, reveal: bool = False) -> tuple[CodeVerdict, str]:
    """Decides one test.

    Args:
        run: what the submission produced.
        problem: its limits.
        test: what was expected.
        reveal: whether the reason may quote the expected output.

    Returns:
        The verdict and, unless it is ``PASS``, the reason in one line.

    Raises:
        DataFormatError: the test itself is broken.
    """
    errors, values = _read_report(run.report)
    out_of_memory = "MemoryError" in errors
    if run.killed == "output":
        return CodeVerdict.OUTPUT_LIMIT, f"more than {problem.output_limit_mb} MiB of output"
    if run.killed == "cpu" or run.cpu_seconds > problem.time_limit_s:
        return CodeVerdict.TIME_LIMIT, f"more than {problem.time_limit_s:g} s of CPU time"
    if run.killed == "wall":
        return CodeVerdict.TIME_LIMIT, f"still waiting after {problem.wall_seconds:g} s"
    if run.status != 0:
        if out_of_memory or _killed_for_memory(run, problem):
            return CodeVerdict.MEMORY_LIMIT, f"more than {problem.memory_limit_mb} MiB of memory"
        return CodeVerdict.RUNTIME_ERROR, _describe_end(run)
    if test.kind == "stdin":
        got = run.stdout.decode("utf-8", errors="replace")
        difference = difference_in_text(got, test.output)
    else:
        got, difference = _judge_value(values, test)
    if difference is None:
        return CodeVerdict.PASS, ""
    if out_of_memory:
        return CodeVerdict.MEMORY_LIMIT, f"more than {problem.memory_limit_mb} MiB of memory"
    if errors:
        return CodeVerdict.RUNTIME_ERROR, _describe_end(run)
    if reveal:
        difference += f"; got {_excerpt(got)}, expected {_excerpt(test.output)}"
    return CodeVerdict.WRONG, _one_line(difference)


def _judge_value(values: list[bytes], test: CodeTest) -> tuple[str, str | None]:
    try:
        expected = parse_json(test.output)
    except ValueError as error:
        raise DataFormatError(
            f"the expected output of a functional test is not JSON ({error}). Repair the test or make it 'stdin'."
        ) from error
    if not values:
        return "", "no value was returned"
    if too_long(values[-1], test.output):
        return "", "the returned value is much too long"
    try:
        got = parse_json(values[-1])["value"]
    except (ValueError, TypeError, KeyError, UnicodeDecodeError):
        return "", "the returned value is not JSON"
    return json.dumps(got), difference_in_value(got, expected)


def _read_report(report: bytes) -> tuple[list[str], list[bytes]]:
    """Splits the report into names of exceptions and returned values; whatever else it holds is ignored."""
    errors: list[str] = []
    values: list[bytes] = []
    for line in report.splitlines():
        if line.startswith(b'{"value": '):
            values.append(line)
        elif line.startswith(b'{"error": ') and len(line) < _LONGEST_REASON:
            try:
                entry: Any = json.loads(line)
            except ValueError:
                continue
            errors.append(str(entry.get("error")))
    return errors, values


def _killed_for_memory(run: Run, problem: CodeProblem) -> bool:
    if os.WIFSIGNALED(run.status):
        nearly = run.resident_bytes > 0.8 * (problem.memory_limit_mb << 20)
        # A SIGKILL that nobody here sent comes from the kernel's out-of-memory killer.
        return nearly or (os.WTERMSIG(run.status) == signal.SIGKILL and not run.killed)
    return False


def _describe_end(run: Run) -> str:
    lines = run.stderr.decode("utf-8", errors="replace").strip().splitlines()
    last = f": {lines[-1]}" if lines else ""
    if os.WIFSIGNALED(run.status):
        number = os.WTERMSIG(run.status)
        return _one_line(f"killed by signal {number}{last}")
    return _one_line(f"exit status {os.WEXITSTATUS(run.status)}{last}")


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "...")


def _one_line(text: str) -> str:
    line = "".join(c if c.isprintable() else " " for c in text[: 2 * _LONGEST_REASON])
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 3] + "..."
