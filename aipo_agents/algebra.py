"""Questions about the engine's trees: coefficients, what is left to do in them, exact values, substitution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Final

from aipo_env.grading.functions import EXACT, UNARY
from aipo_env.grading.mathematics import Budget, NoValue, Value, evaluate, variables
from aipo_env.grading.nodes import Add, Call, Mul, Node, Num, Pow, Sym, children, walk
from aipo_env.grading.trees import rebuilt

MINUS_ONE: Final = Num(Fraction(-1))
_BIG: Final = frozenset(("sum", "prod", "int", "lim", "base", "det", "side+"))
_REASONS: Final = {"ZeroDivisionError": "division by zero", "0^0": "0^0 has no agreed value"}
MAX_DEPTH: Final = 6


def value_of(node: Node, values: Mapping[str, Fraction] | None, budget: Budget) -> Value:
    """The value of a tree.

    Raises:
        NoValue: it has none; the message says why.
        OutOfBudget: it takes too long.
    """
    try:
        return evaluate(node, values, budget)
    except NoValue as error:
        raise NoValue(_REASONS.get(str(error), "a side has no value")) from None


def minus(left: Node, right: Node) -> Node:
    """The difference of two trees."""
    return Add([left, Mul([MINUS_ONE, right])])


def unknown_function(node: Node) -> str | None:
    """The name of a function in it whose values are not known, such as f."""
    for part in walk(node):
        if isinstance(part, Call) and part.name not in UNARY and part.name not in EXACT and part.name not in _BIG:
            return part.name
    return None


def substitute(
    node: Node, values: Mapping[str, Node], functions: Mapping[str, tuple[str, Node]], depth: int = 0
) -> Node:
    """The tree with variables and functions of one variable replaced by what they stand for."""
    if isinstance(node, Sym):
        known = values.get(node.name)
        return node if known is None or depth > MAX_DEPTH else substitute(known, values, functions, depth + 1)

    parts = [substitute(part, values, functions, depth) for part in children(node)]
    if isinstance(node, Call) and len(parts) == 1 and node.name in functions and depth <= MAX_DEPTH:
        variable, body = functions[node.name]
        return substitute(body, {**values, variable: parts[0]}, functions, depth + 1)
    return rebuilt(node, parts)


def coefficients(node: Node, name: str, max_degree: int, budget: Budget) -> list[Fraction] | None:
    """The coefficients by rising degree if a tree is a polynomial with rational ones in one variable, else None.

    They are found from exact values (Newton's interpolation) and tested at as many further points. Zeros at the end are cut.
    """
    if variables(node) - {name}:
        return None
    values: list[Fraction] = []
    points = [Fraction(k * (-1) ** k, 1) + Fraction(1, 3) for k in range(2 * max_degree + 4)]
    for x in points:
        try:
            value = evaluate(node, {name: x}, budget)
        except NoValue:
            return None
        if not isinstance(value, Fraction):
            return None
        values.append(value)
    table = values[: max_degree + 1]
    for level in range(1, max_degree + 1):
        for k in range(max_degree, level - 1, -1):
            table[k] = (table[k] - table[k - 1]) / (points[k] - points[k - level])
    result = [Fraction(0)] * (max_degree + 1)
    for k in range(max_degree, -1, -1):  # Horner's rule on Newton's form
        result = [a - points[k] * b for a, b in zip([Fraction(0), *result[:-1]], result, strict=True)]
        result[0] += table[k]
    if any(at(result, x) != value for x, value in zip(points, values, strict=True)):
        return None
    while result and not result[-1]:
        result.pop()
    return result


def at(polynomial: Sequence[Fraction], x: Fraction) -> Fraction:
    """The value of a polynomial, given by its coefficients by rising degree."""
    value = Fraction(0)
    for coefficient in reversed(polynomial):
        value = value * x + coefficient
    return value


def has_sign(relation: str, polynomial: Sequence[Fraction]) -> bool:
    """Whether a polynomial of degree 2 or less is above or below zero, as the relation says, for all reals."""
    padded = [*polynomial, Fraction(0), Fraction(0), Fraction(0)][:3]
    c, b, a = padded if relation in (">", ">=") else [-value for value in padded]
    weak = relation in ("<=", ">=")
    if a == 0:
        return b == 0 and (c > 0 or (weak and c == 0))
    discriminant = b * b - 4 * a * c
    return a > 0 and (discriminant < 0 or (weak and discriminant == 0))


def has_work(node: Node) -> bool:
    """Whether there is something to multiply out or to rewrite: a sum inside of a product, `sin 2x`, like terms."""
    if isinstance(node, Add):
        rests = [_rest(term) for term in node.terms]
        if any(rest in rests[:k] for k, rest in enumerate(rests)):
            return True
        return any(has_work(term) for term in node.terms)
    if isinstance(node, Call):
        return any(not isinstance(arg, Sym | Num) for arg in node.args)
    inner = children(node)
    return any(isinstance(part, Add) or has_work(part) for part in inner)


def _rest(term: Node) -> list[Node]:
    """What multiplies the number in a term: x in 2x."""
    factors = term.factors if isinstance(term, Mul) else [term]
    return [factor for factor in factors if variables(factor)] or [Num(Fraction(1))]


def literal_value(node: Node) -> Fraction | None:
    """The value of a number, a negative number or a fraction in lowest terms; None if work is left."""
    match node:
        case Num(value):
            return value
        case Mul([Num(top), Pow(Num(bottom), Num(minus_one))]) if minus_one == -1 and bottom > 1:
            return top / bottom if (top / bottom).denominator == bottom else None
    return None


def names_e(node: Node) -> bool:
    """Whether e stands where it may be a name rather than the constant: not as the base of a power."""
    if isinstance(node, Pow) and node.base == Sym("e"):
        return names_e(node.exponent)
    if isinstance(node, Call) and node.name in ("ln", "log") and node.args == [Sym("e")]:
        return False
    return node == Sym("e") or any(map(names_e, children(node)))
