"""What is typed becomes the turn that was meant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aipo_env import Answer, Consult
from aipo_env.markup import parse
from algorithms.apps.play.turns import answer, ask

NOTHING = (0, 0)


def test_the_last_line_is_asked_and_what_stands_before_is_thinking() -> None:
    assert ask("473@128", NOTHING, "knowledge") == '<consult agent="knowledge">473@128</consult>'
    turn = ask("I think 1+1=2.\nis 17+25=43?\n\n", NOTHING, "verify")
    assert parse(turn, ("verify",)) == Consult("verify", "is 17+25=43?", "I think 1+1=2.\n")
    assert ask(" \n", NOTHING, "verify") == ""


def test_a_selection_is_what_is_meant() -> None:
    text = "first\nsecond\nthird"
    assert ask(text, (6, 12), "verify") == 'first\n<consult agent="verify">second</consult>'
    assert ask(text, (12, 6), "verify") == ask(text, (6, 12), "verify")
    assert answer(text, (0, 5), "value") == "\\boxed{first}"


def test_values_are_boxed_once() -> None:
    assert answer("so\n42", NOTHING, "value") == "so\n\\boxed{42}"
    assert answer("\\boxed{42}", NOTHING, "value") == "\\boxed{42}"
    assert answer("<answer>42</answer>", NOTHING, "value") == "<answer>42</answer>"
    assert answer("", NOTHING, "value") == ""


def test_programs_are_fenced_once() -> None:
    program = "for i in range(3):\n    print(i)"
    fenced = f"<answer>\n```python\n{program}\n```\n</answer>"
    assert answer(program, NOTHING, "program") == fenced
    # A selection of a program would be half of one.
    assert answer(f"{program}\n", (0, 3), "program") == fenced
    assert answer(f"```python\n{program}\n```", NOTHING, "program") == fenced


@given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1).filter(lambda t: "<" not in t and "\\" not in t))
def test_whatever_is_typed_as_an_answer_is_one(text: str) -> None:
    turn = answer(text, NOTHING, "value")
    assert isinstance(parse(turn), Answer) or not text.strip()
