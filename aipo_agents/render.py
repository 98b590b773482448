"""Writes the engine's trees and values as plain text."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from aipo_env.grading.arithmetic import bits
from aipo_env.grading.mathematics import Value
from aipo_env.grading.nodes import Add, Call, Mul, Node, Num, Pow, Quantity, Sym

_ATOM: Final = 4
_MOST_BITS: Final = 10_000
"""Longer numbers are not written: Python refuses to at 4,300 digits."""


def format_fraction(value: Fraction) -> str:
    """The value as people write it, an integer or `a/b`; long ones are abridged."""
    if bits(value) > _MOST_BITS:
        return "a number of over 3,000 digits"
    text = str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"
    return text if len(text) <= 60 else f"{text[:20]}...({len(text)} characters)"


def format_value(value: Value) -> str:
    """A value for a message: exact if it is rational."""
    if isinstance(value, Fraction):
        return format_fraction(value)
    return f"about {value.real:.6g}" if abs(value.imag) < 1e-12 else f"about {value:.6g}"


def format_decimal(value: Fraction) -> str | None:
    """The finite decimal form, if there is a short one."""
    if bits(value) > _MOST_BITS:
        return None
    for digits in range(1, 13):
        scaled = value * 10**digits
        if scaled.denominator == 1:
            whole = str(abs(int(scaled))).zfill(digits + 1)
            text = f"{whole[:-digits]}.{whole[-digits:]}".rstrip("0").rstrip(".")
            return ("-" if value < 0 else "") + (text if len(text) <= 40 else text[:37] + "...")
    return None


def spoken(name: str) -> str:
    """The name of a variable without LaTeX's backslash."""
    return name.lstrip("\\")


def render(node: Node) -> str:
    """Plain text with the fewest brackets: `2*(x+3)`, `-x^2`."""
    return _plain(node)[0]


def _plain(node: Node) -> tuple[str, int]:
    """The text and how strongly it binds: 1 a sum, 2 a product, 3 a power, 4 an atom."""
    negative, size = _sign(node)
    if negative:
        return "-" + _bracket(size, 1), 1
    match node:
        case Num(value, decimals):
            text = format_decimal(value) if decimals > 0 else None
            return text or str(value), _ATOM if text or value.denominator == 1 else 2
        case Sym(name):
            return spoken(name), _ATOM
        case Add(terms):
            text = ""
            for term in terms:
                negative, size = _sign(term)
                shown, level = _plain(size)
                glue = "-" if negative else "+" if text else ""
                text += glue + (f"({shown})" if level <= 1 and glue else shown)
            return text, 1
        case Mul(factors):
            return _product(factors), 2
        case Pow(base, exponent):
            if isinstance(exponent, Num) and exponent.value < 0:
                return "1/" + _bracket(_inverse(node), 2), 2
            return f"{_bracket(base, 3)}^{_bracket(exponent, 2)}", 3
        case Quantity(value, unit):
            return _bracket(value, 3) + {"deg": "^\\circ"}.get(unit, unit), 3
        case Call("factorial", [argument]):
            return _bracket(argument, 3) + "!", 3
        case Call("root", [argument, Num(degree)]) if degree == 2:
            return f"sqrt({render(argument)})", _ATOM
        case Call("mod", [left, right]):
            return f"{_bracket(left, 2)} mod {_bracket(right, 2)}", 2
        case Call(name, args):
            return f"{name}({','.join(map(render, args))})", _ATOM
    return "?", _ATOM


def _sign(node: Node) -> tuple[bool, Node]:
    """Whether a term is subtracted, and its size."""
    if isinstance(node, Num) and node.value < 0:
        return True, Num(-node.value, node.decimals, node.digits)
    if isinstance(node, Mul) and len(node.factors) > 1 and isinstance(node.factors[0], Num):
        negative, size = _sign(node.factors[0])
        rest = node.factors[1:] if size == Num(Fraction(1)) else [size, *node.factors[1:]]
        return (True, rest[0] if len(rest) == 1 else Mul(rest)) if negative else (False, node)
    return False, node


def _product(factors: list[Node]) -> str:
    text = ""
    for factor in factors:
        if isinstance(factor, Pow) and isinstance(factor.exponent, Num) and factor.exponent.value < 0:
            text = (text or "1") + "/" + _bracket(_inverse(factor), 2)
            continue
        shown = _bracket(factor, 1 if not text else 2 if not isinstance(factor, Num) else 3)
        letters = [sum(map(str.isalpha, part)) for part in (text, shown)]
        single = letters[1] == 1 or (letters[1] > 1 and shown[0] == "(")
        glued = single and letters[0] <= 1 and not shown[0].isdigit() and "/" not in text
        text += shown if glued or not text else "*" + shown
    return text


def _inverse(power: Pow) -> Node:
    assert isinstance(power.exponent, Num)
    return power.base if power.exponent.value == -1 else Pow(power.base, Num(-power.exponent.value))


def _bracket(node: Node, above: int) -> str:
    """The text, in brackets unless it binds more strongly than `above`."""
    text, level = _plain(node)
    return text if level > above else f"({text})"
