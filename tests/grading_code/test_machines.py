"""Machines that are not like this one: an ordinary user, no namespaces, no Linux."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aipo_env.errors import ConfigurationError
from aipo_env.grading.code import CodeGrader, CodeProblem, CodeTest
from aipo_env.grading.code import grader as grader_module
from tests.grading_code.support import needs_sandbox, settles

ROOT = Path(grader_module.__file__).parents[3]
NOBODY = 65534

SAMPLE = """
import os
from aipo_env.grading.code import CodeGrader, CodeProblem, CodeTest, CodeVerdict
import hostile, valid
assert os.getuid() != 0 and os.geteuid() != 0
hard = dict(time_limit_s=0.4, wall_limit_s=1, memory_limit_mb=128, output_limit_mb=1)
with CodeGrader(1) as grader, CodeGrader(1, allow_fork=True) as forking:
    assert grader.isolation().is_sandbox and grader.isolation().process_limit, grader.isolation()
    for name in ("input", "dev_stdin", "thread_stack", "stdlib", "solution", "float_sum", "big_output"):
        kind, code, given, expected = valid.VALID[name]
        grade = grader.grade(code, CodeProblem([CodeTest(given, expected, kind)], "f", time_limit_s=10))
        assert grade.correct, (name, grade)
    attacks = {**hostile.ESCAPES, **hostile.FORKING}
    for name in ("unshare", "mounts", "kill_everyone", "write_outside", "raise_limits", "fork_bomb", "thread_bomb"):
        grade = grader.grade(attacks[name], CodeProblem([CodeTest("1", "escaped")], **hard))
        assert grade.verdict not in (CodeVerdict.PASS, CodeVerdict.HARNESS_ERROR), (name, grade)
    for name in ("fork_until_refused", "session_escapee", "fork_bomb"):
        grade = forking.grade(hostile.FORKING[name], CodeProblem([CodeTest("1", "escaped")], **hard))
        assert grade.verdict not in (CodeVerdict.PASS, CodeVerdict.HARNESS_ERROR), (name, grade)
print("fine")
"""

REFUSED = """
import os
from aipo_env.errors import ConfigurationError
from aipo_env.grading.code import CodeGrader, CodeProblem, CodeTest
from aipo_env.grading.code.runner import linux
uid, gid = os.getuid(), os.getgid()
linux.unshare(linux.CLONE_NEWUSER)
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
with open("/proc/sys/user/max_user_namespaces", "w") as file:
    file.write("0")
problem = CodeProblem([CodeTest("4", "8")])
with CodeGrader(1) as grader:
    try:
        grader.grade("print(int(input())*2)", problem)
    except ConfigurationError as error:
        assert all(word in str(error) for word in ("unshare", "sysctl", "allow_weak_isolation=True")), error
    else:
        raise AssertionError("ran without namespaces")
with CodeGrader(1, allow_weak_isolation=True) as grader:
    grade = grader.grade("print(int(input())*2)", problem)
    assert grade.correct, grade
    assert not grade.isolation.is_sandbox and not grade.isolation.pid and grade.isolation.rlimits, grade
    where = grader.grade("import os; print(os.getcwd(), os.listdir())", problem, reveal=True).first_failure.reason
    folder = os.path.dirname(where.partition("got '")[2].partition(" ")[0])
    assert os.path.isdir(folder) and "[]" in where, where
    assert grader.grade("while 1: pass", CodeProblem(problem.tests, time_limit_s=0.3)).verdict == "time_limit"
assert not os.path.exists(folder)
print("fine")
"""


NAMESPACES_ALONE = """
from aipo_env.grading.code import CodeGrader, CodeProblem, CodeTest, CodeVerdict
import hostile, valid
hard = dict(time_limit_s=0.4, wall_limit_s=1, memory_limit_mb=128, output_limit_mb=1)
allowed = {"ptrace", "fork", "vfork", "tcp_listen", "odd_sockets", "odd_calls", "shared_memory"}  # inside, and harmless there
slow = {"undumpable", "extra_cpu", "late_output"}
with CodeGrader(1) as grader:
    isolation = grader.isolation()
    assert isolation.is_sandbox and not isolation.landlock and not isolation.seccomp, isolation
    for name, code in {**hostile.ESCAPES, **hostile.FORKING}.items():
        if name not in slow:
            grade = grader.grade(code, CodeProblem([CodeTest("1", "escaped")], **hard))
            assert grade.verdict is not CodeVerdict.HARNESS_ERROR, (name, grade)
            assert grade.verdict is not CodeVerdict.PASS or name in allowed, (name, grade)
    traced = "import ctypes,os,signal\\nctypes.CDLL(None).ptrace(0,0,0,0)\\nos.kill(os.getpid(),signal.SIGSTOP)\\nos.abort()"
    assert not grader.grade(traced, CodeProblem([CodeTest("1", "escaped")], **hard)).correct
    for name in ("input", "dev_stdin", "stdlib", "solution"):
        kind, code, given, expected = valid.VALID[name]
        grade = grader.grade(code, CodeProblem([CodeTest(given, expected, kind)], "f", time_limit_s=10))
        assert grade.correct, (name, grade)
print("fine")
"""

ODD_CALLER = """
import os, signal, socket
from aipo_env.grading.code import CodeGrader, CodeProblem, CodeTest
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
import resource
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
if most == resource.RLIM_INFINITY or most >= 6000:
    resource.setrlimit(resource.RLIMIT_NOFILE, (6000, most))
    held = [os.dup(2) for _ in range(5000)]
os.umask(0o777)
os.close(0)
code = "import os\\nprint(sorted(os.listdir('/proc/self/fd'))[:4], input())"
with CodeGrader(1) as grader:
    for _ in range(2):
        grade = grader.grade(code, CodeProblem([CodeTest("1", "['0', '1', '2', '3'] 1")]), reveal=True)
        assert grade.correct, grade
    count = "import os\\nprint(len(os.listdir('/proc/self/fd')))"  # 0, 1, 2, the report, and the listing's own
    assert grader.grade(count, CodeProblem([CodeTest("", "5")]), reveal=True).correct
print("fine")
"""


@pytest.fixture
def copy() -> Iterator[Path]:
    """The grader alone, in a folder that every user may read; it needs nothing but the standard library."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        package = folder / "aipo_env"
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "aipo_env" / "grading" / "code", package / "grading" / "code", ignore=ignore)
        for module in ("errors.py", "fences.py"):
            shutil.copy(ROOT / "aipo_env" / module, package)
        (package / "__init__.py").touch()
        (package / "grading" / "__init__.py").touch()
        for module in ("hostile.py", "valid.py"):
            shutil.copy(Path(__file__).with_name(module), folder)
        yield folder


def run(folder: Path, program: str, interpreter: str, user: int | None = None) -> None:
    command = f"import sys; sys.dont_write_bytecode = True; sys.path.insert(0, {str(folder)!r})\n{program}"
    result = subprocess.run(
        [interpreter, "-c", command],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=120,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "fine\n"


def interpreter_for(user: int) -> str:
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            check = "import sys; sys.exit(sys.version_info < (3, 11))"
            subprocess.run([candidate, "-c", check], user=user, group=user, extra_groups=[], check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        return candidate
    pytest.skip("no Python >= 3.11 that an ordinary user may run")


@needs_sandbox
def test_as_an_ordinary_user(copy: Path) -> None:
    if os.geteuid() == 0:
        run(copy, SAMPLE, interpreter_for(NOBODY), NOBODY)
    else:
        run(copy, SAMPLE, sys.executable)


@needs_sandbox
def test_without_namespaces_it_refuses_and_says_what_to_do(copy: Path) -> None:
    run(copy, REFUSED, sys.executable)


@needs_sandbox
def test_namespaces_hold_without_landlock_and_seccomp(copy: Path) -> None:
    supervisor = copy / "aipo_env" / "grading" / "code" / "runner" / "supervisor.py"
    text = supervisor.read_text()
    for old, new in (("landlock=landlock.version()", "landlock=0"), ("seccomp=seccomp.available()", "seccomp=False")):
        assert old in text
        text = text.replace(old, new)
    supervisor.write_text(text)
    run(copy, NAMESPACES_ALONE, sys.executable)


@needs_sandbox
def test_callers_signals_umask_and_descriptors_do_not_matter(copy: Path) -> None:
    run(copy, ODD_CALLER, sys.executable)


@needs_sandbox
def test_nothing_survives_a_killed_caller(copy: Path) -> None:
    program = (
        f"import sys; sys.dont_write_bytecode = True; sys.path.insert(0, {str(copy)!r})\n"
        "from aipo_env.grading.code import *\n"
        "grader = CodeGrader(1, allow_fork=True); grader.isolation(); print('ready', flush=True)\n"
        "code = 'import os,time\\nos.fork()\\nos.setsid() if os.getpid()>1 else 0\\ntime.sleep(60)'\n"
        "grader.grade(code, CodeProblem([CodeTest('', '')], time_limit_s=60))\n"
    )

    def alive() -> int:
        count = 0
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                count += entry.name.isdigit() and str(copy).encode() in (entry / "cmdline").read_bytes()
        return count

    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd="/") as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"ready\n"
        assert settles(lambda: alive() >= 4)  # the caller, the supervisor, the zygote, the submission
        caller.kill()
    assert settles(lambda: alive() == 0)


@pytest.mark.parametrize("weak", [False, True])
def test_elsewhere_than_on_linux_it_refuses(weak: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grader_module, "_platform", lambda: "darwin")
    with CodeGrader(1, allow_weak_isolation=weak) as grader, pytest.raises(ConfigurationError, match="darwin"):
        grader.grade("print(1)", CodeProblem([CodeTest("", "1")]))
