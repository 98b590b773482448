"""Pieces that the parser builds: numbers, products, mixed numbers, nested lists."""

from __future__ import annotations

from fractions import Fraction

from aipo_env.grading.lexer import Token, Unreadable
from aipo_env.grading.nodes import (
    Add,
    Mul,
    Node,
    Num,
    Pow,
    Quantity,
    Sequence,
)
from aipo_env.grading.units import canonical_unit, unit_size

MAX_DIGITS = 400
MAX_POWER_OF_TEN = 400
MINUS_ONE = Fraction(-1)


def read_number(text: str) -> Num:
    """Read a number as written."""
    mantissa, _, exponent = text.lower().partition("e")
    if len(mantissa) > MAX_DIGITS:
        raise Unreadable("digits", final=True)
    power = 0
    if exponent:
        if len(exponent.lstrip("+-0")) > 3 or abs(int(exponent)) > MAX_POWER_OF_TEN:
            raise Unreadable("exponent", final=True)
        power = int(exponent)
    whole, point, fraction = mantissa.partition(".")
    if not point or not fraction:
        value = Fraction(int(whole or "0"))
        return Num(value * Fraction(10) ** power if power else value)
    value = Fraction(int((whole or "0") + fraction), 10 ** len(fraction))
    digits = len((whole + fraction).lstrip("0"))
    return Num(value * Fraction(10) ** power if power else value, max(len(fraction) - power, 0), digits)


def times(left: Node, right: Node) -> Node:
    """Return a product, flat."""
    factors: list[Node] = [*left.factors] if isinstance(left, Mul) else [left]
    return Mul([*factors, right])


def _is_fraction(node: Node) -> bool:
    r"""Whether a node is ``\frac{a}{b}`` of two whole numbers."""
    if not (isinstance(node, Mul) and len(node.factors) == 2 and isinstance(node.factors[0], Num)):
        return False
    bottom = node.factors[1]
    return isinstance(bottom, Pow) and isinstance(bottom.base, Num) and isinstance(bottom.exponent, Num)


def is_mixed(node: Node, right: Node, tokens: list[Token], position: int) -> bool:
    """Whether a whole number and the fraction behind it are a mixed number."""
    if not (isinstance(node, Num) and node.decimals < 0 and node.value.denominator == 1 and _is_fraction(right)):
        return False
    return position > 0 and tokens[position - 1].text != ")"


def mixed_number(whole: Node, part: Node) -> Node:
    """Return a mixed number; its sign covers both parts."""
    assert isinstance(whole, Num)
    if whole.value < 0:
        return Add([whole, Mul([Num(MINUS_ONE), part])])
    return Add([whole, part])


def grouped(items: list[Node], separators: list[str]) -> Node:
    """Nest a list whose separators are of two ranks: ``1, 2; 3, 4`` is a list of two lists."""
    if len(items) == 1:
        return items[0]
    kinds = set(separators)
    if len(kinds) == 1:
        return Sequence("", "", items, separators[0])
    outer = {"and", "or"} if kinds & {"and", "or"} else {";"}
    groups: list[list[Node]] = [[items[0]]]
    for separator, item in zip(separators, items[1:], strict=True):
        if separator in outer:
            groups.append([item])
        else:
            groups[-1].append(item)
    sizes = {len(group) for group in groups}
    if len(sizes) > 1 or sizes == {1}:
        return Sequence("", "", items)  # "1, 2 and 3" is one list
    return Sequence("", "", [Sequence("", "", group) for group in groups])


def joined(large: Node, small: Node) -> Quantity | None:
    """Return ``2 hours 30 minutes`` in minutes; None if the second is not a part of the first one's unit."""
    if not (isinstance(large, Quantity) and isinstance(small, Quantity)):
        return None
    unit = canonical_unit(small.unit)
    sizes = unit_size(canonical_unit(large.unit)), unit_size(unit)
    if sizes[0] is None or sizes[1] is None or sizes[0][1] != sizes[1][1] or sizes[0][0] <= sizes[1][0]:
        return None
    ratio = sizes[0][0] / sizes[1][0]
    if not isinstance(small.value, Num) or not 0 <= small.value.value < ratio:
        return None
    return Quantity(Add([Mul([Num(ratio), large.value]), small.value]), unit, compound=True)
