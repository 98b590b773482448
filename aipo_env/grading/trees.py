"""Questions about a tree, and rewritings that keep its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from aipo_env.grading.nodes import (
    Add,
    Call,
    Matrix,
    Mul,
    Node,
    Num,
    PlusMinus,
    Pow,
    Quantity,
    Relation,
    Sequence,
    Sym,
    Text,
    children,
    walk,
)
from aipo_env.grading.units import canonical_unit

CONSTANTS = frozenset(("\\pi", "e", "i"))
"""Symbols that are numbers."""


def needs_positive(node: Node) -> bool:
    """Whether a tree has roots or logarithms, whose usual identities hold for positive variables only."""
    if isinstance(node, Pow) and not (isinstance(node.exponent, Num) and node.exponent.value.denominator == 1):
        return True
    return (isinstance(node, Call) and node.name in _BRANCHED) or any(map(needs_positive, children(node)))


def has_variables(node: Node) -> bool:
    """Whether a tree depends on a variable."""
    if isinstance(node, Sym):
        return node.name not in CONSTANTS and node.name != "\\infty"
    return any(map(has_variables, children(node)))


def variables(node: Node) -> frozenset[str]:
    r"""Return the names of the free variables; ``\pi``, ``e``, ``i``, infinity and indices of sums are none."""
    if isinstance(node, Sym):
        return frozenset() if node.name in CONSTANTS or node.name == "\\infty" else frozenset((node.name,))
    inner = frozenset[str]().union(*map(variables, children(node)))
    if isinstance(node, Call) and node.name in ("sum", "prod", "int", "lim") and isinstance(node.args[1], Sym):
        return inner - {node.args[1].name}
    return inner


def substitute(node: Node, values: Mapping[str, Node]) -> Node:
    """Return an expression with trees in place of variables."""
    if isinstance(node, Sym):
        return values.get(node.name, node)
    return rebuilt(node, [substitute(part, values) for part in children(node)])


def rebuilt(node: Node, parts: list[Node]) -> Node:
    """Return an expression or a relation with other parts."""
    match node:
        case Add():
            return Add(parts)
        case Mul():
            return Mul(parts)
        case Pow():
            return Pow(*parts)
        case Call(name):
            return Call(name, parts)
        case PlusMinus(_, sign):
            return PlusMinus(parts[0], sign)
        case Quantity(_, unit, compound):
            return Quantity(parts[0], unit, compound)
        case Relation(_, operators):
            return Relation(parts, operators)
        case Sequence(opening, closing, _, separator):
            return Sequence(opening, closing, parts, separator)
    return node


def counts(node: Node) -> bool:
    """Whether a tree has sums, products or binomials, which are defined for whole numbers."""
    return any(isinstance(part, Call) and part.name in _COUNTING for part in walk(node))


_COUNTING = frozenset(["sum", "prod", "binom", "factorial"])
_BRANCHED = frozenset(
    [
        "root", "ln", "log", "log10", "arcsin", "arccos", "arctan", "arcsec", "arccsc", "arccot", "arsinh",
        "arcosh", "artanh",
    ]
)  # fmt: skip


def _with_sign(node: Node, sign: int) -> Node:
    if isinstance(node, PlusMinus):
        return Mul([Num(Fraction(sign * node.sign)), _with_sign(node.operand, sign)])
    return rebuilt(node, [_with_sign(part, sign) for part in children(node)])


def expand(node: Node) -> Node:
    r"""Write ``a \pm b`` as the two values it stands for."""
    if isinstance(node, Sequence):
        items: list[Node] = []
        for item in node.items:
            expanded = expand(item) if not isinstance(item, Sequence) else item
            if isinstance(expanded, Sequence) and not isinstance(item, Sequence):
                items.extend(expanded.items)
            else:
                items.append(expanded)
        return Sequence(node.opening, node.closing, items, node.separator)
    if any(isinstance(part, PlusMinus) for part in walk(node)):
        return Sequence("", "", [_with_sign(node, 1), _with_sign(node, -1)], "or")
    return node


def flatten(sequence: Sequence) -> Sequence:
    """Join bare lists within a bare list."""
    items: list[Node] = []
    for item in sequence.items:
        if isinstance(item, Sequence) and item.opening == "":
            items.extend(item.items)
        else:
            items.append(item)
    return Sequence(sequence.opening, sequence.closing, items)


def vector_entries(matrix: Matrix) -> list[Node] | None:
    """Return the entries of a matrix with one row or one column."""
    if matrix.kind != "matrix":
        return None
    if all(len(row) == 1 for row in matrix.rows):
        return [row[0] for row in matrix.rows]
    return matrix.rows[0] if len(matrix.rows) == 1 else None


_TEMPERATURES = {"c": "celsius", "celsius": "celsius", "f": "fahrenheit", "fahrenheit": "fahrenheit"}


def split_unit(node: Node) -> tuple[Node, str]:
    """Return the value and the canonical unit of a quantity; no unit is the empty text."""
    if isinstance(node, Quantity):
        inner, unit = split_unit(node.value)
        own = canonical_unit(node.unit)
        if "deg" in (unit, own) or own.startswith("deg"):
            scale = _TEMPERATURES.get(own.removeprefix("deg"))
            return inner, scale if scale is not None else own or unit
        return inner, own or unit
    if isinstance(node, Mul) and len(node.factors) == 2 and node.factors[0] == Num(Fraction(-1)):
        minus, quantity = node.factors
        inner, unit = split_unit(quantity)
        return Mul([minus, inner]), unit
    return node, ""


def mentions(node: Node, symbol: Node) -> bool:
    """Whether an expression or an equation contains a symbol."""
    return any(part == symbol for part in walk(node))


def has_parts(node: Node) -> bool:
    """Whether an expression contains a list, an interval or a matrix."""
    if isinstance(node, Call) and node.name == "det":
        return False
    return isinstance(node, Sequence | Matrix) or any(map(has_parts, children(node)))


def is_unevaluated(node: Node) -> bool:
    """Whether an integral, a limit, an infinite or an unbounded series is left to do: that restates a question."""
    return any(map(_is_unfinished, walk(node)))


def _is_unfinished(node: Node) -> bool:
    if not isinstance(node, Call):
        return False
    return node.name in ("int", "iint", "oint", "lim") or (
        node.name in ("sum", "prod") and node.args[3] in (Sym("\\infty"), Text(""))
    )


def signed_infinity(node: Node) -> int:
    """Return 1 or -1 for a signed infinity, 0 for anything else."""
    if node == Sym("\\infty"):
        return 1
    if isinstance(node, Mul) and len(node.factors) == 2 and node.factors[1] == Sym("\\infty"):
        factor = node.factors[0]
        return (1 if factor.value > 0 else -1) if isinstance(factor, Num) and factor.value else 0
    return 0
