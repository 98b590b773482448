from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo_env.grading import CHOICE, Verdict, extract_choice, grade_answer, grade_choice, grade_text, shuffle_choices


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(c)", "C"),
        ("**D**", "D"),
        ("The answer is (B)", "B"),
        ("The answer is: $B$.", "B"),
        ("Answer: A", "A"),
        ("answer: **d**", "D"),
        ("So option C", "C"),
        ("I would choose option D.", "D"),
        ("The correct choice is (a).", "A"),
        ("A looks odd at first, yet the final answer is C.", "C"),
        (r"\boxed{\text{D}}", "D"),
        (r"$\boxed{\textbf{(C) }12}$", "C"),
        (r"First \boxed{A}. On reflection that is wrong: \boxed{B}", "B"),
        ("<answer>B</answer>", "B"),
        ("B) three metres", "B"),
        ("Answer: B. It cannot be the others", "B"),
    ],
)
def test_one_letter_is_read(text: str, letter: str) -> None:
    assert extract_choice(text) == letter


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A or B",
        "The answer is A or B",
        "The answer is both A and C",
        "Answer: (A) or (B)",
        r"\boxed{A, B}",
        r"\boxed{B} \boxed{C}",
        "(A)(B)",
        "ABCD",
        "E",
        "neither A nor B",
        "the answer is not A",
        "The answer is a small number",
        "the answer is BANANA",
        "A cat sat on the mat",
        "Is it A? Is it D?",
    ],
)
def test_no_letter_or_several_are_refused(text: str) -> None:
    assert extract_choice(text) is None
    assert not grade_choice("A", text).correct


def test_grades() -> None:
    assert grade_choice("B", "b").verdict is Verdict.CORRECT
    assert grade_choice("(B)", "The answer is B").correct
    assert grade_choice("B", "C").verdict is Verdict.WRONG
    assert grade_choice("B", "").verdict is Verdict.NO_ANSWER
    assert grade_choice("B", "B or C").verdict is Verdict.UNPARSABLE
    assert grade_text("D", "The answer is (D)", CHOICE).correct
    assert grade_answer("D", "D", CHOICE).rule == "choice"
    assert extract_choice("F", "ABCDEF") == "F"


def test_a_gold_that_is_no_letter_is_an_error() -> None:
    with pytest.raises(ValueError, match="must be one of 'ABCD'"):
        grade_choice("7", "A")


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ABCDabcd()[]{}$*.,:; \n\\orandiswertboxed", max_size=80))
def test_reading_a_choice_never_raises_and_stays_on_offer(text: str) -> None:
    assert extract_choice(text) in (None, "A", "B", "C", "D")


def test_shuffles_depend_on_seed_and_row_alone() -> None:
    choices = ["red", "green", "blue", "black"]
    shuffled, order = shuffle_choices(choices, seed=7, row=3)
    assert shuffled == [choices[i] for i in order]
    assert shuffle_choices(choices, seed=7, row=3)[0] == shuffled
    assert len({tuple(shuffle_choices(choices, seed=7, row=row)[1]) for row in range(50)}) > 10
    assert len({tuple(shuffle_choices(choices, seed=seed, row=3)[1]) for seed in range(50)}) > 10
