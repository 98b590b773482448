"""Read equations and inequalities: what is assigned, which set is meant."""

from __future__ import annotations

from fractions import Fraction

from aipo_env.grading.arithmetic import Budget
from aipo_env.grading.figures import figure_name
from aipo_env.grading.nodes import (
    Add,
    Call,
    Matrix,
    Mul,
    Node,
    Num,
    Pow,
    Relation,
    Sequence,
    SetOperation,
    Sym,
    Text,
)
from aipo_env.grading.policy import INTEGER
from aipo_env.grading.scalars import compare_scalars
from aipo_env.grading.trees import expand, has_variables

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


def settle(node: Node, budget: Budget, *, trusted: bool) -> Node:
    """Reduce a chain such as ``x = 5 + 6 = 11`` to what it finally says."""
    if isinstance(node, Matrix) and node.kind == "cases" and all(len(row) == 1 for row in node.rows):
        return Sequence("", "", [row[0] for row in node.rows], "and")  # a system of equations
    node = _excluded(node)
    if not isinstance(node, Relation):
        return node
    members, operators = node.members, node.operators
    if "~" in operators:
        first = operators.index("~")
        if first > 0 or not is_name(members[0]):
            members, operators = members[: first + 1], operators[:first]  # the exact form counts
        else:
            members, operators = members[:2], ["="]
        if not operators:
            return members[0]
    if all(operator == "=" for operator in operators):
        if is_name(members[0]):
            return Relation([members[0], members[-1]], ["="])
        if len(members) == 2 and is_name(members[1]) and not has_variables(members[0]):
            return Relation(members[::-1], ["="])  # 5 = x
        constant = not any(has_variables(member) for member in members)
        if constant and all(compare_scalars(members[0], member, INTEGER, budget).equal for member in members[1:]):
            return members[-1]
    return Relation(members, operators)


def is_name(node: Node) -> bool:
    """Whether a tree names a thing: ``x``, ``f(x)``, ``(p, q)``, ``A : B``, ``f'(x)``."""
    if isinstance(node, Sym):
        return node.name not in ("\\pi", "e", "i", "\\infty")
    if isinstance(node, Call):
        if node.name in ("ratio", "vec", "overline", "abs", "norm"):
            return all(is_name(arg) for arg in node.args)
        return node.name.rstrip("'").split("_")[0] in _LETTERS and all(
            isinstance(arg, Sym | Num | Relation) for arg in node.args
        )
    if isinstance(node, Sequence):
        return bool(node.items) and all(is_name(item) for item in node.items)
    if isinstance(node, Text):
        return True
    if isinstance(node, Mul) and len(node.factors) == 2:
        first, second = node.factors
        inverse = isinstance(first, Pow) and isinstance(first.base, Sym) and first.base.name in "fghFGH"
        if isinstance(second, Sym) and (first == Sym("\\Delta") or (inverse and first != second)):
            return True  # "\\Delta x", "f^{-1}(x)"
    return isinstance(node, Mul) and (figure_name(node) is not None or _is_figure_ratio(node))


_LETTERS = frozenset("abcdfghjklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _is_figure_ratio(node: Mul) -> bool:
    r"""Whether a product is a ratio of lengths by their names, such as ``\frac{AB}{CD}``."""
    top, bottom = Mul(node.factors[:-1]), node.factors[-1]
    parts = (top, bottom.base) if isinstance(bottom, Pow) and bottom.exponent == Num(Fraction(-1)) else ()
    return bool(parts) and all(figure_name(part) is not None for part in parts)


def is_graph(node: Node) -> bool:
    """Whether a name is that of a function's value: ``y`` or ``f(x)``."""
    return node == Sym("y") or (isinstance(node, Call) and len(node.args) == 1 and isinstance(node.args[0], Sym))


def assignment(node: Node) -> tuple[Node, Node] | None:
    """Return the name and the value of ``name = value``, or None."""
    if isinstance(node, Relation) and node.operators == ["="] and is_name(node.members[0]):
        return node.members[0], node.members[1]
    return None


def is_set(node: Node) -> bool:
    """Whether a tree is a set, an interval or a tuple."""
    return isinstance(node, SetOperation) or (isinstance(node, Sequence) and node.opening != "")


def solution_set(node: Node) -> Node:
    """Read inequalities joined by "or" as a union and by "and" as an intersection."""
    if not isinstance(node, Sequence) or node.opening or node.separator not in ("or", "and"):
        return node
    sets = [membership(item) for item in node.items if isinstance(item, Relation)]
    if len(sets) < len(node.items) or any(found is None or found[0] != (sets[0] or "?")[0] for found in sets):
        return node
    return SetOperation("cup" if node.separator == "or" else "cap", [found[1] for found in sets if found])


def _excluded(node: Node) -> Node:
    r"""Read ``x \\ne 1, 2`` and ``x \\ne 1, x \\ne 2`` as one relation to a list; anything else stays as it is."""
    if not isinstance(node, Sequence) or node.opening or node.separator == "or" or not node.items:
        return node
    first = node.items[0]
    if not isinstance(first, Relation):
        return node
    values = [
        item.members[1] if isinstance(item, Relation) and item.members[0] == first.members[0] else item
        for item in node.items
    ]
    apart = [item for item in node.items if isinstance(item, Relation) and item.operators != ["!="]]
    if (
        first.operators != ["!="]
        or apart
        or any(isinstance(value, Relation | Text) or is_set(value) for value in values)
    ):
        return node
    return Relation([first.members[0], Sequence("", "", values)], ["!="])


def membership(node: Node) -> tuple[Node | None, Node] | None:
    r"""Read ``x \in S``, ``a < x \le b`` and ``x > a`` as (x, set); a set stands for itself."""
    if is_set(node) or node == Sym("\\mathbb R"):
        return None, node
    if not isinstance(node, Relation):
        return None
    members, operators = node.members, node.operators
    if operators == ["!="] and isinstance(members[0], Sym) and not has_variables(members[1]):
        values: list[Node] = members[1].items if isinstance(members[1], Sequence) else [members[1]]
        return members[0], SetOperation("setminus", [Sym("\\mathbb R"), expand(Sequence("{", "}", values))])
    if operators == ["in"]:
        return members[0], members[1]
    if len(operators) == 1 and operators[0] in ("=", "<", "<=", ">", ">="):
        if operators[0] == "=":
            return (members[0], members[1]) if isinstance(members[1], Sequence) and is_name(members[0]) else None
        if has_variables(members[0]) and not has_variables(members[1]):
            variable, bound, operator = members[0], members[1], operators[0]
        elif has_variables(members[1]) and not has_variables(members[0]):
            variable, bound, operator = members[1], members[0], FLIPPED[operators[0]]
        else:
            return None
        if isinstance(variable, Call) and variable.name == "abs" and isinstance(variable.args[0], Sym):
            # |x| < c lies between -c and c, |x| > c beyond them.
            inside, closed = operator.startswith("<"), operator in ("<=", ">")
            ends = Sequence("[" if closed else "(", "]" if closed else ")", [Mul([Num(Fraction(-1)), bound]), bound])
            return variable.args[0], ends if inside else SetOperation("setminus", [Sym("\\mathbb R"), ends])
        if not is_name(variable):
            return None
        infinity = Sym("\\infty")
        if operator.startswith(">"):
            return variable, Sequence("[" if operator == ">=" else "(", ")", [bound, infinity])
        low: Node = Mul([Num(Fraction(-1)), infinity])
        return variable, Sequence("(", "]" if operator == "<=" else ")", [low, bound])
    if len(operators) == 2 and is_name(members[1]) and {op[0] for op in operators} in ({"<"}, {">"}):
        low, high = (members[0], members[2]) if operators[0][0] == "<" else (members[2], members[0])
        opening, closing = operators if operators[0][0] == "<" else operators[::-1]
        return members[1], Sequence("[" if "=" in opening else "(", "]" if "=" in closing else ")", [low, high])
    return None


def difference(relation: Relation) -> Node:
    """Return left minus right."""
    left, right = relation.members
    return Add([left, Mul([Num(Fraction(-1)), right])])
