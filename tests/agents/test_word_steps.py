from __future__ import annotations

import pytest

from aipo_agents import ReasoningAgent
from aipo_agents.reasoning import NO_STEP
from aipo_agents.word_steps import normal_form, quantities, word_step
from tests.agents.asking import ask

STEPS = {
    "Ann buys 4 shirts at $15 each. How much does she pay?": "4*15=60",
    "Tom earns $20 an hour and works 8 hours. How much does he earn?": "8*20=160",
    "A shop has 3 boxes with 12 pens each. How many pens are there?": "3*12=36",
    "Ben has 24 stickers. He gives 1/3 of the stickers to Eva. How many does he give?": "24/3=8",
    "There are 50 apples. 20% of the apples are red. How many are red?": "50*20/100=10",
    "Lena sold 48 cups in April, and half as many in May. How many did she sell in May?": "48/2=24",
    "Mia has 12 more marbles than Leo. Leo has 30 marbles. How many does Mia have?": "30+12=42",
}


@pytest.mark.parametrize("problem", STEPS)
def test_a_step_calculates_with_the_numbers_of_the_problem(problem: str) -> None:
    step = word_step(problem)
    assert step is not None
    assert step.startswith(STEPS[problem] + " (")
    assert ask(ReasoningAgent(), problem) == step
    # A query without content falls back on the problem in the transcript.
    assert ask(ReasoningAgent(), "what now?", transcript=problem) == step


def test_what_is_written_down_already_is_no_step() -> None:
    problem = "Ann buys 4 shirts at $15 each and 2 hats at $8 each. How much does she pay?"
    first = word_step(problem)
    assert first is not None
    second = word_step(problem, f"{problem} {first}")
    assert second is not None
    assert {first.split(" (")[0], second.split(" (")[0]} == {"4*15=60", "2*8=16"}


@pytest.mark.parametrize("problem", ["", "Why?", "The year is 1999.", "He is 7 and she has 3 cats.", "9" * 5000])
def test_where_no_sign_speaks_for_a_calculation_there_is_none(problem: str) -> None:
    assert word_step(problem) is None
    assert ask(ReasoningAgent(), problem) in (NO_STEP,)


def test_numbers_are_read_with_what_they_count() -> None:
    found = quantities(normal_form("Tom earns $1,200 a month and walks twenty-five miles. Each box holds three pens."))
    assert [(q.value, q.noun, q.per) for q in found] == [
        ("1200", "$", "month"),
        ("25", "mile", ""),
        ("3", "pen", "box"),
    ]
