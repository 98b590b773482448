"""The tree of a parsed answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


@dataclass(slots=True)
class Num:
    """A rational number as written."""

    value: Fraction
    decimals: int = -1
    """Digits after the point, or -1 if it was not written as a decimal."""
    digits: int = 0
    """Significant digits, for a decimal."""


@dataclass(slots=True)
class Sym:
    r"""A variable, a constant such as ``\pi``, or a word."""

    name: str


@dataclass(slots=True)
class Add:
    """A sum."""

    terms: list[Node]


@dataclass(slots=True)
class Mul:
    """A product."""

    factors: list[Node]


@dataclass(slots=True)
class Pow:
    """A power."""

    base: Node
    exponent: Node


@dataclass(slots=True)
class Call:
    """A function of arguments; unknown functions are allowed and stay uninterpreted."""

    name: str
    args: list[Node]


@dataclass(slots=True)
class PlusMinus:
    r"""``a \pm b``: two values. ``sign`` is -1 for ``\mp``."""

    operand: Node
    sign: int


@dataclass(slots=True)
class Quantity:
    """A value with a unit; a percent sign is the unit ``%``, a degree sign ``deg``."""

    value: Node
    unit: str
    compound: bool = False
    """Whether it was written in two units, as ``2 hours 30 minutes``, and is given in the smaller one."""


@dataclass(slots=True)
class Sequence:
    """Several values: a tuple, an interval, a set, or a bare list."""

    opening: str
    """``(``, ``[``, ``{``, or nothing for a bare list."""
    closing: str
    """``)``, ``]``, ``}``, or nothing for a bare list."""
    items: list[Node]
    separator: str = ","
    """What stands between the items of a bare list: a comma, a semicolon, "and" or "or"."""


@dataclass(slots=True)
class Matrix:
    """Rows of entries; ``kind`` is ``matrix`` or ``cases``."""

    rows: list[list[Node]]
    kind: str = "matrix"


@dataclass(slots=True)
class Relation:
    r"""A chain such as ``a < b \le c``: one more member than operators."""

    members: list[Node]
    operators: list[str]


@dataclass(slots=True)
class SetOperation:
    """Union, intersection or difference of sets, in the order written."""

    operator: str
    operands: list[Node]


@dataclass(slots=True)
class Text:
    """Words."""

    words: str


Node = Num | Sym | Add | Mul | Pow | Call | PlusMinus | Quantity | Sequence | Matrix | Relation | SetOperation | Text


_CHILDREN: dict[type, Callable[[Any], list[Node]]] = {
    Num: lambda node: [], Sym: lambda node: [], Text: lambda node: [], Add: lambda node: node.terms,
    Mul: lambda node: node.factors, Pow: lambda node: [node.base, node.exponent], Call: lambda node: node.args,
    PlusMinus: lambda node: [node.operand], Quantity: lambda node: [node.value], Sequence: lambda node: node.items,
    Matrix: lambda node: [entry for row in node.rows for entry in row], Relation: lambda node: node.members,
    SetOperation: lambda node: node.operands,
}  # fmt: skip


def children(node: Node) -> list[Node]:
    """Return the parts of a node that are trees themselves, in the order written."""
    return _CHILDREN[type(node)](node)


def walk(node: Node) -> Iterator[Node]:
    """All parts of a tree, a node before its parts."""
    yield node
    for part in children(node):
        yield from walk(part)
