"""Next steps for equations and inequalities: expand, collect, move a term, divide, factor."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

from aipo_agents.algebra import coefficients, has_work, minus
from aipo_agents.render import render, spoken
from aipo_env.grading.mathematics import Budget, NoValue, evaluate, variables
from aipo_env.grading.nodes import Add, Mul, Node, Num, Pow, Relation, Sym, children

MAX_DEGREE: Final = 12
MAX_ROOT: Final = 1000
_FLIPPED: Final = {"=": "=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}

Coefficients = list[Fraction]
"""By rising degree, without zeros at the end."""


def equation_step(equation: Relation, budget: Budget) -> str | None:
    """One step towards the solution of an equation (two members) in one unknown, or None where we know none."""
    left, right, relation = *equation.members, equation.operators[0]
    names = sorted(variables(equation))
    if len(names) != 1 or relation not in _FLIPPED:
        return None
    symbol, name = names[0], spoken(names[0])
    for side in (left, right):
        denominator = _denominator(side)
        if denominator is not None:
            return f"multiply both sides by {render(denominator)}, and exclude the values that make it 0"
    found = [coefficients(side, symbol, MAX_DEGREE, budget) for side in (left, right)]
    a, b = found
    if a is None or b is None:
        return None
    factored = _special_form(left, right, relation, name)
    if factored is not None:
        return factored
    if not (_collected(left, a) and _collected(right, b)):
        return f"expand and collect: {_show(a, relation, b, name)}"
    degree = len(_subtract(a, b)) - 1
    if degree < 1:
        return f"{name} drops out when both sides are compared: see whether what is left is always true or never"
    if degree == 1:
        return _linear(a, b, relation, name)
    if relation != "=":
        return _inequality(a, b, relation, name)
    return _polynomial(a, b, name)


def system_step(first: Relation, second: Relation, budget: Budget) -> str | None:
    """One step for two linear equations in the same two unknowns."""
    names = sorted(variables(first) | variables(second))
    if len(names) != 2 or first.operators != ["="] or second.operators != ["="]:
        return None
    rows: list[list[Fraction]] = []
    for equation in (first, second):
        row = _linear_row(minus(*equation.members), names, budget)
        if row is None:
            return None
        rows.append(row)
    x, y = map(spoken, names)
    for which, row in zip(("first", "second"), rows, strict=True):
        for index, name in enumerate((x, y)):
            if abs(row[index]) == 1:
                other = "second" if which == "first" else "first"
                return f"solve the {which} equation for {name} and put it into the {other}"
    (_, p), (_, q) = rows
    if p == 0 or q == 0:
        return f"one equation holds {x} alone: solve it first"
    ratio = abs(q / p)
    sign = "subtract" if p * q > 0 else "add"
    return (
        f"multiply the first by {ratio.numerator} and the second by {ratio.denominator}, then {sign} "
        f"them: {y} drops out"
    )


def expression_step(expression: Node, budget: Budget) -> str | None:
    """One step for an expression with variables and no relation: how to expand or factor it."""
    match expression:
        case Pow(Add([first, second]), Num(two)) if two == 2:
            negative = render(Add([Num(Fraction(0)), second])).startswith("0-")
            sign, size = ("-", render(Mul([Num(Fraction(-1)), second]))) if negative else ("+", render(second))
            size = size.removeprefix("--")
            return f"use (a{sign}b)^2 = a^2{sign}2ab+b^2 with a={render(first)}, b={size}"
    names = sorted(variables(expression))
    if len(names) != 1 or _denominator(expression) is not None:
        return None
    found = coefficients(expression, names[0], MAX_DEGREE, budget)
    if found is None:
        return None
    if not _collected(expression, found):
        return f"multiply out and collect: {format_polynomial(found, spoken(names[0]))}"
    if len(found) == 3 and all(c.denominator == 1 for c in found):
        constant, linear, lead = found
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


def _special_form(left: Node, right: Node, relation: str, name: str) -> str | None:
    """Products and squares that can be used as they stand."""
    if relation != "=" or not isinstance(right, Num):
        return None
    if right.value == 0 and isinstance(left, Mul):
        factors = [render(factor) for factor in left.factors if variables(factor)]
        if len(factors) == 2 and any(isinstance(factor, Add) for factor in left.factors):
            return f"a product is 0 only if a factor is: {factors[0]}=0 or {factors[1]}=0"
    match left:
        case Pow(base, Num(two)) if two == 2:
            if right.value < 0:
                return f"a square of a real number is never negative: there is no real {name}"
            shown, value = render(base), render(right)
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


def _denominator(node: Node) -> Node | None:
    """The first divisor with a variable in it."""
    if isinstance(node, Pow) and isinstance(node.exponent, Num) and node.exponent.value < 0 and variables(node.base):
        return node.base if node.exponent.value == -1 else Pow(node.base, Num(-node.exponent.value))
    return next((found for part in children(node) if (found := _denominator(part)) is not None), None)


def _linear_row(node: Node, names: list[str], budget: Budget) -> list[Fraction] | None:
    """The factors of two variables in a linear expression, from its values; None if it is not linear."""

    def at(x: int, y: int) -> Fraction:
        value = evaluate(node, {names[0]: Fraction(x), names[1]: Fraction(y)}, budget)
        if not isinstance(value, Fraction):
            raise NoValue("not rational")
        return value

    try:
        constant = at(0, 0)
        row = [at(1, 0) - constant, at(0, 1) - constant]
        linear = all(at(x, y) == constant + row[0] * x + row[1] * y for x, y in ((2, 3), (-5, 7), (11, -2)))
    except NoValue:
        return None
    return row if linear else None


def _collected(side: Node, found: Coefficients) -> bool:
    """Whether a side is a sum of as many terms as its normal form has, none of them with a sum inside."""
    terms = side.terms if isinstance(side, Add) else [side]
    return not has_work(side) and len(terms) == max(sum(1 for c in found if c), 1) and all(map(_simple, terms))


def _simple(node: Node) -> bool:
    """A number, a variable, a power of a variable, or numbers times such a thing."""
    match node:
        case Num() | Sym():
            return True
        case Pow(base, Num()):
            return isinstance(base, Sym | Num)
        case Mul(factors):
            return all(map(_simple, factors)) and sum(1 for factor in factors if variables(factor)) <= 1
    return False
