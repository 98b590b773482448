"""Decides one link of a claim: two expressions and the relation between them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Final, Literal

from aipo_agents.exact import EvaluationError, NotExactError, evaluate, format_fraction
from aipo_agents.expressions import Call, Expression, Number, Variable, count_terms, has_work, variables
from aipo_agents.numeric import DECIMAL_DIGITS, clearly_different, evaluate_decimal, evaluate_float
from aipo_agents.polynomials import ONE, Algebra, Polynomial, TooLargeError

_POINTS: Final = tuple(map(Fraction, ("2", "3", "1", "5", "1/2", "-1", "-2", "7", "0", "10")))
_PLACE_SUM: Final = re.compile(r"[0-9]\+[0-9]\+[0-9]")


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What is known about a link; `unproven` asks for a computer algebra system."""

    verdict: Literal["correct", "incorrect", "unknown", "unproven"]
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """left RELATION right, with the texts as written."""

    left: Expression
    relation: str
    right: Expression
    left_text: str
    right_text: str
    modulus: int | None = None


def check_link(link: Link, algebra: Algebra, values: Mapping[str, Fraction] | None = None) -> Outcome:
    """Decides a link exactly where that is possible, refutes it numerically where that is.

    Args:
        link: what to check.
        algebra: the budget for identities.
        values: the values of variables that the query states elsewhere.
    """
    try:
        left, right = evaluate(link.left, values), evaluate(link.right, values)
    except EvaluationError as error:
        return Outcome("unknown", str(error))
    except NotExactError:
        return _check_symbolic(link, algebra, values or {})
    return _compare_numbers(link, left, right, values)


def _compare_numbers(link: Link, left: Fraction, right: Fraction, values: Mapping[str, Fraction] | None) -> Outcome:
    if link.relation == "==":
        if link.modulus is None or link.modulus < 1:
            return Outcome("unknown", "a congruence needs a modulus, such as (mod 5)")
        if left.denominator != 1 or right.denominator != 1:
            return Outcome("unknown", "a congruence is between integers")
        if (left - right) % link.modulus == 0:
            return Outcome("correct")
        rest = int(left) % link.modulus
        return Outcome("incorrect", f"{_short(link.left_text)} leaves the remainder {rest} modulo {link.modulus}")
    if link.relation == "|":
        if left.denominator != 1 or right.denominator != 1 or left == 0:
            return Outcome("unknown", "divisibility is between integers, by one that is not 0")
        rest = int(right) % abs(int(left))
        return Outcome("correct") if rest == 0 else Outcome("incorrect", f"the remainder is {rest}")
    if link.relation == "~=":
        return (
            _approximate(link, float(left), float(right))
            if _fits_float(left, right)
            else Outcome("unknown", "too large")
        )
    if _holds(link.relation, left, right):
        return Outcome("correct")
    if values and (variables(link.left) | variables(link.right)):
        return Outcome("incorrect", _at_point(values, format_fraction(left), format_fraction(right)))
    return Outcome("incorrect", _wrong_numbers(link, left, right))


def _wrong_numbers(link: Link, left: Fraction, right: Fraction) -> str:
    """The reason: the values of those sides that are not plain numbers already."""
    facts: list[str] = []
    for expression, text, value, other in (
        (link.left, link.left_text, left, link.right_text),
        (link.right, link.right_text, right, link.left_text),
    ):
        if _is_literal(expression, value):
            continue
        shown = format_fraction(value)
        if _PLACE_SUM.fullmatch(text.replace(" ", "")) and re.fullmatch("[0-9]{2}", other.strip()):
            shown = shown.zfill(2)  # a place of the rulebook is written with two digits
        elif "." in other and (decimal := _decimal(value)) is not None:
            shown = decimal
        facts.append(f"{_short(text)} is {shown}")
    if facts:
        return ", ".join(facts)
    if link.relation == "=" and abs(left - right) < Fraction(1, 100) * abs(left):
        return f"{_short(link.left_text)} is not exactly {_short(link.right_text)}"
    words = {"=": "is not", "<": "is not less than", ">": "is not greater than", "!=": "is equal to"}
    words |= {"<=": "is greater than", ">=": "is less than"}
    return f"{_short(link.left_text)} {words[link.relation]} {_short(link.right_text)}"


def _is_literal(expression: Expression, value: Fraction) -> bool:
    """Whether a side shows its value already: a number, or a fraction in lowest terms."""
    if isinstance(expression, Call) and expression.op == "neg":
        return _is_literal(expression.args[0], -value)
    if isinstance(expression, Call) and expression.op == "/" and value.denominator > 1:
        denominator = expression.args[1]
        return (
            isinstance(expression.args[0], Number)
            and isinstance(denominator, Number)
            and (denominator.value == value.denominator)
        )
    return isinstance(expression, Number)


def _check_symbolic(link: Link, algebra: Algebra, values: Mapping[str, Fraction]) -> Outcome:
    if link.relation in ("==", "|"):
        return Outcome("unknown", "this needs integers")
    names = sorted(variables(link.left) | variables(link.right))
    if not names:
        return _check_constants(link, algebra)
    if link.relation == "~=":
        return Outcome("unknown", f"it depends on {', '.join(names)}")
    difference: Polynomial | None = None
    rewriting = False
    algebra.opaque = False
    try:
        left, right = algebra.normal_form(link.left), algebra.normal_form(link.right)
        difference = algebra.difference(left, right)
        plain = left.denominator == right.denominator == {ONE: Fraction(1)}
        # like terms on one side, as in 2x+3x=6x
        rewriting = count_terms(link.left) > len(left.numerator) or count_terms(link.right) > len(right.numerator)
    except EvaluationError as error:
        return Outcome("unknown", str(error))
    except TooLargeError:
        plain = False
    if difference is not None:
        if not difference and link.relation in ("=", "<=", ">="):
            return Outcome("correct")
        if (
            link.relation in ("<", "<=", ">", ">=")
            and plain
            and not algebra.opaque
            and _always(link.relation, difference)
        ):
            return Outcome("correct")
    rewriting = rewriting or has_work(link.left) or has_work(link.right)
    rewriting = rewriting and variables(link.left) == variables(link.right)
    return _not_proven(link, names, difference is not None and not algebra.opaque, rewriting)


def _not_proven(link: Link, names: list[str], exact: bool, rewriting: bool) -> Outcome:
    """What to say of a link with variables that is no known identity: a counterexample where there is one.

    Args:
        link: the two sides.
        names: the variables.
        exact: whether the difference of the sides is an exact one.
        rewriting: whether one side looks like another form of the other, so that an identity is claimed.
    """
    listed = ", ".join(names[:4])
    for side, other in ((link.left, link.right), (link.right, link.left)):
        if isinstance(side, Variable) and side.name not in variables(other):
            reason = f"it says what {side.name} is; give the equation to test it in as well"
            return Outcome("unknown", reason)
    if "i" in names:
        return Outcome("unknown", "i may be the imaginary unit")
    tried = 0
    for offset in range(len(_POINTS)):
        point = {name: _POINTS[(offset + index) % len(_POINTS)] for index, name in enumerate(names)}
        left, right = _value_at(link.left, point), _value_at(link.right, point)
        if left is None or right is None:
            continue
        tried += 1
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            fails = not _holds(link.relation, left, right)
        else:
            x, y = float(left), float(right)
            fails = clearly_different(x, y) and not _holds(link.relation, Fraction(x), Fraction(y))
        if not fails:
            continue
        if not variables(link.left) or not variables(link.right) or not rewriting:
            # `2x+3=7`, `2n+1=3n-6`, `AB=CD`: a condition to be used, not a claim that one form is the other.
            reason = f"whether it holds depends on {listed}; add a value such as {names[0]}=2 to test"
            return Outcome("unknown", reason)
        shown = _at_point(point, _show(left), _show(right))
        if link.relation != "=":
            return Outcome("unknown", f"it needs a condition: {shown}")
        return Outcome("incorrect", f"not true for all {listed}: {shown}")
    if link.relation != "=":
        return Outcome(
            "unknown",
            f"it holds at the {tried} points tried, which is no proof" if tried else "it has no value",
        )
    if exact and tried == 0:
        return Outcome("unknown", "it has no value at the points tried")
    return Outcome("unproven", f"the sides agree at the {tried} points tried, which is no proof")


def _check_constants(link: Link, algebra: Algebra) -> Outcome:
    """Irrational numbers."""
    if link.relation == "=" and isinstance(link.left, Variable) and link.left.name == "e":
        return Outcome("unknown", "e may be a name here; write e ~= 2.718 for the constant")
    exact_left, exact_right = evaluate_decimal(link.left), evaluate_decimal(link.right)
    if exact_left is not None and exact_right is not None and link.relation != "~=":
        # Close but different: no tolerance may call that equal.
        gap, size = abs(exact_left - exact_right), max(abs(exact_left), abs(exact_right))
        if Decimal(0) < gap < size * Decimal("1e-6") and gap > size * Decimal(10) ** (5 - DECIMAL_DIGITS):
            if _holds(link.relation, Fraction(exact_left), Fraction(exact_right)):
                return Outcome("correct")
            return Outcome("incorrect", f"the sides are close but differ by about {gap:.2g}")
    left, right = evaluate_float(link.left), evaluate_float(link.right)
    if left is None or right is None:
        return Outcome("unproven" if link.relation == "=" else "unknown", "a side has no value that I can compute")
    if link.relation == "~=":
        return _approximate(link, left, right)
    if clearly_different(left, right):
        if _holds(link.relation, Fraction(left), Fraction(right)):
            return Outcome("correct")
        facts = [
            f"{_short(text)} is about {value:.6g}"
            for expression, text, value in (
                (link.left, link.left_text, left),
                (link.right, link.right_text, right),
            )
            if not isinstance(expression, Number)
        ]
        return Outcome("incorrect", ", ".join(facts))
    try:
        if algebra.equal(algebra.normal_form(link.left), algebra.normal_form(link.right)):
            if link.relation in ("=", "<=", ">="):
                return Outcome("correct")
            return Outcome("incorrect", "the two sides are equal")
    except EvaluationError as error:
        return Outcome("unknown", str(error))
    except TooLargeError:
        pass
    return Outcome(
        "unproven" if link.relation == "=" else "unknown",
        "the sides agree to seven digits, which is no proof",
    )


def _approximate(link: Link, left: float, right: float) -> Outcome:
    """`22/7 ~= 3.14`: within one unit of the last digit written; 1 per cent where no decimal is written."""
    for expression in (link.right, link.left):
        if isinstance(expression, Number) and "." in expression.text:
            tolerance = 10.0 ** -len(expression.text.partition(".")[2])
            break
    else:
        tolerance = 0.01 * max(abs(left), abs(right))
    if abs(left - right) <= tolerance * (1 + 1e-9):
        return Outcome("correct")
    return Outcome(
        "incorrect",
        f"{_short(link.left_text)} is about {left:.6g}, {_short(link.right_text)} about {right:.6g}",
    )


def _always(relation: str, difference: Polynomial) -> bool:
    """Whether left - right has the claimed sign for all reals; proven for one variable, degree at most 2."""
    names = {name for monomial in difference for name, _ in monomial}
    if len(names) > 1:
        return False
    coefficients = [Fraction(0)] * 3
    for monomial, coefficient in difference.items():
        degree = monomial[0][1] if monomial else 0
        if degree > 2:
            return False
        coefficients[degree] = coefficient if relation in (">", ">=") else -coefficient
    c, b, a = coefficients
    if a == 0:
        return b == 0 and (c > 0 or (c == 0 and relation in ("<=", ">=")))
    discriminant = b * b - 4 * a * c
    return a > 0 and (discriminant < 0 or (discriminant == 0 and relation in ("<=", ">=")))


def _holds(relation: str, left: Fraction, right: Fraction) -> bool:
    match relation:
        case "=":
            return left == right
        case "!=":
            return left != right
        case "<":
            return left < right
        case "<=":
            return left <= right
        case ">":
            return left > right
        case _:
            return left >= right


def _value_at(expression: Expression, point: Mapping[str, Fraction]) -> Fraction | float | None:
    try:
        return evaluate(expression, point)
    except EvaluationError:
        return None
    except NotExactError:
        return evaluate_float(expression, {name: float(value) for name, value in point.items()})


def _at_point(values: Mapping[str, Fraction], left: str, right: str) -> str:
    point = ", ".join(f"{name}={format_fraction(value)}" for name, value in itertools.islice(values.items(), 4))
    return f"at {point} the left side is {left}, the right side {right}"


def _show(value: Fraction | float) -> str:
    return format_fraction(value) if isinstance(value, Fraction) else f"about {value:.6g}"


def _decimal(value: Fraction) -> str | None:
    """The finite decimal form, if there is a short one."""
    for digits in range(1, 13):
        scaled = value * 10**digits
        if scaled.denominator == 1:
            whole = str(abs(int(scaled))).zfill(digits + 1)
            text = f"{whole[:-digits]}.{whole[-digits:]}".rstrip("0").rstrip(".")
            return ("-" if value < 0 else "") + (text if len(text) <= 40 else text[:37] + "...")
    return None


def _fits_float(left: Fraction, right: Fraction) -> bool:
    return max(abs(left), abs(right)) < Fraction(10**300) and math.isfinite(float(left))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
