r"""The one reader and evaluator of mathematics: what the grader and the embedded helpers share.

    tree = read(r"\frac{1}{2} + 0.25")          # LaTeX or plain text to a tree of `nodes`; raises `Unreadable`
    evaluate(tree)                              # Fraction(3, 4): exact while rational, else complex floating point
    evaluate(read("2x+1"), {"x": Fraction(3)})  # Fraction(7, 1)
    variables(read("x^2+y"))                    # {"x", "y"}
    equal(read("x^2-1"), read("(x-1)(x+1)"))    # True, False, or None: cannot tell

Trees are the dataclasses of `aipo_env.grading.nodes`. No text makes any of this run code, hang or grow without
bound: what is read has at most 2,000 characters, and `Budget` bounds steps and wall time of all that is
computed with it; pass one budget to several calls to bound them together. Everything is pure and thread-safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from aipo_env.grading.arithmetic import Budget, NoValue, OutOfBudget, Value, to_complex
from aipo_env.grading.clean import Refused, clean
from aipo_env.grading.compare import compare_trees
from aipo_env.grading.lexer import Unreadable
from aipo_env.grading.nodes import Node
from aipo_env.grading.numeric import Evaluator
from aipo_env.grading.parser import parse
from aipo_env.grading.policy import INTEGER
from aipo_env.grading.trees import variables

__all__ = [
    "Budget",
    "NoValue",
    "OutOfBudget",
    "Unreadable",
    "Value",
    "equal",
    "evaluate",
    "read",
    "variables",
]


def read(text: str) -> Node:
    """Return the tree of a formula, an equation, an inequality, a list, a quantity.

    Args:
        text: LaTeX or plain ASCII mathematics, with or without dollar signs.

    Raises:
        Unreadable: if it is not mathematics, or too long or nested too deeply.
    """
    try:
        return parse(clean(text))
    except Refused as refused:
        raise Unreadable(refused.reason, final=True) from None
    except RecursionError:
        raise Unreadable("nesting", final=True) from None


def evaluate(node: Node, values: Mapping[str, Fraction] | None = None, budget: Budget | None = None) -> Value:
    """Return the value of a tree: a Fraction while it stays rational and small, else a complex number.

    A unit does not change a value, except that percent divides by 100 and a degree is pi/180.

    Args:
        node: a tree.
        values: the variables' values, by name as in `Sym.name`.
        budget: bounds the work; one of its own by default.

    Raises:
        NoValue: if it has no value: a variable or a function without one, a division by zero, a list.
        OutOfBudget: if it takes too long.
    """
    known = dict(values or {})
    missing = variables(node) - known.keys()
    if missing:
        raise NoValue(f"no value for {min(missing)}")
    evaluator = Evaluator(budget)
    evaluator.bound.update(known)
    value = evaluator.value(node)
    if evaluator.placeholders:
        raise NoValue("unknown function")
    return value if isinstance(value, Fraction) else to_complex(value)


def equal(left: Node, right: Node, budget: Budget | None = None) -> bool | None:
    """Return whether two expressions have the same value for all values of their variables; None: cannot tell.

    Variables with roots or logarithms count as positive, indices of sums and binomials as whole numbers. Two equations or
    inequalities are equal if one is a multiple of the other.
    """
    try:
        return compare_trees(left, right, INTEGER, budget or Budget()).equal
    except OutOfBudget:
        return None
