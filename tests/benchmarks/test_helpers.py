from __future__ import annotations

import json
import random
from fractions import Fraction

import pytest

from aipo_agents.entries import load_corpus
from aipo_agents.knowledge import EMBEDDED_CORPUS
from aipo_env.grading import INTEGER, MATH500
from benchmarks.helpers import MARK, QUERIES, corrupt, exact, half_of, judge_step, leaks, solution_of, true_line

LINE = "He works 60 minutes, 20% of them alone: 60*20/100 = <<60*20/100=12>>12 minutes."


@pytest.mark.parametrize(
    ("text", "value"),
    [("2+3*4", 14), (".5*8", 4), ("(1+2)/4", Fraction(3, 4)), ("20%*50", 10), ("$1,000-1", 999), ("-3", -3)],
)
def test_exact_arithmetic(text: str, value: Fraction) -> None:
    assert exact(text) == value


@pytest.mark.parametrize("text", ["", "x+1", "2**9", "__import__('os')", "1/0", "[1]", "1..2"])
def test_what_is_no_arithmetic_has_no_value(text: str) -> None:
    assert exact(text) is None


def test_lines_are_true_exactly_or_rounded() -> None:
    assert true_line(LINE)
    assert true_line("10/3=<<10/3=3.33>>3.33")
    assert not true_line("10/3=<<10/3=4>>4")
    assert not true_line("no mark")


@pytest.mark.parametrize(
    "text",
    [LINE, "She has 48-2*3 = <<48-2*3=42>>42 left", "$5 x 4 = $<<5*4=20>>20", "7*5=<<7*5=35>>35 days in 5 weeks"],
)
def test_every_corruption_is_false_and_of_its_own_kind(text: str) -> None:
    for seed in range(20):
        lines = corrupt(text, random.Random(seed))
        assert lines
        assert len({line.kind for line in lines}) == len(lines)
        for line in lines:
            ((left, right),) = MARK.findall(line.text)
            assert exact(left) != exact(right)
            assert line.text != text
            # The words beside the mark are corrupted with it: they still say what the mark says.
            assert right in MARK.sub("", line.text)


def test_all_five_kinds_occur() -> None:
    kinds = {
        line.kind
        for text in (LINE, "48-6 = <<48-6=42>>42")
        for seed in range(9)
        for line in corrupt(text, random.Random(seed))
    }
    assert kinds == {"digit", "operator", "conversion", "percentage base", "swapped"}


def test_a_step_is_useful_only_if_the_solution_takes_it() -> None:
    problem, answer = "He has 3 boxes of 4 pens and 5 more.", "3*4=<<3*4=12>>12. 12+5=<<12+5=17>>17"
    assert judge_step("3*4=12 (boxes)", problem, answer) == "useful"
    assert judge_step("3*4=13", problem, answer) == "not in the solution"
    assert judge_step("3+4=7", problem, answer) == "not in the solution"
    assert judge_step("I cannot", problem, answer) == "none"


def test_halves_do_not_depend_on_the_run() -> None:
    assert [half_of(text) for text in "abcdefgh"] == ["test", "test", "test", "test", "dev", "dev", "dev", "test"]


def test_the_queries_name_entries_that_exist() -> None:
    titles = {entry.title for entry in load_corpus(EMBEDDED_CORPUS)}
    queries = json.loads(QUERIES.read_text(encoding="utf-8"))
    assert len(queries) == 60
    assert {title for wanted in queries.values() for title in wanted} <= titles


def test_solutions_give_their_answer_away_and_others_do_not() -> None:
    gsm8k = [
        {"question": f"What is left of {a}?", "answer": f"Take 5.\nThat is {a}-5 = {a - 5}.\n#### {a - 5}"}
        for a in (31, 1047, 260)
    ]
    found = leaks([solution_of(row) for row in gsm8k], INTEGER, 0)
    assert found == {
        "problems": 3.0,
        "whole solutions found": 1.0,
        "foreign sentences found": found["foreign sentences found"],
    }
    task, lines = solution_of(
        {"problem": "Halve one.", "answer": r"\frac12", "solution": r"Divide. We get $0.5.$ So $\boxed{\frac12}.$"}
    )
    assert (task.gold, len(lines)) == (r"\frac12", 2)
    foreign = [(task, ["Nothing here."]), (task, ["Nothing there."])]
    assert set(list(leaks(foreign, MATH500, 0).values())[1:]) == {0.0}
