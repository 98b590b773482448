"""The grading engine: rules that are decided in this process, each decision bounded in steps and time."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache, partial
from types import TracebackType

from aipo_env.grading import exact
from aipo_env.grading.arithmetic import Budget, OutOfBudget
from aipo_env.grading.choices import extract_choice, grade_choice
from aipo_env.grading.clean import Refused, clean
from aipo_env.grading.compare import compare
from aipo_env.grading.extract import extract_answer
from aipo_env.grading.nodes import Node
from aipo_env.grading.parser import Unreadable, parse
from aipo_env.grading.policy import MATH500, GradingPolicy
from aipo_env.grading.units import unit_words
from aipo_env.grading.verdicts import Grade, Verdict
from aipo_env.grading.words import is_words

DEFAULT_TIMEOUT = 0.6
"""Seconds that one decision may take; what it spends its time on is bounded anyway."""


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> tuple[str | None, Node | None]:
    """Return the cleaned gold and its tree; None where it cannot be read."""
    try:
        cleaned = clean(gold, trusted=True)
    except Refused:
        return None, None
    try:
        return cleaned, parse(cleaned, own=None)
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
    if not text or (tree is None and not is_words(text)):
        return False
    try:
        return compare(text, tree, text, tree, policy, Budget()).equal is True
    except (OutOfBudget, RecursionError):
        return False


class Grader:
    """Grades answers within a bounded time, in this process; safe to use from threads, from asyncio and after a fork."""

    def __init__(self, workers: int | None = None) -> None:
        """Prepare a grader.

        Args:
            workers: threads for `grade_async`; by default one per core, at most four.
        """
        self._size = workers if workers is not None else max(1, min(4, os.cpu_count() or 1))
        if self._size < 1:
            raise ValueError(f"Grader(workers=...) must be at least 1; got {workers}. Leave it out for a default.")
        self._executor: ThreadPoolExecutor | None = None
        self._owner = os.getpid()

    def start(self) -> Grader:
        """Load what is loaded on first use (high-precision arithmetic), so that no answer waits for it."""
        self.grade_answer("\\sqrt{8}", "2\\sqrt{2}")
        return self

    def close(self) -> None:
        """Stop the threads. The grader may be used again."""
        executor, self._executor = self._executor, None
        if executor is not None and self._owner == os.getpid():
            executor.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Grader:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def grade_answer(
        self, gold: str, answer: str, policy: GradingPolicy | None = None, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Grade:
        r"""Grade an already extracted answer, such as the content of ``\boxed{}``.

        Args:
            gold: the reference answer.
            answer: what the policy answered.
            policy: conventions; `MATH500` by default.
            timeout: seconds that the decision may take; after that the verdict is `Verdict.TIMEOUT`.
        """
        try:
            return _decide(gold, answer, policy or MATH500, Budget(seconds=timeout))
        except OutOfBudget as spent:
            return Grade(False, Verdict.TIMEOUT, f"budget.{spent.reason}", answer)
        except RecursionError:  # the caller's stack is nearly full, or our bounds on nesting are too wide
            return Grade(False, Verdict.UNPARSABLE, "guard.nesting", answer)

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
        """Grade an extracted answer in a thread, so that the event loop computes nothing."""
        same = exact.compare_integers(gold, answer) if (policy or MATH500).kind != "choice" else None
        if same is not None:
            return _verdict(same, "integer", answer)
        if self._executor is None or self._owner != os.getpid():  # a fork inherits no threads
            self._executor = ThreadPoolExecutor(self._size, thread_name_prefix="aipo-grading")
            self._owner = os.getpid()
        work = partial(self.grade_answer, gold, answer, policy, timeout=timeout)
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _decide(gold: str, answer: str, policy: GradingPolicy, budget: Budget) -> Grade:
    if policy.kind == "choice":
        return grade_choice(gold, answer, policy.letters)
    same = exact.compare_integers(gold, answer)
    if same is not None:
        return _verdict(same, "integer", answer)
    if answer.strip() == "":
        return Grade(False, Verdict.NO_ANSWER, "empty", answer)
    if answer.strip() == gold.strip():
        return _verdict(True, "identical", answer)
    try:
        cleaned = clean(answer)
    except Refused as refused:
        return Grade(False, Verdict.UNPARSABLE, f"guard.{refused.reason}", answer)
    if cleaned == "":
        return Grade(False, Verdict.NO_ANSWER, "empty", answer)
    gold_text, gold_tree = _read_gold(gold)
    if gold_text is None:
        return _verdict(False, "gold.unreadable", answer)
    if cleaned == gold_text:
        return _verdict(True, "identical.cleaned", answer)
    tree, refusal = None, "unreadable"
    try:
        tree = parse(cleaned, own=unit_words(gold_text))
    except Unreadable as unreadable:
        if unreadable.final:
            return Grade(False, Verdict.UNPARSABLE, f"guard.{unreadable.reason}", answer)
        refusal = f"unreadable.{unreadable.reason}"
    outcome = compare(gold_text, gold_tree, cleaned, tree, policy, budget)
    if outcome.equal is None and tree is None:
        # A more lenient parser would make something of broken text; what our grammar reads is wide enough.
        return Grade(False, Verdict.UNPARSABLE, refusal, answer)
    return _verdict(outcome.equal is True, outcome.rule, answer)


def _verdict(equal: bool, rule: str, answer: str) -> Grade:
    return Grade(equal, Verdict.CORRECT if equal else Verdict.WRONG, rule, answer)


@cache
def shared_grader() -> Grader:
    """Return this process's own grader."""
    return Grader()


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
