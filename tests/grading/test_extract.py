from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo_env.grading import AIME, MATH500, Verdict, extract_answer, grade_text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so we get \boxed{12}.", "12"),
        (r"first \boxed{3}, but no: \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"a set: \boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"nested \boxed{\boxed{7}}", "7"),
        (r"cut off \boxed{5} and then \boxed{6", "5"),
        (r"an open box around one \boxed{ 1 + \boxed{4}", "4"),
        (r"\boxed 9", "9"),
        (r"escaped twice: \\boxed{\\frac{1}{3}}", r"\\frac{1}{3}"),
        (r"roots \boxed{2} and \boxed{-3}", "2, -3"),
        (r"roots $\boxed{2}$ or $\boxed{-3}$", "2 or -3"),
        (r"\boxed{8} so again \boxed{8}", "8"),
        ("<answer>42</answer>", "42"),
        ("<answer>1</answer> hm <answer>2</answer>", "2"),
        (r"<answer>\boxed{5}</answer>", "5"),
        (r"\boxed{1} then <answer>2</answer>", "2"),
        (r"<answer>1</answer> then \boxed{2}", "2"),
        ("it follows\n#### 1,234", "1,234"),
        ("Answer: 17", "17"),
        ("**Answer:** 17", "17"),
        ("Final Answer: The final answer is $\\frac{2}{3}$. I hope it is correct.", "$\\frac{2}{3}$"),
        ("The answer is 3.5 metres.", "3.5 metres"),
        ("The answer is: 12", "12"),
        ("Answer: 5\nThat was hard.", "5"),
    ],
)
def test_marked_answers(text: str, answer: str) -> None:
    assert extract_answer(text) == answer
    assert extract_answer(text, marked_only=True) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("We conclude that $x > 4$ holds.", "x > 4"),
        (r"Therefore \( 2\pi \) it is", r"2\pi"),
        ("It costs $ 7.50 in all, so 15 for two", "15"),
        ("this is $40$ %", r"40\%"),
        ("the price rises by 30%", "30%"),
        ("in total 12,500 people", "12,500 people"),
        ("no idea at all", None),
        ("", None),
    ],
)
def test_unmarked_answers_count_only_without_marked_only(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer
    assert extract_answer(text, marked_only=True) is None


@pytest.mark.parametrize(
    "text",
    [
        "Hence x > 5.", r"Hence it is 5\pi.", r"so we have 5\sqrt{2}", "so we have f(5)", "so we have -(5)", "so it is 10 : 5",
        "so it is !5", "so we have 5!", "Could it be 5?", "Answer: 5!", "Answer: 5? No, 6.", "Answer: 5 at most",
        "Answer: 5 in a million", "Answer: 5 in thousands", "Answer: 5 before doubling", "Answer: 5 in base seven",
        "Answer: 5 and a half", "Answer: 5 dollars and fifty cents", "Answer: 5 m and ten cm", "Answer: 5 so no",
        "so we have $5$ thousands", "so we have $5$ doubled", "so we have $5$ k", "The answer is the digit sum of $5$",
        "I deny that the answer is 5", "Suppose the answer is 5",
    ],
)  # fmt: skip
def test_repair_07_a_number_that_its_sentence_changes_is_not_what_it_states(text: str) -> None:
    assert not grade_text("5", text).correct


def test_repair_07_a_number_that_its_sentence_states_counts() -> None:
    texts = [
        "Answer: 5 square feet in all",
        "Answer: 5 dollars per week",
        "That is => 5",
        "The ratio: (5)",
        "for a total of 5",
        "Answer: 5 apples!",
    ]
    assert [text for text in texts if not grade_text("5", text).correct] == []
    assert grade_text("120", "Answer: 5!").correct


def test_a_policy_that_wants_a_mark_finds_no_answer() -> None:
    assert grade_text("15", "that makes 15", MATH500).correct
    grade = grade_text("15", "that makes 15", AIME)
    assert (grade.verdict, grade.extracted) == (Verdict.NO_ANSWER, None)


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 60_000,
        "{" * 400_000,
        "}" * 400_000,
        "\\boxed{}" * 50_000,
        "<answer>" * 50_000,
        "answer " * 60_000,
        "answer" + " " * 400_000,
        "$" * 400_000,
        "\\[" * 200_000,
        "1,000" * 80_000,
        "final " * 60_000 + "answer is",
        "\\" * 400_000,
    ],
)
def test_extraction_is_linear(text: str) -> None:
    started = time.perf_counter()
    extract_answer(text)
    assert time.perf_counter() - started < 20


PIECES = st.sampled_from(
    ["\\boxed{", "}", "{", "<answer>", "</answer>", "Answer:", "####", "answer is", "$", "\\(", "\\)", "\\[", "\\]", "7",
     " ", "\n", ",", "\\\\", "\\", "x", "and", "=", ".", "%", "\x00", "é"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=60).map("".join))
def test_extraction_never_raises_and_invents_nothing(text: str) -> None:
    answer = extract_answer(text)
    if answer is not None:
        written = set(text) | set(", or") | set("\\%")
        assert set(answer) <= written


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789+-x^ ", min_size=1, max_size=20), st.text(max_size=50))
def test_the_last_box_is_found_behind_any_text(content: str, before: str) -> None:
    if content.strip():
        assert extract_answer(before.replace("\\", "") + "§ \\boxed{" + content + "} .") == content.strip()
