from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo_agents import ReasoningAgent, VerifyAgent
from aipo_agents.reasoning import IS_CLAIM, NO_STEP
from aipo_env.errors import ConfigurationError
from aipo_env.grading.mathematics import evaluate, read
from aipo_env.protocol import Agent, ConsultRequest
from aipo_env.tasks.rulebook import RulebookTasks
from tests.agents.asking import ask

REASONING = ReasoningAgent()

STEPS = {
    # arithmetic: the innermost operation, or a single one taken apart
    "(3+4)*5": "3+4=7, so 7*5 is left",
    "2+3*4": "3*4=12, so 2+12 is left",
    "2*(3+4*5)-1": "4*5=20, so 2*(3+20)-1 is left",
    "1/2+1/3+1/4": "1/2+1/3=5/6, so 5/6+1/4 is left",
    "47*12": "47*12 = 47*10+47*2",
    "47*12=?": "47*12 = 47*10+47*2",
    "17+25": "17+25 = 17+20+5",
    "84/7": "84/7 = 70/7+14/7",
    "47*3": "47*3 = 3*40+3*7",
    "9*8": NO_STEP,
    "7+5": NO_STEP,
    "52-17": "52-17 = 52-10-7",
    "(1/0)+3": "stop at 1/0: division by zero",
    "1/0": "stop: division by zero has no value",
    "12-5": NO_STEP,
    "100*3": NO_STEP,
    # equations
    "2(x+3)=10": "expand and collect: 2x+6=10",
    "3x+5=x-7": "subtract x from both sides: 2x+5=-7",
    "2x+3=7": "subtract 3 from both sides: 2x=4",
    "2x=4": "divide both sides by 2",
    "x/2=3": "multiply both sides by 2",
    "x=2": "x is isolated: put it into the first equation to check",
    "7=2x+3": "swap the sides: 2x+3=7",
    "-2x<6": "divide both sides by -2; that turns < into >",
    "2x+1<=x": "subtract x from both sides: x+1<=0",
    "x^2=5x-6": "bring everything to one side: x^2-5x+6=0",
    "x^2-5x+6=0": "factor: (x-2)(x-3)=0",
    "(x-2)(x-3)=0": "a product is 0 only if a factor is: x-2=0 or x-3=0",
    "x^2-3x=0": "factor: x(x-3)=0",
    "2x^2-8=0": "factor: (x-2)(2x+4)=0",
    "x^2-8=0": "compute the discriminant b^2-4ac with a=1, b=0, c=-8",
    "x^2=9": "bring everything to one side: x^2-9=0",
    "x^2+x+1=0": "compute the discriminant b^2-4ac with a=1, b=1, c=1",
    "x^3-6x^2+11x-6=0": "factor: (x-1)(x^2-5x+6)=0",
    "x^4-5x^2+4=0": "factor: (x-1)(x^3+x^2-4x-4)=0",
    "1/x=2": "multiply both sides by x, and exclude the values that make it 0",
    "Solve 2x+3=7; subtracting gives 2x=4": "divide both sides by 2",
    "(x+1)^2": "multiply out and collect: x^2+2x+1",
    "x^2-5x+6": "to factor it, find two numbers with the sum -5 and the product 6",
    # with constants that are no variables
    "ef": NO_STEP,
    "pi*x=2": NO_STEP,
    "x/e+x=2": NO_STEP,
    "x+y=10, x-y=2": NO_STEP,
    r"x\in3\in4": NO_STEP,
    # neither
    "17+25=43": IS_CLAIM,
    "help": NO_STEP,
    "": NO_STEP,
}


@pytest.mark.parametrize("query", STEPS)
def test_next_step(query: str) -> None:
    assert ask(REASONING, query) == STEPS[query]


def test_a_linear_equation_is_solved_by_following_the_steps() -> None:
    equation, seen = "3(x+2)-x=5x-9", []
    for _ in range(10):
        step = ask(REASONING, equation)
        seen.append(step)
        if ": " not in step:
            break
        equation = step.rpartition(": ")[2]
    assert seen == [
        "expand and collect: 2x+6=5x-9",
        "subtract 5x from both sides: -3x+6=-9",
        "subtract 6 from both sides: -3x=-15",
        "divide both sides by -3",
    ]


def test_rulebook_protocol_place_by_place() -> None:
    state = "473@128"
    for step in ("4+4+1", "7+7+2", "3+3+8"):
        assert ask(REASONING, state) == step
        state += (":" if state == "473@128" else ";") + step
    for place, step in (("4+4+1", "4+4+1=09"), ("7+7+2", "7+7+2=16"), ("3+3+8", "3+3+8=14")):
        assert ask(REASONING, state) == step
        state = state.replace(place, step)
    assert ask(REASONING, state) == "join the sums in order"


def test_rulebook_steps_from_the_transcript() -> None:
    transcript = "473@128="
    for step in ("4+4+1", "7+7+2", "3+3+8"):
        assert ask(REASONING, "473@128", transcript=transcript) == step
        transcript += f'<consult agent="reasoning">473@128</consult><feedback agent="reasoning">{step}</feedback>'
    assert ask(ReasoningAgent(use_transcript=False), "473@128", transcript=transcript) == "4+4+1"


def test_a_wrong_place_is_asked_for_again() -> None:
    assert ask(REASONING, "473@128:4+4+2") == "4+4+1"
    assert ask(REASONING, "473@128:4+4+1;7+2+2") == "7+7+2"
    assert ask(REASONING, "473@128:4+4+1=08;7+7+2;3+3+8") == "4+4+1=09"


def test_equal_places_are_counted() -> None:
    assert ask(REASONING, "44@11") == "4+4+1"
    assert ask(REASONING, "44@11:4+4+1") == "4+4+1"
    assert ask(REASONING, "44@11:4+4+1;4+4+1") == "4+4+1=09"


def test_nested_and_compound_expressions() -> None:
    assert ask(REASONING, "(473@128)#305142") == "4+4+1"
    assert ask(REASONING, "(473@128)#305142:4+4+1=09;7+7+2=16;3+3+8=14") == "091614#305142"
    assert ask(REASONING, "473$128") == "(473@128)#128128"
    assert ask(REASONING, "47@128").startswith("the operands need equally many digits")


def test_following_the_steps_solves_the_rulebook() -> None:
    tasks = RulebookTasks(level=2)
    for index in range(20):
        task = tasks.task(index)
        state, sums = f"{task.metadata['expression']}:", ""
        for _ in range(3):
            state += ask(REASONING, state) + ";"
        for _ in range(3):
            step = ask(REASONING, state + sums)
            sums += step + ";"
        assert "".join(part.split("=")[1] for part in sums.rstrip(";").split(";")) == task.gold


@given(st.integers(2, 99), st.integers(-50, 50), st.integers(-50, 50))
@settings(deadline=None, max_examples=60)
def test_steps_keep_the_solution(a: int, b: int, x: int) -> None:
    """An equation that a step proposes has the same solution; the solution itself is never said."""
    step = ask(REASONING, f"{a}x+({b})={a * x + b}")
    assert re.search(rf"(?<![0-9])x={x}(?![0-9])", step) is None
    if ": " in step:
        equation = step.rpartition(": ")[2]
        assert equation.startswith(f"{a}x")
        assert ask(VerifyAgent(), f"{equation}, x={x}") == "correct: all 2 claims"
    else:
        assert step == f"divide both sides by {a}"


@pytest.mark.parametrize("query", [query for query, step in STEPS.items() if f"{query} = " in step])
def test_what_is_taken_apart_keeps_its_value(query: str) -> None:
    left, _, right = STEPS[query].partition(" = ")
    assert evaluate(read(left)) == evaluate(read(right))


def test_chains_are_the_rulebooks_and_divisibility_is_not() -> None:
    assert ask(REASONING, "47|12|35") == ask(REASONING, "47|12|35=") == "37@15"
    assert "equally many digits" in ask(REASONING, "47|12|353")
    for query in ("2|4|8", "show that 12|24|48 holds", "12|24"):
        assert "@" not in ask(REASONING, query), query


@pytest.mark.parametrize(
    "problem",
    [
        "Prove that the sum is even.",
        "A bag has red and blue balls. What is the probability of red?",
        "The radius is 5.",
    ],
)
def test_a_sentence_that_fits_any_problem_is_no_step(problem: str) -> None:
    assert ask(REASONING, problem) == NO_STEP


def test_options_and_protocol() -> None:
    assert isinstance(REASONING, Agent)
    assert REASONING.name == "reasoning"
    wrong: list[dict[str, Any]] = [{"max_chars": 0}, {"max_chars": "9"}, {"name": ""}]
    for options in wrong:
        with pytest.raises(ConfigurationError, match="ReasoningAgent: "):
            ReasoningAgent(**options)
    assert len(ask(ReasoningAgent(max_chars=40), "+".join(["(1+2)"] * 100))) <= 40


def test_concurrent_calls_do_not_mix() -> None:
    async def all_at_once() -> list[str]:
        replies = await asyncio.gather(*(REASONING.respond(ConsultRequest(query)) for query in STEPS))
        return [reply.text for reply in replies]

    assert asyncio.run(all_at_once()) == list(STEPS.values())
