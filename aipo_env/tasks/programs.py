"""Answers that are programs: the tests of a data set's rows, and grading in a sandbox."""

from __future__ import annotations

import ast
import asyncio
import functools
import json
import os
import re
import threading
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from aipo_env.errors import DataFormatError
from aipo_env.grading import Grade, Verdict
from aipo_env.grading.code import CodeGrader, CodeProblem, CodeTest, Isolation, extract_code

MAX_CACHED_CHARS = 256_000_000
"""Of the tests that stay in memory; unpacking the largest ones takes longer than running them."""
MIN_TESTS, MAX_TESTS, MAX_TEST_CHARS = 5, 64, 20_000
"""Of a training problem: with fewer tests wrong programs pass; of more, the longest up to a length are kept."""

_STDIN = "The program reads its input from standard input and writes its answer to standard output."
_NAMED = "Write a function `{function}`. It is called from outside."
_STARTER = "Complete this code. It is called from outside: keep its names and arguments.\n```python\n{starter}\n```"
_INSTRUCTIONS = re.compile(rf"\n\n(?:{re.escape(_STDIN)}|Write a function `|Complete this code\. It is called)")
_KINDS = {"stdin": False, "stdin_stdout": False, "functional": True, "function_call": True}
_FAILED = ("Error:", "Execution timed out")
"""How outputs begin that were recorded of solutions that failed."""


def with_instructions(problem: str, starter: str, function: str | None = None) -> str:
    """A problem with how its program is called: from the starter code, by a function's name, or over standard input."""
    starter = starter.strip("\n")
    named = _STDIN if function is None else _NAMED.format(function=function)
    return f"{problem.strip()}\n\n{_STARTER.format(starter=starter) if starter.strip() else named}"


def pack(problem: CodeProblem) -> bytes:
    """The tests of a problem in less memory; most sets are larger than it with them unpacked."""
    tests = [(test.input, test.output) for test in problem.tests]
    return zlib.compress(json.dumps([problem.func_name, tests]).encode())


def unpack(packed: bytes) -> CodeProblem:
    """The inverse of `pack`."""
    function, tests = json.loads(zlib.decompress(packed))
    return CodeProblem([CodeTest(i, o, "functional" if function else "stdin") for i, o in tests], function)


def without_instructions(problem: str) -> str:
    """A problem as it was before `with_instructions`, whose words all programs have in common."""
    return _INSTRUCTIONS.split(problem, maxsplit=1)[0]


class Programs:
    """Grades programs against tests that are unpacked when they are needed, those that were used last staying unpacked.

    Args:
        unpack: the tests of the task with this id.
        allow_weak_isolation: grades even where this machine cannot isolate programs.
    """

    _lock = threading.RLock()  # of the class: what an instance holds can be pickled

    def __init__(self, unpack: Callable[[str], CodeProblem], *, allow_weak_isolation: bool = False) -> None:
        self._unpack, self._allow_weak_isolation = unpack, allow_weak_isolation
        self._kept: dict[str, tuple[CodeProblem, int]] = {}
        self._chars = 0
        self._isolation: Isolation | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Programs, allow_weak_isolation=self._allow_weak_isolation), (self._unpack,)

    def grade(self, task_id: str, answer: str) -> Grade:
        """Runs the program of an answer on the tests.

        Raises:
            GradingError: the sandbox failed, which says nothing about the program.
            ConfigurationError: this machine cannot isolate programs.
        """
        code = extract_code(answer)
        if code is None:
            if "```" in answer or not answer.strip():
                verdict = Verdict.UNPARSABLE if answer.strip() else Verdict.NO_ANSWER
                return Grade(False, verdict, "code.none", None)
            code = answer
        result = _shared_grader(self._allow_weak_isolation).grade(code, self._problem(task_id))
        correct = result.correct  # raises where the sandbox failed
        with self._lock:
            self._isolation = result.isolation if self._isolation is None else self._isolation & result.isolation
        return Grade(correct, Verdict.CORRECT if correct else Verdict.WRONG, f"code.{result.verdict.value}", code)

    async def grade_async(self, task_id: str, answer: str) -> Grade:
        """As `grade`, in a thread; as many programs run at once as this machine has cores."""
        threads = _threads(os.getpid(), _shared_grader(self._allow_weak_isolation).workers)
        return await asyncio.get_running_loop().run_in_executor(threads, self.grade, task_id, answer)

    def isolation(self) -> dict[str, object]:
        """What stood between every program that was graded so far and the machine; before the first, what would.

        Raises:
            ConfigurationError: this machine cannot isolate programs.
        """
        with self._lock:
            in_force = self._isolation
        if in_force is None:
            in_force = _shared_grader(self._allow_weak_isolation).isolation()
        return {"is_sandbox": in_force.is_sandbox, "in_force": list(in_force.in_force)}

    def _problem(self, task_id: str) -> CodeProblem:
        # One at a time: two threads would unpack the same tests twice.
        with self._lock:
            if task_id in self._kept:
                self._kept[task_id] = self._kept.pop(task_id)
                return self._kept[task_id][0]
            problem = self._unpack(task_id)
            size = sum(len(test.input) + len(test.output) for test in problem.tests)
            self._kept[task_id] = problem, size
            self._chars += size
            while self._chars > MAX_CACHED_CHARS and len(self._kept) > 1:
                self._chars -= self._kept.pop(next(iter(self._kept)))[1]
            return problem


@functools.lru_cache(maxsize=2)
def _shared_grader(allow_weak_isolation: bool) -> CodeGrader:
    """One for all families of this process: its workers are as many as the cores. It starts none before it is used."""
    return CodeGrader(allow_weak_isolation=allow_weak_isolation)


@functools.lru_cache(maxsize=1)
def _threads(pid: int, workers: int) -> ThreadPoolExecutor:
    """The threads that wait for programs; a forked child has none of its parent's."""
    return ThreadPoolExecutor(workers, thread_name_prefix="aipo-programs")


def read_tests(value: object, where: str, *, starter: str = "", function: str | None = None) -> CodeProblem | None:
    """The tests of a row, in any of the forms that data sets have; None where too few can be used.

    - a list of {"input", "output"}, with "testtype" or "type" and perhaps "fn_name", or {"inputs", "outputs"} with perhaps
      "fn_name"; or JSON of either;
    - input of a function: a list of arguments, JSON of one argument a line, or Python ("nums = [3, 3], target = 6").

    Args:
        value: what stands in the row's field.
        where: names it in errors.
        starter: code that the program completes; a function that returns `str` gives its output as it is.
        function: the function that tests call, where the tests do not say.

    Raises:
        DataFormatError: it is none of these.
    """
    try:
        found: Any = json.loads(value) if isinstance(value, str) else value
        function = (found.get("fn_name") if isinstance(found, Mapping) else found[0].get("fn_name")) or function
        if isinstance(found, Mapping):
            pairs = zip(found["inputs"], found["outputs"], strict=True)
            tests = [{"input": given, "output": expected} for given, expected in pairs]
        else:
            tests = [dict(test) for test in found]
        kinds = {_KINDS[str(t.get("testtype", t.get("type", "functional" if function else "stdin")))] for t in tests}
        raw = [(test["input"], test["output"]) for test in tests]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataFormatError(
            f"{where}: expected tests as a list of objects with 'input' and 'output' and 'testtype' or 'type' (one of "
            f"{', '.join(_KINDS)}), or as 'inputs' and 'outputs', or JSON of these ({error!r}). Take an earlier revision."
        ) from error
    if len(kinds) != 1 or (kinds == {True} and function is None):
        return None
    if kinds == {True}:
        assert function is not None
        # Some sets wrap every output in a list.
        wrapped = all(isinstance(o, list) and len(o) == 1 and isinstance(i, list) for i, o in raw)
        made = [_functional(i, o[0] if wrapped else o, "-> str" in starter) for i, o in raw]
    else:
        function, made = None, [CodeTest(_text(i), _text(o)) for i, o in raw]
    usable = [test for test in made if test is not None and len(test.input) + len(test.output) <= MAX_TEST_CHARS]
    usable.sort(key=lambda test: -len(test.input))
    return CodeProblem(usable[:MAX_TESTS], function) if len(usable) >= MIN_TESTS else None


def _text(value: object) -> str:
    """Standard input or output; a list has a line for each part."""
    lines = value if isinstance(value, list) else [value]
    return "\n".join(map(str, lines)).replace("\r\n", "\n")


def _functional(given: object, expected: object, returns_text: bool) -> CodeTest | None:
    """A call of a function, in JSON; None where it cannot be written so."""
    try:
        if isinstance(given, str):
            given = _arguments(given)
        if isinstance(expected, str):
            if expected.startswith(_FAILED):
                return None
            expected = expected if returns_text else _value(expected)
        arguments = [_json(argument) for argument in cast("list[object]", given)]
        return CodeTest("\n".join(arguments), _json(expected), "functional")
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _arguments(text: str) -> list[object]:
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call):
            raise
        return [ast.literal_eval(node) for node in (*call.args, *(keyword.value for keyword in call.keywords))]


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text)


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False)
