from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo_agents.algebra import at, coefficients, has_sign, has_work, substitute, value_of
from aipo_agents.render import render
from aipo_env.grading.mathematics import Budget, NoValue, evaluate, read, variables
from aipo_env.grading.nodes import Add, Call, Mul, Node, Num, Pow, Sym

MINUS_ONE = Num(Fraction(-1))
TREES: st.SearchStrategy[Node] = st.recursive(
    st.one_of(st.integers(0, 20).map(lambda n: Num(Fraction(n))), st.sampled_from("xyz").map(Sym)),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda t: Add(list(t))),
        st.tuples(inner, inner).map(lambda t: Mul(list(t))),
        st.tuples(inner, inner).map(lambda t: Add([t[0], Mul([MINUS_ONE, t[1]])])),
        st.tuples(inner, inner).map(lambda t: Mul([t[0], Pow(t[1], MINUS_ONE)])),
        st.tuples(inner, st.integers(1, 3)).map(lambda t: Pow(t[0], Num(Fraction(t[1])))),
        inner.map(lambda e: Call("abs", [e])),
    ),
    max_leaves=10,
)


def outcome(tree: Node, point: dict[str, Fraction]) -> object:
    try:
        return evaluate(tree, point)
    except NoValue as error:
        return str(error)


@given(TREES)
@settings(deadline=None, max_examples=300)
def test_what_is_written_reads_back_as_the_same_value(tree: Node) -> None:
    """Brackets may vanish, so values are compared at two points."""
    again = read(render(tree))
    assert variables(again) == variables(tree)
    for point in ({"x": Fraction(3), "y": Fraction(-2), "z": Fraction(5, 7)}, {n: Fraction(11) for n in "xyz"}):
        assert outcome(again, point) == outcome(tree, point)


@given(st.lists(st.fractions(max_denominator=9), min_size=1, max_size=5))
@settings(deadline=None, max_examples=100)
def test_coefficients_are_found_from_values(wanted: list[Fraction]) -> None:
    while wanted and not wanted[-1]:
        wanted.pop()
    terms = [Mul([Num(c), Pow(Sym("x"), Num(Fraction(k)))]) for k, c in enumerate(wanted)]
    assert coefficients(Add([Num(Fraction(0)), *terms]), "x", 6, Budget(seconds=600)) == wanted
    assert at(wanted, Fraction(2)) == sum((c * 2**k for k, c in enumerate(wanted)), Fraction(0))


@pytest.mark.parametrize("text", ["1/x", "sqrt(x)", "|x|", "x^7", "x+y", "2^x", "f(x)", r"\sin x"])
def test_what_is_no_small_polynomial_has_no_coefficients(text: str) -> None:
    assert coefficients(read(text), "x", 6, Budget(seconds=600)) is None


@pytest.mark.parametrize(
    ("relation", "polynomial", "always"),
    [
        (">=", [0, 0, 1], True),
        (">", [0, 0, 1], False),
        (">", [1, 0, 1], True),
        (">", [-1, 0, 1], False),
        ("<", [-1, 0, -1], True),
        ("<=", [], True),
        (">", [1, 1], False),
        (">=", [1, -2, 1], True),
    ],
)
def test_signs_for_all_reals(relation: str, polynomial: list[int], always: bool) -> None:
    assert has_sign(relation, list(map(Fraction, polynomial))) == always


@pytest.mark.parametrize(
    ("text", "work"), [("2x+3x", True), ("2x+3", False), ("2(x+3)", True), ("sin(2x)", True), ("x^2", False)]
)
def test_what_is_left_to_do(text: str, work: bool) -> None:
    assert has_work(read(text)) == work


def test_substitution_goes_through_definitions_and_stops() -> None:
    functions = {"f": ("t", read("t^2+a"))}
    tree = substitute(read("f(x+1)"), {"x": Num(Fraction(2)), "a": read("x+3")}, functions)
    assert evaluate(tree) == 14
    assert variables(substitute(Sym("x"), {"x": read("x+1")}, {})) == {"x"}  # no way out, but no endless one either


def test_values_say_why_there_are_none() -> None:
    for text, reason in {
        "1/0": "division by zero",
        "0^0": "0^0 has no agreed value",
        "(-1)!": "a side has no value",
    }.items():
        with pytest.raises(NoValue, match=reason.replace("^", r"\^")):
            value_of(read(text), None, Budget(seconds=600))
