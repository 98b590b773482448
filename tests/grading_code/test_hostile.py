from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aipo_env.grading.code import CodeGrade, CodeGrader, CodeProblem, CodeTest, CodeVerdict
from tests.grading_code import hostile
from tests.grading_code.support import needs_sandbox, sandbox_processes, settles

pytestmark = needs_sandbox

ANSWER = "answer-" + os.urandom(8).hex()
MARKER = "marker-" + os.urandom(8).hex()
# A supervisor, a zygote and the process for the next test, for each of the two graders of this file.
OURS = 6
LIMITS = {"time_limit_s": 0.4, "wall_limit_s": 1.0, "memory_limit_mb": 128, "output_limit_mb": 1}


@pytest.fixture(scope="module")
def grader() -> Iterator[CodeGrader]:
    with CodeGrader(1) as grader:
        yield grader


@pytest.fixture(scope="module")
def forking_grader() -> Iterator[CodeGrader]:
    with CodeGrader(1, allow_fork=True) as grader:
        yield grader


@pytest.fixture(scope="module")
def answers_on_the_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """The answer in a file that everybody may read, and served on a TCP port and an abstract socket."""
    path = Path("/tmp") / f"code-grader-test-{os.getpid()}"
    path.write_text(ANSWER)
    path.chmod(0o644)
    abstract = f"code-grader-test-{os.getpid()}"
    servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
    servers[1].bind("\0" + abstract)
    servers[1].listen()

    def serve(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(ANSWER.encode())

    threads = [threading.Thread(target=serve, args=(server,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    yield {"file": str(path), "port": servers[0].getsockname()[1], "abstract": abstract, "marker": MARKER[::-1]}
    for server in servers:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
    path.unlink()


def check(grade: CodeGrade) -> None:
    assert grade.verdict not in (CodeVerdict.PASS, CodeVerdict.HARNESS_ERROR), grade
    assert grade.passed == 0
    assert not grade.correct
    assert grade.first_failure is not None
    assert ANSWER not in grade.first_failure.reason
    assert grade.isolation.is_sandbox


def test_there_are_enough() -> None:
    count = len({**hostile.CHEATS, **hostile.FUNCTIONAL_CHEATS, **hostile.ESCAPES, **hostile.FORKING})
    assert count >= 40


@pytest.mark.parametrize("name", hostile.FUNCTIONAL_CHEATS)
def test_functional_cheat(name: str, grader: CodeGrader) -> None:
    problem = CodeProblem([CodeTest("1", f'[1, "{ANSWER}", 2.5]', "functional")], "f", **LIMITS)
    check(grader.grade(hostile.FUNCTIONAL_CHEATS[name], problem))


@pytest.mark.parametrize("name", hostile.CHEATS)
def test_cheat(name: str, grader: CodeGrader, answers_on_the_host: dict[str, object]) -> None:
    code = hostile.CHEATS[name]
    with contextlib.suppress(KeyError, IndexError, ValueError):
        code = code.format(**answers_on_the_host)
    if name == "own_memory":  # an earlier submission that had the answer in its text, its input and its output
        earlier = CodeProblem([CodeTest(f"{MARKER}<{ANSWER}>", f"{MARKER}<{ANSWER}>")])
        assert grader.grade(f"print(input())\nx='{MARKER}<{ANSWER}>'", earlier).correct
    check(grader.grade(code, CodeProblem([CodeTest("1", ANSWER)], **LIMITS)))


@pytest.mark.parametrize("name", {**hostile.ESCAPES, **hostile.FORKING})
def test_escape(name: str, grader: CodeGrader) -> None:
    code = {**hostile.ESCAPES, **hostile.FORKING}[name]
    check(grader.grade(code, CodeProblem([CodeTest("1", "escaped")], **LIMITS)))


@pytest.mark.parametrize("name", [name for name in hostile.FORKING if name not in ("fork", "vfork")])
def test_forking_escape_where_forks_are_allowed(name: str, forking_grader: CodeGrader) -> None:
    """Without the filter's help: the process limit and the pid namespace hold, and nothing is left running."""
    check(forking_grader.grade(hostile.FORKING[name], CodeProblem([CodeTest("1", "escaped")], **LIMITS)))
    assert settles(lambda: len(sandbox_processes()) <= OURS)


def test_memory_scan_would_find_its_own_input(grader: CodeGrader, answers_on_the_host: dict[str, object]) -> None:
    """The scan of `own_memory` works: it finds what its own process was given."""
    code = hostile.CHEATS["own_memory"].format(**answers_on_the_host)
    held = f"h={'<'.join([MARKER, 'found'])!r}+'>'\nh=h.encode()*2\n"
    assert grader.grade(held + code, CodeProblem([CodeTest("", "found")])).correct


def test_nothing_is_left_and_the_worker_still_works(grader: CodeGrader) -> None:
    for name in ("kill_everyone", "ptrace", "closed_descriptors"):
        code = {**hostile.CHEATS, **hostile.ESCAPES}[name]
        check(grader.grade(code, CodeProblem([CodeTest("1", ANSWER)], **LIMITS)))
    assert grader.grade("print(1)", CodeProblem([CodeTest("", "1")])).correct
    assert settles(lambda: len(sandbox_processes()) <= OURS)


def test_the_answer_is_there_for_the_taking_without_a_sandbox(answers_on_the_host: dict[str, object]) -> None:
    """The traps are armed: an ordinary process does get the answer."""
    assert Path(str(answers_on_the_host["file"])).read_text() == ANSWER
    with socket.create_connection(("127.0.0.1", int(str(answers_on_the_host["port"])))) as connection:
        assert connection.recv(99).decode() == ANSWER
    assert sys.platform == "linux"
