from __future__ import annotations

import pytest

from aipo_agents import ReasoningAgent
from aipo_agents.reasoning import NO_STEP
from aipo_agents.word_steps import word_step
from tests.agents.asking import ask

STEPS = {
    "Ann buys 4 shirts at $15 each. How much does she pay?": "4*15=60",
    "Tom earns $20 an hour and works 8 hours. How much does he earn?": "8*20=160",
    "A shop has 3 boxes with 12 pens each. How many pens are there?": "3*12=36",
    "They read 3 chapters a day for 6 days. How many do they read?": "6*3=18",
    "Mia buys twenty-five bags of 1.5 pounds each. How heavy are they?": "25*1.5=37.5",
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


@pytest.mark.parametrize(
    "problem",
    [
        "",
        "Why?",
        "The year is 1999.",
        "He is 7 and she has 3 cats.",
        "9" * 5000,
        # the numbers may belong together in another way
        "Tara bought 8 packs of 5 bags for $4 each.",
        "Sasha sells 4 x 10 boards for $16 each.",
        "He rents it out for 3 hours each time and gets $25 an hour.",
        "She earns $20 an hour. She works 50 weeks a year.",
        "A shop has 9 rides and each costs 2 tickets at $2 per ticket.",
        "Ann has 3 boxes, 12 more than Ben has of 4 kinds each.",
    ],
)
def test_where_the_words_leave_a_choice_of_numbers_there_is_none(problem: str) -> None:
    assert word_step(problem) is None
    assert ask(ReasoningAgent(), problem) == NO_STEP
