"""Next steps for equations and inequalities: expand, collect, move a term, divide, factor."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Final

from aipo_agents.exact import EvaluationError
from aipo_agents.expressions import Call, Expression, Number, Variable, variables
from aipo_agents.polynomials import ONE, Algebra, Polynomial, TooLargeError
from aipo_agents.render import render

MAX_DEGREE: Final = 12
MAX_ROOT: Final = 1000
_FLIPPED: Final = {"=": "=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}

Coefficients = list[Fraction]
"""By rising degree, without zeros at the end."""


@dataclasses.dataclass(frozen=True, slots=True)
class Equation:
    """left RELATION right."""

    left: Expression
    relation: str
    right: Expression


class _MoreNamesError(Exception):
    """A polynomial that should be in one variable holds pi or e as well."""


def equation_step(equation: Equation) -> str | None:
    """One step towards the solution of an equation in one unknown, or None where we know none."""
    names = sorted(variables(equation.left) | variables(equation.right))
    if len(names) != 1 or equation.relation not in _FLIPPED:
        return None
    algebra, name = Algebra(), names[0]
    try:
        left, right = algebra.normal_form(equation.left), algebra.normal_form(equation.right)
        if algebra.opaque:
            return None
        for side in (left, right):
            if side.denominator != {ONE: Fraction(1)}:
                shown = format_polynomial(_coefficients(side.denominator, name), name)
                return f"multiply both sides by {shown}, and exclude the values that make it 0"
        factored = _special_form(equation, name)
        if factored is not None:
            return factored
        a, b = _coefficients(left.numerator, name), _coefficients(right.numerator, name)
    except EvaluationError as error:
        return f"stop: {error}"
    except (TooLargeError, _MoreNamesError):
        return None
    if max(len(a), len(b)) > MAX_DEGREE + 1:
        return None
    if not (_collected(equation.left, a) and _collected(equation.right, b)):
        return f"expand and collect: {_show(a, equation.relation, b, name)}"
    degree = len(_subtract(a, b)) - 1
    if degree < 1:
        return f"{name} drops out when both sides are compared: see whether what is left is always true or never"
    if degree == 1:
        return _linear(a, b, equation.relation, name)
    if equation.relation != "=":
        return _inequality(a, b, equation.relation, name)
    return _polynomial(a, b, name)


def system_step(first: Equation, second: Equation) -> str | None:
    """One step for two linear equations in the same two unknowns."""
    names = sorted(set().union(*(variables(side) for e in (first, second) for side in (e.left, e.right))))
    if len(names) != 2 or first.relation != "=" or second.relation != "=":
        return None
    algebra, rows = Algebra(), list[tuple[Fraction, Fraction]]()
    try:
        for equation in (first, second):
            difference = algebra.difference(algebra.normal_form(equation.left), algebra.normal_form(equation.right))
            linear = {((names[0], 1),), ((names[1], 1),), ONE}
            if algebra.opaque or not set(difference) <= linear:
                return None
            rows.append((difference.get(((names[0], 1),), Fraction(0)), difference.get(((names[1], 1),), Fraction(0))))
    except (EvaluationError, TooLargeError):
        return None
    for which, row in zip(("first", "second"), rows, strict=True):
        for index in (0, 1):
            if abs(row[index]) == 1:
                other = "second" if which == "first" else "first"
                return f"solve the {which} equation for {names[index]} and put it into the {other}"
    (_, p), (_, q) = rows
    if p == 0 or q == 0:
        return f"one equation holds {names[0]} alone: solve it first"
    ratio = abs(q / p)
    sign = "subtract" if p * q > 0 else "add"
    return (
        f"multiply the first by {ratio.numerator} and the second by {ratio.denominator}, then {sign} "
        f"them: {names[1]} drops out"
    )


def expression_step(expression: Expression) -> str | None:
    """One step for an expression with variables and no relation: how to expand or factor it."""
    names = sorted(variables(expression))
    if isinstance(expression, Call) and expression.op == "^" and isinstance(expression.args[0], Call):
        base, exponent = expression.args
        if isinstance(base, Call) and base.op in ("+", "-") and isinstance(exponent, Number) and exponent.value == 2:
            a, b = map(render, base.args)
            return f"use (a{base.op}b)^2 = a^2{base.op}2ab+b^2 with a={a}, b={b}"
    algebra = Algebra()
    try:
        form = algebra.normal_form(expression)
    except (EvaluationError, TooLargeError):
        return None
    if algebra.opaque:
        return None
    if form.denominator != {ONE: Fraction(1)}:
        return "bring everything over a common denominator, then cancel common factors"
    if len(names) != 1:
        return None if _num_terms(expression) == len(form.numerator) else "multiply out and collect like terms"
    try:
        coefficients = _coefficients(form.numerator, names[0])
    except _MoreNamesError:
        return None
    if not _collected(expression, coefficients):
        return "multiply out, each term with each, and collect like terms"
    if len(coefficients) == 3 and all(c.denominator == 1 for c in coefficients):
        constant, linear, lead = coefficients
        return f"to factor it, find two numbers with the sum {linear} and the product {lead * constant}"
    return None


def format_polynomial(coefficients: Coefficients, name: str) -> str:
    """`x^2-5x+6`."""
    text = ""
    for degree in range(len(coefficients) - 1, -1, -1):
        value = coefficients[degree]
        if value == 0:
            continue
        power = "" if degree == 0 else name if degree == 1 else f"{name}^{degree}"
        size = abs(value)
        number = "" if size == 1 and power else str(size)
        glue = "*" if "/" in number and power else ""
        text += ("-" if value < 0 else "+" if text else "") + number + glue + power
    return text or "0"


def _special_form(equation: Equation, name: str) -> str | None:
    """Products and squares that can be used as they stand."""
    left, right = equation.left, equation.right
    if equation.relation != "=" or variables(right):
        return None
    if isinstance(right, Number) and right.value == 0 and isinstance(left, Call) and left.op == "*":
        factors = [factor for factor in left.args if variables(factor)]
        if len(factors) == 2:
            return f"a product is 0 only if a factor is: {render(factors[0])}=0 or {render(factors[1])}=0"
    if isinstance(left, Call) and left.op == "^" and isinstance(left.args[1], Number) and left.args[1].value == 2:
        shown, value = render(left.args[0]), render(right)
        if isinstance(right, Call) and right.op == "neg":
            return f"a square of a real number is never negative: there is no real {name}"
        if isinstance(right, Number):
            return f"take the root of both sides: {shown}=sqrt({value}) or {shown}=-sqrt({value})"
    return None


def _linear(a: Coefficients, b: Coefficients, relation: str, name: str) -> str:
    a, b = _padded(a, 2), _padded(b, 2)
    if a[1] == 0:
        return f"swap the sides: {_show(b, _FLIPPED[relation], a, name)}"
    if b[1] != 0:
        term: Coefficients = [Fraction(0), b[1]]
        return f"{_move(term, name)}: {_show(_subtract(a, term), relation, _subtract(b, term), name)}"
    if a[0] != 0:
        term = [a[0]]
        return f"{_move(term, name)}: {_show(_subtract(a, term), relation, _subtract(b, term), name)}"
    if a[1] != 1:
        flip = "" if relation == "=" or a[1] > 0 else f"; that turns {relation} into {_FLIPPED[relation]}"
        factor = a[1]
        if abs(factor.numerator) == 1 and factor.denominator > 1:
            return f"multiply both sides by {1 / factor}{flip}"
        return f"divide both sides by {factor}{flip}"
    return f"{name} is isolated: put it into the first equation to check"


def _inequality(a: Coefficients, b: Coefficients, relation: str, name: str) -> str:
    if b:
        return f"bring everything to one side: {_show(_subtract(a, b), relation, [], name)}"
    return f"find the zeros of {format_polynomial(a, name)}, then its sign between them"


def _polynomial(a: Coefficients, b: Coefficients, name: str) -> str | None:
    """Degree two or more."""
    if a == [0, 0, 1] and len(b) == 1:
        return (
            f"take the root of both sides: {name}=sqrt({b[0]}) or {name}=-sqrt({b[0]})"
            if b[0] >= 0
            else "no real solution"
        )
    if len(a) == 3 and a[1] == 0 and a[0] == 0 and len(b) == 1:
        return f"divide both sides by {a[2]}"
    if b:
        return f"bring everything to one side: {_show(_subtract(a, b), '=', [], name)}"
    scale = math.lcm(*(c.denominator for c in a))
    if scale > 1:
        return f"multiply both sides by {scale}: {_show([c * scale for c in a], '=', [], name)}"
    common = math.gcd(*(int(c) for c in a))
    if common > 1:
        return f"divide both sides by {common}: {_show([c / common for c in a], '=', [], name)}"
    if a[0] == 0:
        return f"factor out {name}: {name}({format_polynomial(a[1:], name)})=0"
    if len(a) == 3 and a[1] == 0:
        return f"move the number: {_show([Fraction(0), Fraction(0), a[2]], '=', [-a[0]], name)}"
    if len(a) == 3:
        return _quadratic(a, name)
    if len(a) == 5 and a[1] == a[3] == 0:
        return f"put u={name}^2: {format_polynomial([a[0], a[2], a[4]], 'u')}=0"
    root = _integer_root(a)
    if root is not None:
        return f"{name}={root} is a root: divide by ({format_polynomial([Fraction(-root), Fraction(1)], name)})"
    return None


def _quadratic(a: Coefficients, name: str) -> str:
    c, b, lead = (int(value) for value in a)
    discriminant = b * b - 4 * lead * c
    if discriminant >= 0 and math.isqrt(discriminant) ** 2 == discriminant:
        factors: list[str] = []
        for sign in (1, -1):
            root = Fraction(-b + sign * math.isqrt(discriminant), 2 * lead)
            factors.append(format_polynomial([Fraction(-root.numerator), Fraction(root.denominator)], name))
        minus = "-" if lead < 0 else ""
        return f"factor: {minus}({factors[0]})({factors[1]})=0"
    return f"compute the discriminant b^2-4ac with a={lead}, b={b}, c={c}"


def _integer_root(a: Coefficients) -> int | None:
    for candidate in range(1, MAX_ROOT + 1):
        if a[0] % candidate == 0:
            for root in (candidate, -candidate):
                if sum(c * root**degree for degree, c in enumerate(a)) == 0:
                    return root
    return None


def _coefficients(polynomial: Polynomial, name: str) -> Coefficients:
    result: Coefficients = []
    for monomial, coefficient in polynomial.items():
        degree = monomial[0][1] if monomial else 0
        if len(monomial) > 1 or (monomial and monomial[0][0] != name):
            raise _MoreNamesError
        result += [Fraction(0)] * (degree + 1 - len(result))
        result[degree] = coefficient
    return _stripped(result)


def _subtract(a: Coefficients, b: Coefficients) -> Coefficients:
    size = max(len(a), len(b))
    return _stripped([x - y for x, y in zip(_padded(a, size), _padded(b, size), strict=True)])


def _padded(a: Coefficients, size: int) -> Coefficients:
    return a + [Fraction(0)] * (size - len(a))


def _stripped(a: Coefficients) -> Coefficients:
    while a and a[-1] == 0:
        a = a[:-1]
    return a


def _show(a: Coefficients, relation: str, b: Coefficients, name: str) -> str:
    return f"{format_polynomial(a, name)}{relation}{format_polynomial(b, name)}"


def _move(term: Coefficients, name: str) -> str:
    negative = term[-1] < 0
    shown = format_polynomial([-c for c in term] if negative else term, name)
    return f"add {shown} to both sides" if negative else f"subtract {shown} from both sides"


def _collected(expression: Expression, coefficients: Coefficients) -> bool:
    """Whether a side is a sum of as many terms as its normal form has, none of them with a sum inside."""
    return _num_terms(expression) == max(sum(1 for c in coefficients if c), 1)


def _num_terms(expression: Expression) -> int:
    """The number of terms of a sum; a term that holds a sum or a product of powers counts as too many."""
    stack, count = [expression], 0
    while stack:
        node = stack.pop()
        if isinstance(node, Call) and node.op in ("+", "-", "neg"):
            stack.extend(node.args)
        else:
            count += 1 if _simple(node) else 1000
    return count


def _simple(node: Expression) -> bool:
    """A number, a variable, a power of a variable, a fraction of numbers, or a number times such a thing."""
    match node:
        case Number() | Variable():
            return True
        case Call(op="^", args=(Variable(), Number())):
            return True
        case Call(op="*" | "/", args=(a, b)) if not variables(a) or not variables(b):
            return _simple(a) and _simple(b)
        case _:
            return False
