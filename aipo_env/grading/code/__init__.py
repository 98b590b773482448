"""A sandbox and grader for untrusted Python programs, in LiveCodeBench's format.

    from aipo_env.grading.code import CodeGrader, CodeProblem, CodeTest, extract_code

    with CodeGrader() as grader:
        grade = grader.grade("print(int(input()) * 2)", CodeProblem([CodeTest("21", "42")]))
    assert grade.correct

Covered, on Linux with user namespaces:
    The process that runs a submission never holds an expected output, nor the code, input or output of another
    submission; the comparison happens here, on text and plain JSON types. Each test runs in a fresh process without
    capabilities, in namespaces of its own, with a private root that holds the standard library only, an empty
    environment, and a private temporary directory in memory. Landlock and a system call filter are added where the
    kernel has them. CPU time, address space, open files, file sizes and output are limited, the process tree is
    killed and reaped. `CodeGrade.isolation` names what was in force.

Not covered:
    Holes in the kernel itself: for determined attackers use a virtual machine around the whole grader. Side channels
    (timing, shared caches, load). Memory counts per process: with ``allow_fork`` the processes of one test may
    together use a multiple of the limit. A submission can see the names and contents of the host's shared libraries
    and standard library, the kernel version, and its own resource limits. Without a seccomp table for the
    instruction set (x86-64 and aarch64 have one) forking is limited in number, not forbidden, and memory behind
    descriptors (memfd) counts towards no limit. In a container that masks parts of /proc, the sandbox has no /proc,
    and ``open("/dev/stdin")`` fails there. Bubblewrap is not used: it needs the same namespaces. Submissions are
    Python programs for the interpreter that grades them; they cannot start programs, and nothing is shared between
    the tests of one problem. Windows line ends in the input are turned into this system's.
"""

from __future__ import annotations

from aipo_env.grading.code.extract import extract_code
from aipo_env.grading.code.grade import CodeFailure, CodeGrade, CodeVerdict
from aipo_env.grading.code.grader import CodeGrader
from aipo_env.grading.code.isolation import Isolation
from aipo_env.grading.code.livecodebench import load_lcb_problem, load_lcb_tests
from aipo_env.grading.code.problem import CodeProblem, CodeTest

__all__ = [
    "CodeFailure",
    "CodeGrade",
    "CodeGrader",
    "CodeProblem",
    "CodeTest",
    "CodeVerdict",
    "Isolation",
    "extract_code",
    "load_lcb_problem",
    "load_lcb_tests",
]
