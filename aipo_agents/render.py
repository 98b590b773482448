"""Writes expressions back as plain text, which parses to the same tree, or as LaTeX."""

from __future__ import annotations

from typing import Final

from aipo_agents.expressions import Expression, Number, Variable, fold

_LEVEL: Final = {"+": 1, "-": 1, "neg": 1, "*": 2, "/": 2, "mod": 2, "^": 3, "!": 3, "%": 3, "deg": 3}
_ATOM: Final = 4

_GREEK: Final = frozenset(["pi", "theta", "alpha", "beta", "gamma", "phi", "lambda", "mu", "omega", "epsilon", "sigma"])


def render(expression: Expression) -> str:
    """Plain text with the fewest brackets: `2*(x+3)`, `-x^2`."""
    return fold(expression, _plain)[0]


def render_latex(expression: Expression) -> str:
    """LaTeX in which every operation is bracketed as needed, for graders that read LaTeX."""
    return fold(expression, _latex)


def _plain(node: Expression, args: tuple[tuple[str, int], ...]) -> tuple[str, int]:
    if isinstance(node, Number):
        return node.text, _ATOM
    if isinstance(node, Variable):
        return node.name, _ATOM
    level = _LEVEL.get(node.op)
    if level is None:
        if node.op == "abs":
            return f"|{args[0][0]}|" if "|" not in args[0][0] else f"abs({args[0][0]})", _ATOM
        return f"{node.op}({','.join(text for text, _ in args)})", _ATOM
    (left, left_level), (right, right_level) = args[0], args[-1]
    if node.op == "neg":
        return f"-{_bracket(left, left_level <= 1)}", 1
    if node.op in ("!", "%", "deg"):
        return _bracket(left, left_level < _ATOM) + {"deg": "^\\circ"}.get(node.op, node.op), 3
    if node.op == "^":
        return f"{_bracket(left, left_level < _ATOM)}^{_bracket(right, right_level < 3)}", 3
    if node.op in ("+", "-"):
        # A sign inside (`1+-2`) reads badly, so a negative right side is bracketed.
        return f"{left}{node.op}{_bracket(right, right_level <= 1)}", 1
    left, right = _bracket(left, left_level < 2), _bracket(right, right_level <= 2)
    if node.op == "*":
        glue = node.implicit and not right[:1].isdigit() and not (left[-1:].isalpha() and right[:1].isalpha())
        single_letters = (
            node.implicit and left[-1:].isalpha() and right[:1].isalpha() and _single(left) and _single(right)
        )
        return f"{left}{'' if glue or single_letters else '*'}{right}", 2
    return f"{left} mod {right}" if node.op == "mod" else f"{left}/{right}", 2


def _single(text: str) -> bool:
    """Whether letters can stand beside this text without forming a word: `2x`, but not `pi` or `sin(x)`."""
    letters = [char for char in text if char.isalpha()]
    return len(letters) == 1 and len(text) <= 8


def _bracket(text: str, needed: bool) -> str:
    return f"({text})" if needed else text


def _latex(node: Expression, args: tuple[str, ...]) -> str:
    if isinstance(node, Number):
        return node.text
    if isinstance(node, Variable):
        base, _, subscript = node.name.partition("_")
        return ("\\" + base if base in _GREEK else base) + (f"_{{{subscript}}}" if subscript else "")
    match node.op:
        case "+" | "-":
            return f"\\left({args[0]}{node.op}{args[1]}\\right)"
        case "*":
            return f"{args[0]} \\cdot {args[1]}"
        case "/":
            return f"\\frac{{{args[0]}}}{{{args[1]}}}"
        case "neg":
            return f"\\left(-{args[0]}\\right)"
        case "^":
            return f"\\left({args[0]}\\right)^{{{args[1]}}}"
        case "!" | "factorial":
            return f"\\left({args[0]}\\right)!"
        case "%":
            return f"\\frac{{{args[0]}}}{{100}}"
        case "deg":
            return f"\\frac{{{args[0]} \\cdot \\pi}}{{180}}"
        case "sqrt":
            return f"\\sqrt{{{args[0]}}}"
        case "root":
            return f"\\sqrt[{args[1]}]{{{args[0]}}}"
        case "binom":
            return f"\\binom{{{args[0]}}}{{{args[1]}}}"
        case "abs":
            return f"\\left|{args[0]}\\right|"
        case "log" if len(args) == 2:
            return f"\\log_{{{args[1]}}}\\left({args[0]}\\right)"
        case op:
            return f"\\{op}\\left({','.join(args)}\\right)"
