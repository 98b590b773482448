r"""Names of segments, rays, angles and triangles: ``\overline{AB}``, ``m\angle ABC``, ``AB``."""

from __future__ import annotations

from aipo_env.grading.nodes import Call, Mul, Node, Sym

_MARKS = frozenset(["\\angle", "\\triangle", "\\square", "\\odot", "\\parallelogram"])
_OVER = frozenset(["overline", "vec"])

Figure = tuple[str, tuple[str, ...]]


def figure_name(node: Node) -> Figure | None:
    r"""Return the mark, or nothing, and the points of a named figure; None if it is not one."""
    if isinstance(node, Call) and node.name in _OVER and isinstance(node.args[0], Mul):
        points = _points(node.args[0].factors)
        return (node.name, points) if points is not None else None
    if not isinstance(node, Mul):
        return None
    factors = node.factors
    if len(factors) > 2 and factors[0] == Sym("m") and factors[1] == Sym("\\angle"):
        factors = factors[1:]
    first = factors[0]
    if isinstance(first, Sym) and first.name in _MARKS:
        points = _points(factors[1:])
        return (first.name, points) if points is not None else None
    points = _points(factors)
    return ("", points) if points is not None and len(points) > 1 else None


def _points(factors: list[Node]) -> tuple[str, ...] | None:
    names = [factor.name for factor in factors if isinstance(factor, Sym)]
    points = bool(names) and len(names) == len(factors) and all(n[0].isupper() and not n[1:].isalpha() for n in names)
    return tuple(names) if points else None


def same_figure(gold: Figure, answer: Figure) -> bool:
    """Whether two names, at least one of them marked, name the same figure; a mark may be left out."""
    if gold[0] and answer[0] and gold[0] != answer[0]:
        return False
    mark, points = gold[0] or answer[0], (gold[1], answer[1])
    if mark == "\\triangle":
        return sorted(points[0]) == sorted(points[1])
    return points[0] == points[1] or (mark != "vec" and points[0] == points[1][::-1])
