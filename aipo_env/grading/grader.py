"""The grading engine: exact and symbolic rules in this process, computer algebra in killable workers."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import TracebackType

from aipo_env.grading import exact
from aipo_env.grading.arithmetic import OutOfBudget
from aipo_env.grading.choices import extract_choice, grade_choice
from aipo_env.grading.clean import Refused, clean
from aipo_env.grading.compare import compare
from aipo_env.grading.extract import extract_answer
from aipo_env.grading.guard import check_for_algebra
from aipo_env.grading.nodes import Node
from aipo_env.grading.parser import Unreadable, parse
from aipo_env.grading.policy import MATH500, GradingPolicy
from aipo_env.grading.pool import WorkerPool
from aipo_env.grading.scalars import Outcome
from aipo_env.grading.trees import is_constant
from aipo_env.grading.verdicts import Grade, Verdict
from aipo_env.grading.words import is_words

DEFAULT_TIMEOUT = 0.9
"""Seconds that the computer algebra system may take for one answer."""


# A sentence is no answer. Another parser would pick a number out of it, and so reward a hedge.
_PROSE = re.compile(r"(?<!begin\{)(?<!end\{)(?<![\\A-Za-z])[A-Za-z]{4,}(?![A-Za-z])[^A-Za-z\\]")


_LETTER = re.compile(r"\\[A-Za-z]+|[A-Za-z]")


def _letters(text: str) -> set[str]:
    """The variables of an expression, roughly: its single letters."""
    return {name for name in _LETTER.findall(text) if len(name) == 1} - {"d", "e", "i"}


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> tuple[str | None, Node | None]:
    """Return the cleaned gold and its tree; None where it cannot be read."""
    try:
        cleaned = clean(gold, trusted=True)
    except Refused:
        return None, None
    try:
        return cleaned, parse(cleaned)
    except Unreadable:
        return cleaned, None


def readable_gold(gold: str, policy: GradingPolicy | None = None) -> bool:
    r"""Return whether a gold can be told from other answers: it is read, not only matched as the same text.

    A data set asks this of each row when it is loaded: with an unreadable gold nearly every right answer is wrong.

    Args:
        gold: the reference answer, as `Grader.grade_answer` gets it.
        policy: conventions; `MATH500` by default.
    """
    policy = policy or MATH500
    if policy.kind == "choice":
        return extract_choice(gold, policy.letters) is not None
    text, tree = _read_gold(gold)
    try:
        return (
            bool(text) and (tree is not None or is_words(text)) and bool(compare(text, tree, text, tree, policy).equal)
        )
    except (OutOfBudget, RecursionError):
        return False


_graders: weakref.WeakSet[Grader] = weakref.WeakSet()


class Grader:
    """Grades answers; safe to use from threads, from asyncio and after a fork.

    The worker processes start when the first answer needs them, or on `start`.
    """

    def __init__(self, workers: int | None = None, *, start_timeout: float = 180.0) -> None:
        """Prepare a grader.

        Args:
            workers: number of worker processes; by default one per core, at most four.
            start_timeout: seconds that starting the workers may take.
        """
        size = workers if workers is not None else max(1, min(4, os.cpu_count() or 1))
        if size < 1:
            raise ValueError(f"Grader(workers=...) must be at least 1; got {workers}. Leave it out for a default.")
        self._pool = WorkerPool(size, start_timeout)
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        _graders.add(self)
        # Stops the workers when this object goes, at the latest when the interpreter exits.
        weakref.finalize(self, self._pool.close)

    def start(self) -> Grader:
        """Start the workers now, so that no answer waits for them.

        Raises:
            GradingError: if they cannot be started.
        """
        self._pool.start()
        return self

    def close(self) -> None:
        """Stop the workers. The grader may be used again; the workers then start anew."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        self._pool.close()

    def __enter__(self) -> Grader:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def abandon(self) -> None:
        """Forget the parent's workers; called in a forked child."""
        self._pool.abandon()
        self._executor = None
        self._lock = threading.Lock()

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the helper processes; empty until they are ready. Never blocks."""
        return self._pool.worker_pids

    def grade_answer(
        self, gold: str, answer: str, policy: GradingPolicy | None = None, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Grade:
        r"""Grade an already extracted answer, such as the content of ``\boxed{}``.

        Args:
            gold: the reference answer.
            answer: what the policy answered.
            policy: conventions; `MATH500` by default.
            timeout: seconds that the computer algebra system may take, if it is needed.

        Raises:
            GradingError: if our own machinery fails; never for anything in the answer.
        """
        quick = self._decide(gold, answer, policy or MATH500)
        return quick if isinstance(quick, Grade) else self._algebra(*quick, answer, timeout)

    def grade_text(
        self, gold: str, text: str, policy: GradingPolicy | None = None, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Grade:
        """Extract the answer from a whole text that the policy wrote, and grade it.

        Args and errors are those of `grade_answer`.
        """
        policy = policy or MATH500
        if policy.kind == "choice":
            return grade_choice(gold, text, policy.letters)
        answer = extract_answer(text, marked_only=policy.extraction == "marked")
        if answer is None:
            return Grade(False, Verdict.NO_ANSWER, "extract.none", None)
        return self.grade_answer(gold, answer, policy, timeout=timeout)

    async def grade_async(
        self, gold: str, answer: str, policy: GradingPolicy | None = None, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Grade:
        """Grade an extracted answer without blocking the event loop."""
        quick = self._decide(gold, answer, policy or MATH500)
        if isinstance(quick, Grade):
            return quick
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(2 * self._pool.size, thread_name_prefix="aipo-grading")
            executor = self._executor
        left, right = quick
        return await asyncio.get_running_loop().run_in_executor(executor, self._algebra, left, right, answer, timeout)

    def _decide(self, gold: str, answer: str, policy: GradingPolicy) -> Grade | tuple[str, str]:
        """Decide without computer algebra, or return the two cleaned expressions that need it."""
        if policy.kind == "choice":
            return grade_choice(gold, answer, policy.letters)
        same = exact.compare_integers(gold, answer)
        if same is not None:
            return Grade(same, Verdict.CORRECT if same else Verdict.WRONG, "integer", answer)
        if answer.strip() == "":
            return Grade(False, Verdict.NO_ANSWER, "empty", answer)
        if answer.strip() == gold.strip():
            return Grade(True, Verdict.CORRECT, "identical", answer)
        try:
            cleaned = clean(answer)
        except Refused as refused:
            return Grade(False, Verdict.UNPARSABLE, f"guard.{refused.reason}", answer)
        if cleaned == "":
            return Grade(False, Verdict.NO_ANSWER, "empty", answer)
        gold_text, gold_tree = _read_gold(gold)
        if gold_text is None:
            return Grade(False, Verdict.WRONG, "gold.unreadable", answer)
        if cleaned == gold_text:
            return Grade(True, Verdict.CORRECT, "identical.cleaned", answer)
        tree: Node | None = None
        try:
            tree = parse(cleaned)
        except Unreadable as unreadable:
            if unreadable.final:
                return Grade(False, Verdict.UNPARSABLE, f"guard.{unreadable.reason}", answer)
        except RecursionError:  # the caller's stack is nearly full, or our bounds on nesting are too wide
            return Grade(False, Verdict.UNPARSABLE, "guard.nesting", answer)
        try:
            outcome = compare(gold_text, gold_tree, cleaned, tree, policy)
        except RecursionError:
            return Grade(False, Verdict.UNPARSABLE, "guard.nesting", answer)
        except OutOfBudget as spent:
            return Grade(False, Verdict.TIMEOUT, f"budget.{spent.reason}", answer)
        if outcome.equal is not None:
            return _grade(outcome, answer)
        if policy.kind == "integer":
            return Grade(False, Verdict.UNPARSABLE, "integer.unreadable", answer)
        if tree is None and gold_tree is not None:
            # A more lenient parser would make something of broken text; what our grammar reads is wide enough.
            return Grade(False, Verdict.UNPARSABLE, "unreadable", answer)
        if gold_tree is not None and is_constant(gold_tree):
            return Grade(
                False, Verdict.WRONG, outcome.rule, answer
            )  # what is no number by our rules is not that number
        if tree is None and _PROSE.search(cleaned):
            return Grade(False, Verdict.UNPARSABLE, "guard.prose", answer)
        letters = _letters(gold_text)
        if not letters or letters != _letters(cleaned):
            return Grade(False, Verdict.WRONG, "algebra.other_letters", answer)
        refusal = check_for_algebra(cleaned)
        if refusal is not None:
            return Grade(False, Verdict.UNPARSABLE, f"guard.{refusal}", answer)
        if check_for_algebra(gold_text) is not None:
            return Grade(False, Verdict.WRONG, outcome.rule, answer)
        return gold_text, cleaned

    def _algebra(self, gold: str, cleaned: str, answer: str, timeout: float) -> Grade:
        equal = self._pool.equivalent(gold, cleaned, timeout)
        if equal == "timeout":
            return Grade(False, Verdict.TIMEOUT, "algebra.deadline", answer)
        if equal is None:
            return Grade(False, Verdict.UNPARSABLE, "algebra.unreadable", answer)
        return Grade(bool(equal), Verdict.CORRECT if equal else Verdict.WRONG, "algebra", answer)


def _grade(outcome: Outcome, answer: str) -> Grade:
    equal = bool(outcome.equal)
    return Grade(equal, Verdict.CORRECT if equal else Verdict.WRONG, outcome.rule, answer)


_shared: Grader | None = None
_shared_lock = threading.Lock()


def shared_grader() -> Grader:
    """Return this process's own grader, made on first use and closed when the interpreter exits."""
    global _shared
    grader = _shared
    if grader is None:
        with _shared_lock:
            grader = _shared
            if grader is None:
                grader = _shared = Grader()
    return grader


def _after_fork_in_child() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    for grader in _graders:
        grader.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def grade_answer(
    gold: str, answer: str, policy: GradingPolicy | None = None, *, timeout: float = DEFAULT_TIMEOUT
) -> Grade:
    """Grade an already extracted answer with the shared grader; see `Grader.grade_answer`."""
    return shared_grader().grade_answer(gold, answer, policy, timeout=timeout)


def grade_text(gold: str, text: str, policy: GradingPolicy | None = None, *, timeout: float = DEFAULT_TIMEOUT) -> Grade:
    """Extract and grade the answer of a whole text with the shared grader; see `Grader.grade_text`."""
    return shared_grader().grade_text(gold, text, policy, timeout=timeout)


async def grade_async(
    gold: str, answer: str, policy: GradingPolicy | None = None, *, timeout: float = DEFAULT_TIMEOUT
) -> Grade:
    """Grade an already extracted answer without blocking the event loop; see `Grader.grade_async`."""
    return await shared_grader().grade_async(gold, answer, policy, timeout=timeout)
