"""Next steps for arithmetic: the innermost operation, or how to take the last one apart."""

from __future__ import annotations

import math
from fractions import Fraction

from aipo_agents.algebra import value_of
from aipo_agents.render import render
from aipo_env.grading.mathematics import Budget, NoValue
from aipo_env.grading.nodes import Add, Call, Mul, Node, Num, Pow

MAX_SHOWN = 200


def arithmetic_step(expression: Node, budget: Budget) -> str | None:
    """One step for an expression without variables: `3+4=7, so 7*5 is left`; None if nothing is to do."""
    found = _innermost(expression)
    if found is None:
        return None
    target, rebuilt = found
    if rebuilt is None:
        return _take_apart(target)
    try:
        value = value_of(target, None, budget)
    except NoValue as error:
        return f"stop at {render(target)}: {error}"
    if not isinstance(value, Fraction):
        return None
    shown, rest = f"{render(target)}={render(_literal(value))}", render(_replaced(rebuilt, _literal(value)))
    return f"{shown}, so {rest} is left" if len(rest) <= MAX_SHOWN else shown


_HOLE = Num(Fraction(0))
"""Stands, by identity, where a result goes."""


def _innermost(node: Node) -> tuple[Node, Node | None] | None:
    """The first operation, bottom-up and from the left, on values, and the rest with a hole; None for the rest: it is all."""
    if _literal_value(node) is not None:
        return None
    match node:
        case Add(parts) | Mul(parts) | Call(_, parts):
            arguments = parts
        case Pow(base, exponent):
            arguments = [base, exponent]
        case _:
            return None
    for index, part in enumerate(arguments):
        inner_part = _without_inverse(part) if isinstance(node, Mul) else part
        found = _innermost(inner_part)
        if found is not None:
            target, rest = found
            rest = rest if rest is not None else _HOLE
            if inner_part is not part:
                rest = Pow(rest, Num(Fraction(-1)))
            return target, _with(node, [*arguments[:index], rest, *arguments[index + 1 :]])
    if isinstance(node, Add | Mul):
        for index in range(len(arguments) - 1):
            pair = arguments[index : index + 2]
            if all(_literal_value(_without_inverse(part)) is not None for part in pair):
                left, right = arguments[:index], arguments[index + 2 :]
                return _with(node, pair), _with(node, [*left, _HOLE, *right]) if left or right else None
        return None
    return (node, None) if all(_literal_value(part) is not None for part in arguments) else None


def _without_inverse(node: Node) -> Node:
    """A factor, or what is divided by."""
    return node.base if isinstance(node, Pow) and node.exponent == Num(Fraction(-1)) else node


def _with(node: Node, parts: list[Node]) -> Node:
    match node:
        case Add():
            return Add(parts)
        case Mul():
            return Mul(parts)
        case Call(name, _):
            return Call(name, parts)
    return Pow(parts[0], parts[1])


def _replaced(node: Node, value: Node) -> Node:
    if node is _HOLE:
        return value
    match node:
        case Add(parts) | Mul(parts) | Call(_, parts):
            return _with(node, [_replaced(part, value) for part in parts])
        case Pow(base, exponent):
            return Pow(_replaced(base, value), _replaced(exponent, value))
    return node


def _literal_value(node: Node) -> Fraction | None:
    """The value of a number, a negative number or a fraction in lowest terms; None if work is left."""
    match node:
        case Num(value):
            return value
        case Mul([Num(top), Pow(Num(bottom), Num(minus_one))]) if minus_one == -1 and bottom > 1:
            return top / bottom if (top / bottom).denominator == bottom else None
    return None


def _literal(value: Fraction) -> Node:
    if value.denominator == 1:
        return Num(value)
    return Mul([Num(Fraction(value.numerator)), Pow(Num(Fraction(value.denominator)), Num(Fraction(-1)))])


def _take_apart(node: Node) -> str | None:
    """A hint for a single operation: it makes the work smaller and leaves the result open."""
    op, parts = _operation(node)
    values = [value for part in parts if (value := _literal_value(part)) is not None]
    shown = render(node)
    if len(shown) > MAX_SHOWN or len(values) < len(parts):
        return None
    if all(value.denominator == 1 for value in values):
        hint = _integers(op, [int(value) for value in values])
        if hint is None or hint.startswith(("first", "count", "find", "use", "stop")):
            return hint
        return f"{shown} = {hint}"
    if len(values) != 2 or (op == "/" and not values[1]):
        return None
    a, b = values
    common = math.lcm(a.denominator, b.denominator)
    p, q = a.numerator * (common // a.denominator), b.numerator * (common // b.denominator)
    match op:
        case "+" | "-":
            return f"{shown} = {p}/{common}{op}{q}/{common}"
        case "*":
            return f"{shown} = ({a.numerator}*{b.numerator})/({a.denominator}*{b.denominator})"
        case "/":
            return f"{shown} = ({a.numerator}*{b.denominator})/({a.denominator}*{b.numerator})"
    return None


def _operation(node: Node) -> tuple[str, list[Node]]:
    """What a node of two or fewer arguments does, and its arguments as they are written."""
    match node:
        case Add([first, Num(value)]) if value < 0:
            return "-", [first, Num(-value)]
        case Add([first, Mul([Num(value), rest])]) if value < 0:
            return "-", [first, Mul([Num(-value), rest])]
        case Add(parts):
            return "+", parts
        case Mul([first, Pow(second, Num(minus_one))]) if minus_one == -1:
            return "/", [first, second]
        case Mul(parts):
            return "*", parts
        case Pow(base, exponent):
            return "^", [base, exponent]
        case Call("root", [radicand, Num(degree)]) if degree == 2:
            return "sqrt", [radicand]
        case Call(name, args):
            return name, args
    return "", []


def _integers(op: str, values: list[int]) -> str | None:
    match op, values:
        case "+", [a, b] if a >= 0 and b >= 0:
            if max(a, b) < 10:
                high, low = max(a, b), min(a, b)
                return f"10+{low - (10 - high)}" if a + b > 10 else f"count on {low} from {high}"
            ones = a % 10 + b % 10
            carry = ", and carry 1" if ones >= 10 else ""
            return f"first the ones: {a % 10}+{b % 10}, write {ones % 10}{carry}; then the tens"
        case "-", [a, b] if a >= b >= 0:
            if b < 10:
                return f"{a}-{a % 10}-{b - a % 10}" if b > a % 10 > 0 else f"count back {b} from {a}"
            high = b - b % 10 ** (len(str(b)) - 1)
            return f"{a}-{high}-{b - high}" if b != high else f"count back in steps of {10 ** (len(str(b)) - 1)}"
        case "-", [a, b] if 0 <= a < b:
            return f"-({b}-{a})"
        case "+", [a, b] if a < 0 or b < 0:
            return f"{max(a, b)}-{-min(a, b)}" if a * b < 0 else f"-({abs(a)}+{abs(b)})"
        case "-", [a, b] if a < 0 or b < 0:
            return f"{a}+{-b}" if b < 0 else f"-({-a}+{b})"
        case "*", [a, b]:
            if 0 in (a, b) or min(a, b) < 0:
                return "find the sign first, then multiply without signs; a factor 0 makes it 0"
            if b < 10 and a < 10:
                return f"{a}*{b - 1}+{a}" if b > 1 else "use that 1 changes nothing"
            if b < 10:
                a, b = b, a
            high = b - b % 10 ** (len(str(b)) - 1)
            return f"{a}*{high}+{a}*{b - high}" if b != high else f"{a}*{str(b).rstrip('0')}, then append the zeros"
        case "/", [a, b]:
            if b == 0:
                return "stop: division by zero has no value"
            common = math.gcd(a, b)
            if a % b:
                return (
                    f"find what {a} and {b} have in common: both are divisible by {_prime_factor(common)}"
                    if common > 1
                    else None
                )
            return f"find the number that makes {b} into {a} when multiplied; {b}*10={b * 10} tells its size"
        case "^", [a, n] if n > 1:
            if n == 2:
                return f"{a}*{a}" if a >= 0 else f"({a})*({a})"
            base = str(a) if a >= 0 else f"({a})"
            return f"({base}^{n // 2})^2" if n % 2 == 0 else f"{base}*{base}^{n - 1}"
        case "factorial", [n] if n > 1:
            return f"{n}*{n - 1}!"
        case "binom", [n, k] if 0 <= k <= n:
            return f"{n}!/({k}!*{n - k}!)"
        case "gcd", [a, b] if a and b:
            high, low = max(abs(a), abs(b)), min(abs(a), abs(b))
            return f"gcd({low},{high % low})"
        case "lcm", [a, b]:
            return f"{a}*{b}/gcd({a},{b})"
        case "mod", [a, b] if b > 0:
            return f"find the largest multiple of {b} that is at most {a}, and subtract it"
        case "sqrt", [n] if n > 1:
            return _root_hint(n)
        case _:
            return None


def _prime_factor(n: int) -> int:
    return next((k for k in range(2, min(math.isqrt(n), 1000) + 1) if n % k == 0), n)


def _root_hint(n: int) -> str:
    if math.isqrt(n) ** 2 == n:
        size = 10 ** ((len(str(n)) - 1) // 2)
        return f"find the number whose square is {n}; {size}^2={size**2} tells its size"
    square = next((k for k in range(min(math.isqrt(n), 1000), 1, -1) if n % (k * k) == 0), 1)
    return (
        f"sqrt({square**2}*{n // square**2})" if square > 1 else "find the squares on both sides; no square divides it"
    )
