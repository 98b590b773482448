"""Grading that cannot be fooled, hung or blocked: math answers and choices.

``grade_answer`` grades an extracted answer, ``grade_text`` a whole text that the policy wrote,
``grade_async`` does the former without blocking an event loop. Only ever pass text that the policy wrote.
``readable_gold`` tells whether a data set's gold can be graded at all. `mathematics` reads and evaluates
formulas for others than the grader.
"""

from __future__ import annotations

from aipo_env.grading.choices import extract_choice, grade_choice, shuffle_choices
from aipo_env.grading.extract import extract_answer
from aipo_env.grading.grader import grade_answer, grade_async, grade_text, readable_gold
from aipo_env.grading.policy import AIME, CHOICE, GSM8K, INTEGER, MATH500, PRESETS, GradingPolicy
from aipo_env.grading.verdicts import Grade, Verdict

__all__ = [
    "AIME",
    "CHOICE",
    "GSM8K",
    "INTEGER",
    "MATH500",
    "PRESETS",
    "Grade",
    "GradingPolicy",
    "Verdict",
    "extract_answer",
    "extract_choice",
    "grade_answer",
    "grade_async",
    "grade_choice",
    "grade_text",
    "readable_gold",
    "shuffle_choices",
]
