"""Sets of real numbers built from intervals and finite sets: equal if they have the same members.

Two such sets can only differ at an end point of one of them or between two neighbouring end points. So the ends
of both are put in order, equal ones as one; then only their places in that order count.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aipo_env.grading.arithmetic import Budget, NoValue, Value, to_complex
from aipo_env.grading.nodes import Node, Sequence, SetOperation, Sym
from aipo_env.grading.numeric import Evaluator
from aipo_env.grading.scalars import same_number
from aipo_env.grading.trees import has_variables, signed_infinity

MAX_ENDS = 64
_INFINITE = 10**9
"""The place of infinity, beyond all ends."""


class _NotReal(Exception):
    """A set whose members are not all real constants."""


@dataclass(slots=True)
class _Piece:
    """An interval, or a finite set where ``opening`` is a brace; ends are numbers or -1 and 1 for infinity."""

    opening: str
    closing: str
    ends: list[tuple[int, Value]]
    places: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Combination:
    operator: str
    parts: list[_Piece | _Combination]


def equal_sets(gold: Node, answer: Node, budget: Budget) -> bool | None:
    """Return whether two sets of reals have the same members; None if either is not such a set."""
    pieces: list[_Piece] = []
    try:
        left, right = (_built(node, pieces, budget) for node in (gold, answer))
    except _NotReal:
        return None
    ends: list[Value] = [value for piece in pieces for infinite, value in piece.ends if not infinite]
    if len(ends) > MAX_ENDS:
        return None
    budget.spend(len(ends) ** 2)
    order: list[Value] = []
    for value in sorted(ends, key=lambda end: to_complex(end).real):
        if not order or not same_number(order[-1], value):
            order.append(value)
    for piece in pieces:
        for infinite, value in piece.ends:
            place = next((k for k, end in enumerate(order) if same_number(end, value)), 0)
            # Even places are ends, odd ones lie between two ends.
            piece.places.append(infinite * _INFINITE if infinite else 2 * place)
        if piece.opening != "{" and piece.places[0] > piece.places[1]:
            return None  # a point of the plane, not an empty interval
    return all(_contains(left, place) == _contains(right, place) for place in range(-1, 2 * len(order)))


def _built(node: Node, pieces: list[_Piece], budget: Budget) -> _Piece | _Combination:
    if isinstance(node, SetOperation):
        return _Combination(node.operator, [_built(part, pieces, budget) for part in node.operands])
    if node == Sym("\\mathbb R"):
        piece = _Piece("(", ")", [(-1, 0j), (1, 0j)])
    elif isinstance(node, Sequence) and node.opening and (node.opening == "{" or len(node.items) == 2):
        piece = _Piece(node.opening, node.closing, [_end(item, budget) for item in node.items])
    else:
        raise _NotReal
    pieces.append(piece)
    return piece


def _end(node: Node, budget: Budget) -> tuple[int, Value]:
    infinite = signed_infinity(node)
    if infinite:
        return infinite, 0j
    if has_variables(node):
        raise _NotReal
    try:
        value = Evaluator(budget).value(node)
        if abs(to_complex(value).imag) > 1e-12:
            raise _NotReal
    except (NoValue, OverflowError):
        raise _NotReal from None
    return 0, value


def _contains(tree: _Piece | _Combination, place: int) -> bool:
    if isinstance(tree, _Combination):
        inside = [_contains(part, place) for part in tree.parts]
        if tree.operator == "cup":
            return any(inside)
        if tree.operator == "cap":
            return all(inside)
        if tree.operator == "setminus":
            return inside[0] and not any(inside[1:])
        return sum(inside) % 2 == 1
    if tree.opening == "{":
        return place in tree.places
    low, high = tree.places
    return (
        low < place < high
        or (place == low and tree.opening == "[" and place <= high)
        or (place == high and tree.closing == "]" and place >= low)
    )
