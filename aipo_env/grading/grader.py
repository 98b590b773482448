"""Grades answers by rules that are decided in this process, each decision bounded in steps and time.

May be called from any thread, from asyncio, and after a fork.
"""

from __future__ import annotations

import asyncio
import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache, partial

from aipo_env.grading.arithmetic import Budget, OutOfBudget
from aipo_env.grading.choices import extract_choice, grade_choice
from aipo_env.grading.clean import Refused, clean
from aipo_env.grading.compare import compare
from aipo_env.grading.extract import extract_answer
from aipo_env.grading.nodes import Node
from aipo_env.grading.parser import Unreadable, parse
from aipo_env.grading.policy import MATH500, GradingPolicy
from aipo_env.grading.trees import has_variables
from aipo_env.grading.units import unit_words
from aipo_env.grading.verdicts import Grade, Verdict
from aipo_env.grading.words import is_words

DEFAULT_TIMEOUT = 0.6
"""Seconds that one decision may take; what it spends its time on is bounded anyway."""

# ASCII digits only, and few enough that int() stays cheap. A final period belongs to the sentence.
_INTEGER = re.compile(r"\s{0,20}\$?\s?(-?)0{0,60}([0-9]{1,60})(?:\.0{0,20})?\s?\$?\.?\s{0,20}", re.ASCII)


def grade_answer(gold: str, answer: str, policy: GradingPolicy = MATH500, *, timeout: float = DEFAULT_TIMEOUT) -> Grade:
    r"""Grade an already extracted answer, such as the content of ``\boxed{}``.

    Args:
        gold: the reference answer.
        answer: what the policy answered.
        policy: the conventions.
        timeout: seconds that the decision may take; after that the verdict is `Verdict.TIMEOUT`.
    """
    try:
        return _decide(gold, answer, policy, Budget(seconds=timeout))
    except OutOfBudget as spent:
        return Grade(False, Verdict.TIMEOUT, f"budget.{spent.reason}", answer)
    except RecursionError:  # the caller's stack is nearly full, or our bounds on nesting are too wide
        return Grade(False, Verdict.UNPARSABLE, "guard.nesting", answer)


def grade_text(gold: str, text: str, policy: GradingPolicy = MATH500, *, timeout: float = DEFAULT_TIMEOUT) -> Grade:
    """Extract the answer from a whole text that the policy wrote, and grade it; otherwise as `grade_answer`."""
    if policy.kind == "choice":
        return grade_choice(gold, text, policy.letters)
    answer = extract_answer(text, marked_only=policy.extraction == "marked")
    if answer is None:
        return Grade(False, Verdict.NO_ANSWER, "extract.none", None)
    return grade_answer(gold, answer, policy, timeout=timeout)


async def grade_async(
    gold: str, answer: str, policy: GradingPolicy = MATH500, *, timeout: float = DEFAULT_TIMEOUT
) -> Grade:
    """Grade an extracted answer in a thread, so that the event loop computes nothing; otherwise as `grade_answer`."""
    same = None if policy.kind == "choice" else _same_integers(gold, answer)
    if same is not None:
        return _verdict(same, "integer", answer)
    work = partial(grade_answer, gold, answer, policy, timeout=timeout)
    return await asyncio.get_running_loop().run_in_executor(_threads(os.getpid()), work)


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """The threads of this process, a few of them, since they share its time; a fork inherits none."""
    return ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1)), thread_name_prefix="aipo-grading")


def readable_gold(gold: str, policy: GradingPolicy = MATH500) -> bool:
    r"""Return whether a gold can be told from other answers: it is read, not only matched as the same text.

    A data set asks this of each row when it is loaded: with an unreadable gold nearly every right answer is wrong.
    """
    if policy.kind == "choice":
        return extract_choice(gold, policy.letters) is not None
    text, tree = _read_gold(gold)
    if not text or (tree is None and not is_words(text)) or (tree and policy.kind == "integer" and has_variables(tree)):
        return False
    try:
        return compare(text, tree, text, tree, policy, Budget()).equal is True
    except (OutOfBudget, RecursionError):
        return False


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


def _same_integers(gold: str, answer: str) -> bool | None:
    """Whether two plain integers are equal, in microseconds; None if either is anything else."""
    right = _INTEGER.fullmatch(answer)
    left = _INTEGER.fullmatch(gold) if right is not None else None
    if left is None or right is None:
        return None
    # Minus zero is zero.
    return left[2] == right[2] and (left[1] == right[1] or left[2] == "0")


def _decide(gold: str, answer: str, policy: GradingPolicy, budget: Budget) -> Grade:
    if policy.kind == "choice":
        return grade_choice(gold, answer, policy.letters)
    same = _same_integers(gold, answer)
    if same is not None:
        return _verdict(same, "integer", answer)
    if answer.strip() == gold.strip() != "":
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
