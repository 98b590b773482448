"""Whether a helper's reply gives the gold answer away: the commonest way in which help makes a policy look better than it is.

No helper is told the gold answer, yet one that solves the problem can state it. Who knows the task looks at the reply: at
what it states as a value, and at what it gives as an answer, which the family's own grader judges. What the policy said
first is no news to it: a judge may repeat the claim that it judges.
"""

from __future__ import annotations

import re

from aipo_env.fences import last_program
from aipo_env.grading import extract_answer
from aipo_env.markup import AnswerForm
from aipo_env.tasks.base import Task

HELD_BACK = "its reply gave the answer away and was held back"
"""The error of a reply that `leak_filter` refused."""

_STATED = r"(?:=|≈|\bis|\bare|\bequals|\bgives|\bgets?|\bmakes|\banswer[^.]{0,80}?|\\boxed\{)\s*[$(]*"


def answer_in(text: str, answers: AnswerForm) -> str | None:
    """What a text gives as an answer, marked or not; of a program its last fenced block."""
    if answers == "program":
        block = last_program(text)
        return None if block is None else block.code
    return extract_answer(text)


def states_gold(text: str, task: Task, query: str, own: str) -> bool:
    """Whether a reply states a gold of its task, as it is written there, and the policy has not.

    Args:
        text: the reply.
        task: what is being solved.
        query: what the policy asked.
        own: all that the policy wrote so far.
    """
    golds = [gold for gold in (task.gold, *task.alternatives) if gold.strip("$. ")]
    return any(states(text, gold, task.problem) and not said(gold, task, query, own) for gold in golds)


def said(value: str, task: Task, query: str, own: str) -> bool:
    """Whether the policy has named a value in its query, or stated it before; a problem copied into a query is not its word."""
    asked = _plain(query.replace(task.problem, " "))
    # That a question names the letters of the choices says nothing.
    names = len(value) > 1 or not value.isalpha()
    return (names and re.search(_alone(value), asked) is not None) or states(own, value, own)


def states(text: str, value: str, known: str, *, least: int = 3) -> bool:
    """Whether a text says what something is with this value, or mentions it where `known` does not.

    Args:
        text: what was said.
        value: what it may state.
        known: where the value may come from.
        least: characters of a value that is not only said to be something; a shorter one may stand there by chance, as an
            exponent or the number of a step.
    """
    alone, plain = _alone(value), _plain(text)
    if re.search(_STATED + alone, plain, re.IGNORECASE):
        return True
    return len(value) >= least and bool(re.search(alone, plain)) and not re.search(alone, _plain(known))


def _alone(value: str) -> str:
    """The pattern of a value that is no part of a longer number, word or product."""
    value = _plain(value.strip("$. "))
    left = r"(?<![\w.\\^])" if value[:1].isalnum() else ""
    right = r"(?!\w|\.\d|[*/^+-][\d(\\])" if value[-1:].isalnum() else ""
    return left + re.escape(value) + right


def _plain(text: str) -> str:
    """A text whose formulas are written without blanks and dollars, and whose numbers are without separators and `.00`."""
    text = re.sub(r"(?<=\d)(?:,|\\,|\{,\}|,\\!| )(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=\d)\.0+(?!\d)", "", text)
    return re.sub(r"\s*([^\w\s])\s*", r"\1", re.sub(r"[\s$]+", " ", text)).strip()
