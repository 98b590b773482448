from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo_agents.exact import EvaluationError, NotExactError, evaluate, root
from aipo_agents.expressions import Call, Expression, Number, ParseError, Variable, parse, variables
from aipo_agents.lexer import normalize, tokenize
from aipo_agents.numeric import evaluate_decimal, evaluate_float
from aipo_agents.polynomials import Algebra, TooLargeError
from aipo_agents.render import render, render_latex


def read(text: str) -> Expression:
    return parse(tokenize(normalize(text)))


def number(value: int) -> Expression:
    return Number(Fraction(value), str(value))


EXPRESSIONS = st.recursive(
    st.one_of(st.integers(0, 20).map(number), st.sampled_from("xyz").map(Variable)),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["+", "-", "*", "/"]), inner, inner).map(lambda t: Call(t[0], (t[1], t[2]))),
        inner.map(lambda e: Call("neg", (e,))),
        st.tuples(inner, st.integers(0, 3)).map(lambda t: Call("^", (t[0], number(t[1])))),
        inner.map(lambda e: Call("abs", (e,))),
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2+3*4", "14"),
        ("(2+3)*4", "20"),
        ("-3^2", "-9"),
        ("2^-1", "1/2"),
        ("2^3^2", "512"),
        ("8^(2/3)", "4"),
        ("10%", "1/10"),
        ("50% * 8", "4"),
        ("17%5", "2"),
        (r"\frac12", "1/2"),
        (r"\dfrac{3}{4}\cdot\frac43", "1"),
        (r"\sqrt[3]{27}", "3"),
        (r"\sqrt{\frac{9}{4}}", "3/2"),
        (r"\binom52", "10"),
        ("2(3)(4)", "24"),
        ("|2-5|!", "6"),
        ("max(1,7,3)-min(4,2)", "5"),
        ("lcm(4,6)", "12"),
        ("3²+4²", "25"),
        ("½+¼", "3/4"),
        ("--3", "3"),
        (r"\left(1+2\right)\times 3\div 9", "1"),
        (r"\log_{10} 1000", "3"),
        (r"\log_4 8", None),
        ("sqrt 2", None),
        ("pi", None),
    ],
)
def test_exact_values(text: str, value: str | None) -> None:
    if value is None:
        with pytest.raises(NotExactError):
            evaluate(read(text))
    else:
        assert evaluate(read(text)) == Fraction(value)


@pytest.mark.parametrize(
    "text", ["1/0", "0^0", "0^-1", "(-1)!", "301!", "2^99999", "9^9^9", "C(5,9)", "sqrt(-1)", "5 mod 0"]
)
def test_no_value(text: str) -> None:
    with pytest.raises(EvaluationError):
        evaluate(read(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1+",
        "(1",
        "1)",
        "*2",
        "1/2x",
        "2 3",
        r"\frac{1}{2}3",
        r"2\frac12",
        "5!!",
        "|1",
        "1@2",
        "x=1",
        "sin",
        "(" * 99 + "1" + ")" * 99,
    ],
)
def test_no_expression(text: str) -> None:
    with pytest.raises(ParseError):
        read(text)


@given(EXPRESSIONS)
@settings(deadline=None, max_examples=300)
def test_what_is_written_reads_back_as_the_same_value(expression: Expression) -> None:
    """Brackets may vanish, so values are compared: at two points, and as plain text and LaTeX."""
    for text in (render(expression), render_latex(expression)):
        again = read(text)
        assert variables(again) == variables(expression)
        for point in ({"x": Fraction(3), "y": Fraction(-2), "z": Fraction(5, 7)}, {n: Fraction(11) for n in "xyz"}):
            assert outcome(again, point) == outcome(expression, point)


def outcome(expression: Expression, point: dict[str, Fraction]) -> object:
    try:
        return evaluate(expression, point)
    except EvaluationError as error:
        return str(error)


@given(EXPRESSIONS, EXPRESSIONS)
@settings(deadline=None, max_examples=150)
def test_normal_forms_agree_with_values(left: Expression, right: Expression) -> None:
    """If the algebra calls two expressions equal, they are equal wherever both have a value."""
    algebra = Algebra()
    try:
        equal = algebra.equal(algebra.normal_form(left), algebra.normal_form(right))
    except (TooLargeError, EvaluationError):
        return
    if algebra.opaque:
        return
    points = [
        {"x": Fraction(a), "y": Fraction(b, 3), "z": Fraction(-a, 7)} for a, b in ((2, 5), (7, 4), (-5, 11), (13, -8))
    ]
    values = [(outcome(left, point), outcome(right, point)) for point in points]
    numbers = [(a, b) for a, b in values if isinstance(a, Fraction) and isinstance(b, Fraction)]
    if equal:
        assert all(a == b for a, b in numbers)
    elif not variables(left) | variables(right):
        assert all(a != b for a, b in numbers)


@given(EXPRESSIONS)
@settings(deadline=None, max_examples=150)
def test_floats_agree_with_exact_values(expression: Expression) -> None:
    point = {"x": Fraction(3), "y": Fraction(1, 2), "z": Fraction(-2)}
    value, approximate = outcome(expression, point), evaluate_float(expression, {k: float(v) for k, v in point.items()})
    if isinstance(value, Fraction) and approximate is not None and abs(value) < 10**6:
        assert approximate == pytest.approx(float(value), rel=1e-6, abs=1e-6)


@given(st.integers(0, 10**40), st.integers(1, 9))
@settings(deadline=None)
def test_integer_roots(value: int, degree: int) -> None:
    assert root(Fraction(value**degree), degree) == value
    assert root(Fraction(1, (value + 1) ** degree), degree) == Fraction(1, value + 1)
    if degree > 1:
        with pytest.raises(NotExactError):
            root(Fraction((value + 1) ** degree + 1), degree)


def test_decimals_have_sixty_digits() -> None:
    value = evaluate_decimal(read("sqrt(2)"))
    assert str(value).startswith("1.41421356237309504880168872420969807856967187537694807317667")
    assert evaluate_decimal(read("x+1")) is None
    assert evaluate_decimal(read("1/0")) is None
