"""Next steps for arithmetic: the innermost operation, or how to take the last one apart."""

from __future__ import annotations

import math
from fractions import Fraction

from aipo_agents.exact import EvaluationError, NotExactError, apply
from aipo_agents.expressions import Call, Expression, Number, fold
from aipo_agents.render import render

MAX_SHOWN = 200


def arithmetic_step(expression: Expression) -> str | None:
    """One step for an expression without variables: `3+4=7, so 7*5 is left`; None if nothing is to do."""
    target = _innermost(expression)
    if target is None:
        return None
    values = tuple(value for arg in target.args if (value := _literal_value(arg)) is not None)
    if target is expression:
        return _take_apart(target, values)
    try:
        result = _literal(apply(target.op, values))
    except EvaluationError as error:
        return f"stop at {render(target)}: {error}"
    left = fold(expression, lambda node, args: result if node is target else _rebuild(node, args))
    shown, rest = render(target), render(left)
    return f"{shown}={render(result)}, so {rest} is left" if len(rest) <= MAX_SHOWN else f"{shown}={render(result)}"


def _innermost(expression: Expression) -> Call | None:
    """The first operation, bottom-up and from the left, whose arguments are values with an exact result."""
    found: list[Call] = []

    def visit(node: Expression, args: tuple[None, ...]) -> None:
        if found or not isinstance(node, Call) or _literal_value(node) is not None:
            return
        values = [_literal_value(arg) for arg in node.args]
        if any(value is None for value in values):
            return
        try:
            apply(node.op, tuple(value for value in values if value is not None))
        except NotExactError:
            if node is not expression or node.op != "sqrt":
                return
        except EvaluationError:
            pass
        found.append(node)

    fold(expression, visit)
    return found[0] if found else None


def _literal_value(node: Expression) -> Fraction | None:
    """The value of a number, a negative number or a fraction in lowest terms; None if work is left."""
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Call) and node.op == "neg" and not isinstance(node.args[0], Call):
        value = _literal_value(node.args[0])
        return None if value is None else -value
    if isinstance(node, Call) and node.op == "/":
        a, b = node.args
        if isinstance(a, Number) and isinstance(b, Number) and b.value > 1:
            value = a.value / b.value
            return value if value.denominator == b.value else None
    return None


def _literal(value: Fraction) -> Expression:
    if value < 0:
        return Call("neg", (_literal(-value),))
    numerator = Number(Fraction(value.numerator), str(value.numerator))
    if value.denominator == 1:
        return numerator
    return Call("/", (numerator, Number(Fraction(value.denominator), str(value.denominator))))


def _rebuild(node: Expression, args: tuple[Expression, ...]) -> Expression:
    return Call(node.op, args, node.implicit) if isinstance(node, Call) else node


def _take_apart(node: Call, values: tuple[Fraction, ...]) -> str:
    """A hint for a single operation: it makes the work smaller and leaves the result open."""
    shown = render(node)
    if len(shown) > MAX_SHOWN:
        return "split the numbers into smaller parts first"
    if all(value.denominator == 1 for value in values):
        hint = _integers(node.op, [int(value) for value in values])
        if hint is not None:
            return hint if hint.startswith(("first", "count", "find", "use", "stop")) else f"{shown} = {hint}"
    if node.op in ("+", "-") and len(values) == 2:
        if any("." in render(arg) for arg in node.args):
            return (
                f"line up the decimal points of {render(node.args[0])} and {render(node.args[1])}, then "
                f"go digit by digit"
            )
        common = math.lcm(*(value.denominator for value in values))
        first, second = (f"{value.numerator * (common // value.denominator)}/{common}" for value in values)
        return f"{shown} = {first}{node.op}{second}"
    if node.op == "*":
        return "multiply the numerators, and multiply the denominators; decimals are fractions over 10, 100, ..."
    if node.op == "/":
        return "dividing by a fraction is multiplying by its reciprocal"
    if node.op == "sqrt":
        return "write the number as a square times the rest, and take the root of the square out"
    return f"use the definition of the operation in {shown}"


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
        case (("!" | "factorial"), [n]) if n > 1:
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
