"""Next steps for equations and inequalities in one unknown: expand, collect, move a term, divide, factor."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from aipo_agents.algebra import at, coefficients, has_work
from aipo_agents.render import render, spoken
from aipo_env.grading.mathematics import Budget, variables
from aipo_env.grading.nodes import Add, Mul, Node, Num, Pow, Relation, Sym, children

MAX_DEGREE: Final = 12
MAX_ROOT: Final = 1000
_FLIPPED: Final = {"=": "=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}

Coefficients = list[Fraction]
"""By rising degree, without zeros at the end."""


def equation_step(equation: Relation, budget: Budget) -> str | None:
    """One step towards the solution of an equation (two members) in one unknown, or None where we know none."""
    names, relation = sorted(variables(equation)), equation.operators[0]
    if len(names) != 1 or len(equation.members) != 2 or relation not in _FLIPPED:
        return None
    left, right = equation.members
    symbol, name = names[0], spoken(names[0])
    denominator = _denominator(equation)
    if denominator is not None:
        return f"multiply both sides by {render(denominator)}, and exclude the values that make it 0"
    a, b = (coefficients(side, symbol, MAX_DEGREE, budget) for side in (left, right))
    if a is None or b is None:
        return None
    if relation == "=" and not b and isinstance(left, Mul) and any(isinstance(factor, Add) for factor in left.factors):
        factors = [f"{render(factor)}=0" for factor in left.factors if variables(factor)]
        return f"a product is 0 only if a factor is: {' or '.join(factors)}"
    if not (_collected(left, a) and _collected(right, b)):
        return f"expand and collect: {_show(a, relation, b, name)}"
    if max(len(a), len(b)) == 2:
        return _linear(a + [Fraction(0)] * (2 - len(a)), b + [Fraction(0)] * (2 - len(b)), relation, name)
    if b:
        return f"bring everything to one side: {_show(_subtract(a, b), relation, [], name)}"
    if relation != "=":
        return f"find the zeros of {_polynomial(a, name)}, then its sign between them"
    return _factored(a, name)


def expression_step(expression: Node, budget: Budget) -> str | None:
    """One step for an expression in one variable and no relation: how to expand or factor it."""
    names = sorted(variables(expression))
    if len(names) != 1 or _denominator(expression) is not None:
        return None
    found = coefficients(expression, names[0], MAX_DEGREE, budget)
    if found is None:
        return None
    if not _collected(expression, found):
        return f"multiply out and collect: {_polynomial(found, spoken(names[0]))}"
    if len(found) == 3 and all(c.denominator == 1 for c in found):
        constant, linear, lead = found
        return f"to factor it, find two numbers with the sum {linear} and the product {lead * constant}"
    return None


def _linear(a: Coefficients, b: Coefficients, relation: str, name: str) -> str:
    if a[1] == 0:
        return f"swap the sides: {_show(b, _FLIPPED[relation], a, name)}"
    term = [Fraction(0), b[1]] if b[1] else [a[0]]
    if any(term):
        negative = term[-1] < 0
        shown = _polynomial([abs(c) for c in term], name)
        move = f"add {shown} to both sides" if negative else f"subtract {shown} from both sides"
        return f"{move}: {_show(_subtract(a, term), relation, _subtract(b, term), name)}"
    if a[1] != 1:
        flip = "" if relation == "=" or a[1] > 0 else f"; that turns {relation} into {_FLIPPED[relation]}"
        inverse = abs(a[1].numerator) == 1
        return f"{'multiply' if inverse else 'divide'} both sides by {1 / a[1] if inverse else a[1]}{flip}"
    return f"{name} is isolated: put it into the first equation to check"


def _factored(a: Coefficients, name: str) -> str | None:
    """A step for a polynomial of degree two or more that is to be 0: a factor that goes with a whole root, or a formula."""
    root = next((k for k in _candidates(a) if at(a, Fraction(k)) == 0), None)
    if root is not None:
        rest = [at(a[degree:], Fraction(root)) for degree in range(1, len(a))]  # Horner's rule
        factor = _polynomial([Fraction(-root), Fraction(1)], name)
        return f"factor: {factor if root == 0 else f'({factor})'}({_polynomial(rest, name)})=0"
    if len(a) == 3:
        return f"compute the discriminant b^2-4ac with a={a[2]}, b={a[1]}, c={a[0]}"
    return None


def _candidates(a: Coefficients) -> Iterator[int]:
    """Whole numbers that may be a root: 0, or what divides the last coefficient."""
    yield 0
    for root in range(1, MAX_ROOT + 1):
        if a[0].denominator != 1 or a[0] % root == 0:
            yield from (root, -root)


def _polynomial(a: Coefficients, name: str) -> str:
    """`x^2-5x+6`."""
    powers = [Pow(Sym(name), Num(Fraction(k))) if k > 1 else Sym(name) for k in range(len(a))]
    terms: list[Node] = [
        Num(c) if k == 0 else powers[k] if c == 1 else Mul([Num(c), powers[k]]) for k, c in enumerate(a) if c
    ]
    return render(Add(terms[::-1])) if terms else "0"


def _show(a: Coefficients, relation: str, b: Coefficients, name: str) -> str:
    return f"{_polynomial(a, name)}{relation}{_polynomial(b, name)}"


def _subtract(a: Coefficients, b: Coefficients) -> Coefficients:
    size = max(len(a), len(b))
    first, second = ([*side, *[Fraction(0)] * (size - len(side))] for side in (a, b))
    return [x - y for x, y in zip(first, second, strict=True)]


def _denominator(node: Node) -> Node | None:
    """The first divisor with a variable in it."""
    if isinstance(node, Pow) and isinstance(node.exponent, Num) and node.exponent.value < 0 and variables(node.base):
        return node.base if node.exponent.value == -1 else Pow(node.base, Num(-node.exponent.value))
    return next((found for part in children(node) if (found := _denominator(part)) is not None), None)


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
