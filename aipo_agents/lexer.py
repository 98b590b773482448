"""Splits text into the tokens of mathematics, LaTeX or plain; every other word is a token of its own kind."""

from __future__ import annotations

import dataclasses
import re
from typing import Final, Literal

Kind = Literal[
    "number",
    "name",
    "function",
    "operator",
    "relation",
    "open",
    "close",
    "bar",
    "word",
    "rulebook",
    "unknown",
]
"""A "word" ends a piece of mathematics; "rulebook" and "unknown" belong to it but cannot be read."""

FUNCTIONS: Final = frozenset(
    {
        "sqrt", "root", "abs", "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh",
        "cosh", "tanh", "log", "ln", "exp", "gcd", "lcm", "floor", "ceil", "max", "min", "binom", "factorial",
        "mod",
    }
)  # fmt: skip
_ALIASES: Final = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "choose": "binom",
    "comb": "binom",
    "tg": "tan",
}
CONSTANTS: Final = frozenset(
    {"pi", "theta", "alpha", "beta", "gamma", "phi", "lambda", "mu", "omega", "epsilon", "sigma"}
)

_UNITS_AND_SHORT_WORDS: Final = frozenset(
    {
        "is", "so", "if", "we", "of", "to", "in", "it", "at", "as", "be", "by", "do", "no", "or", "an", "my",
        "us", "go", "he", "me", "on", "up", "am", "cm", "mm", "km", "kg", "mg", "ml", "dm", "hr", "ft", "lb",
        "oz", "hz",
    }
)  # fmt: skip

_COMMANDS: Final[dict[str, tuple[Kind, str] | None]] = {
    "cdot": ("operator", "*"), "times": ("operator", "*"), "ast": ("operator", "*"), "div": ("operator", "/"),
    "le": ("relation", "<="), "leq": ("relation", "<="), "leqslant": ("relation", "<="),
    "ge": ("relation", ">="), "geq": ("relation", ">="), "geqslant": ("relation", ">="),
    "lt": ("relation", "<"), "gt": ("relation", ">"), "ne": ("relation", "!="), "neq": ("relation", "!="),
    "approx": ("relation", "~="), "equiv": ("relation", "=="), "mid": ("relation", "|"),
    "frac": ("function", "frac"), "dfrac": ("function", "frac"), "tfrac": ("function", "frac"),
    "cfrac": ("function", "frac"), "dbinom": ("function", "binom"), "tbinom": ("function", "binom"),
    "pmod": ("operator", "pmod"), "bmod": ("operator", "mod"), "mod": ("operator", "mod"),
    "circ": ("operator", "deg"),
    "lfloor": ("open", "floor"), "rfloor": ("close", "floor"),
    "lceil": ("open", "ceil"), "rceil": ("close", "ceil"),
    "lvert": ("bar", "|"), "rvert": ("bar", "|"), "vert": ("bar", "|"), "{": ("word", "{"), "}": ("word",
     "}"),
    "%": ("operator", "%"), "varphi": ("name", "phi"), "varepsilon": ("name", "epsilon"),
    # Layout only:
    "left": None, "right": None, "big": None, "Big": None, "bigl": None, "bigr": None, "displaystyle": None,
    "quad": None, "qquad": None, ",": None, ";": None, "!": None, ":": None, " ": None, "limits": None,
}  # fmt: skip

_BREAKS: Final = frozenset(
    {
        "text", "textbf", "textit", "mathrm", "mbox", "therefore", "because", "implies", "Rightarrow",
        "Longrightarrow", "iff", "Leftrightarrow", "rightarrow", "to", "land", "lor", "wedge", "vee", "begin",
        "end", "boxed", "item", "par", "newline", "label", "tag", "section", "[", "]", "(", ")", "\\", "$",
        "#",
        "_", "&",
    }
)  # fmt: skip
"""Commands that stand between pieces of mathematics; any other unknown one is part of a piece."""

_UNICODE: Final = str.maketrans(
    {
        "×": "*", "·": "*", "⋅": "*", "∙": "*", "∗": "*", "÷": "/", "∕": "/", "⁄": "/",
        "−": "-", "–": "-", "＝": "=", "≤": " \\le ", "⩽": " \\le ", "≥": " \\ge ", "⩾": " \\ge ",
        "≠": " \\ne ", "≈": " \\approx ", "≡": " \\equiv ", "∣": " \\mid ", "√": " sqrt ",
        "π": " pi ", "θ": " theta ", "α": " alpha ", "β": " beta ", "°": " \\circ ",
        "⌊": " \\lfloor ", "⌋": " \\rfloor ", "⌈": " \\lceil ", "⌉": " \\rceil ",
        "½": "(1/2)", "¼": "(1/4)", "¾": "(3/4)", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
    }
)  # fmt: skip
_SUPERSCRIPTS: Final = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_SUPERSCRIPT: Final = re.compile(rf"(⁻?)([{_SUPERSCRIPTS}]+)")

_PIECE: Final = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<based>[0-9]+_(?:\{[0-9]{1,2}\}|[0-9]))"
    r"|(?P<unknown>\.\.\.+|…|_|\.(?=\\(?:overline|bar|dot)))"  # 0.333... is no 0.333
    r"|(?P<number>[0-9]{1,3}(?:(?:,|\{,\}|,\\!)[0-9]{3})+(?![0-9,])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|\\(?P<command>[A-Za-z]+|.)"
    r"|(?P<letters>[A-Za-z]+(?:_(?:\{[A-Za-z0-9]{1,8}\}|[A-Za-z0-9]))?)"
    r"|(?P<relation><=|>=|(?<![0-9A-Za-z)\]}!])!=|==|=|<|>)"  # 5!=120 is about a factorial
    r"|(?P<power>\*\*)"
    r"|(?P<rulebook>\x00)"
    r"|(?P<other>.)",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """One token; `text` is its normal form, `start` and `end` its place in the normalised text."""

    kind: Kind
    text: str
    start: int
    end: int


def normalize(text: str) -> str:
    """Replaces the Unicode signs of mathematics by their ASCII or LaTeX form."""

    def superscript(match: re.Match[str]) -> str:
        digits = "".join(str(_SUPERSCRIPTS.index(char)) for char in match[2])
        return f"^({'-' if match[1] else ''}{digits})"

    return _SUPERSCRIPT.sub(superscript, text.translate(_UNICODE))


def tokenize(text: str) -> list[Token]:
    """The tokens of a text that `normalize` has passed over; linear in its length."""
    tokens: list[Token] = []
    for match in _PIECE.finditer(text):
        start, end = match.span()
        if match["space"] is not None:
            continue
        if match["based"] is not None:
            tokens.append(_based(match["based"], start, end))
        elif match["unknown"] is not None:
            tokens.append(Token("unknown", match["unknown"], start, end))
        elif match["number"] is not None:
            tokens.append(Token("number", re.sub(r"[^0-9.]", "", match["number"]), start, end))
        elif match["command"] is not None:
            tokens.extend(_command(match["command"], start, end))
        elif match["letters"] is not None:
            tokens.extend(_letters(match["letters"], start, end, text))
        elif match["relation"] is not None:
            relation = "=" if match["relation"] == "==" else match["relation"]
            tokens.append(Token("relation", relation, start, end))
        elif match["power"] is not None:
            tokens.append(Token("operator", "^", start, end))
        elif match["rulebook"] is not None:
            tokens.append(Token("rulebook", "", start, end))
        else:
            tokens.extend(_other(match["other"], start, end))
    return tokens


def _based(text: str, start: int, end: int) -> Token:
    """A number in another base, such as 110_2, as its decimal number."""
    digits, _, base = text.partition("_")
    try:
        return Token("number", str(int(digits, int(base.strip("{}")))), start, end)
    except ValueError:  # not a base, or not its digits
        return Token("unknown", text, start, end)


def _command(name: str, start: int, end: int) -> list[Token]:
    if name in _COMMANDS:
        known = _COMMANDS[name]
        return [] if known is None else [Token(known[0], known[1], start, end)]
    if name in FUNCTIONS:
        return [Token("function", name, start, end)]
    if name in CONSTANTS:
        return [Token("name", name, start, end)]
    return [Token("word" if name in _BREAKS else "unknown", "\\" + name, start, end)]


def _letters(text: str, start: int, end: int, whole: str) -> list[Token]:
    word, _, subscript = text.partition("_")
    name = _ALIASES.get(word, word)
    if subscript and (len(word) == 1 or name in CONSTANTS):
        return [Token("name", f"{name}_{subscript.strip('{}')}", start, end)]
    if name == "mod":
        return [Token("operator", "mod", start, end)]
    if name in FUNCTIONS:
        return [Token("function", name, start, end)]
    if name in CONSTANTS:
        return [Token("name", name, start, end)]
    if subscript or len(word) > 3 or word.lower() in _UNITS_AND_SHORT_WORDS:
        return [Token("word", word, start, end)]
    if len(word) == 3 and word.lower() not in ("xyz", "abc"):
        return [Token("word", word, start, end)]
    if word in ("a", "A", "I") and whole[:start][-1:].isspace() and whole[end : end + 1].isspace():
        # An article or a pronoun, unless an operator stands beside it.
        before, after = whole[max(start - 20, 0) : start].rstrip()[-1:], whole[end : end + 20].lstrip()[:1]
        if before not in tuple("+-*/^=<>(") and after not in tuple("+-*/^=<>!)"):
            return [Token("word", word, start, end)]
    return [Token("name", letter, start + i, start + i + 1) for i, letter in enumerate(word)]


def _other(char: str, start: int, end: int) -> list[Token]:
    if char in "+-*/^!%":
        return [Token("operator", char, start, end)]
    if char in "([{":
        return [Token("open", char, start, end)]
    if char in ")]}":
        return [Token("close", char, start, end)]
    if char == "|":
        return [Token("bar", "|", start, end)]
    if char in "~&":  # a LaTeX space, and the alignment mark of its tables
        return []
    return [Token("word", char, start, end)]
