"""Cut cleaned LaTeX into tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aipo_env.grading.clean import FUNCTIONS
from aipo_env.grading.units import UNIT_WORDS
from aipo_env.grading.vocabulary import TABLES

MAX_TOKENS = 600


class Unreadable(Exception):
    """A text outside the grammar. ``final`` means that no other reader should try either."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final


@dataclass(slots=True)
class Token:
    """One token: its kind, its text, and whether white space stood before it."""

    kind: str
    text: str
    spaced: bool = False


_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
    r"|(?P<begin>\\begin\s*\{[A-Za-z]+\*?\}(?:\s*\{[clr|@ ]*\})?)"
    r"|(?P<end>\\end\s*\{[A-Za-z]+\*?\})"
    r"|(?P<text>\\text\{[^{}]*\})"
    r"|(?P<newline>\\\\(?:\[\d*\.?\d*(?:pt|em|ex|mm|cm)\])?|\\cr(?![A-Za-z])|\\newline(?![A-Za-z]))"
    r"|(?P<command>\\[A-Za-z]+|\\[{}|$#&_])"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<op><=|>=|!=|==|\*\*|[-+*/^_=<>(){}\[\]|,;:!'&%])"
)
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d])(?:\.\d+)?")

RELATIONS = {
    "=": "=", "==": "=", "\\equiv": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", "\\le": "<=",
    "\\leq": "<=", "\\leqslant": "<=", "\\leqq": "<=", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=",
    "\\geqq": ">=", "\\lt": "<", "\\gt": ">", "\\ne": "!=", "\\neq": "!=", "\\approx": "~", "\\simeq": "~",
    "\\approxeq": "~", "\\in": "in",
}  # fmt: skip
_OPERATORS = {
    "\\cdot": "*", "\\times": "*", "\\ast": "*", "\\div": "/", "\\vert": "|", "\\mid": "\\mid",
    "\\lvert": "\\lvert", "\\rvert": "\\rvert", "\\|": "\\|", "\\Vert": "\\|", "\\mod": "\\mod", "\\bmod": "\\mod",
    "\\colon": ":", "\\prime": "'", "\\land": ",", "\\lor": ",", "\\wedge": ",", "\\vee": ",",
}  # fmt: skip
_WORDS = {
    "pi": ("command", "\\pi"), "infinity": ("command", "\\infty"), "theta": ("command", "\\theta"),
    "alpha": ("command", "\\alpha"), "beta": ("command", "\\beta"), "sqrt": ("command", "\\sqrt"),
    "and": ("op", "and"), "or": ("op", "or"), "percent": ("op", "%"), "pct": ("op", "%"), "percentage": ("op", "%"),
    "if": ("text", "\\text{if}"), "is": ("text", "\\text{is}"), "are": ("text", "\\text{are}"), "an": ("text", "\\text{an}"),
    "for": ("text", "\\text{for}"), "all": ("text", "\\text{all}"), "any": ("text", "\\text{any}"),
    "degrees": ("unit", "deg"), "degree": ("unit", "deg"),
}  # fmt: skip


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a cleaned text; outside brackets ``1,234`` is one number.

    Raises:
        Unreadable: if a character has no place in an answer, or there are too many tokens.
    """
    tokens: list[Token] = []
    position, spaced, depth = 0, False, 0
    while position < len(text):
        if depth == 0 and text[position].isdigit():
            grouped = _THOUSANDS.match(text, position)
            if grouped is not None:
                tokens.append(Token("number", grouped.group().replace(",", ""), spaced))
                position, spaced = grouped.end(), False
                continue
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable("character")
        position = match.end()
        kind, value = match.lastgroup or "", match.group()
        if kind == "space":
            spaced = True
            continue
        phrase = kind == "text" or (kind == "word" and len(value) > 1 and _WORDS.get(value, ("text",))[0] == "text")
        if phrase and tokens and tokens[-1].kind == "text":
            words = value if kind == "word" else value[6:-1]
            tokens[-1] = Token("text", f"{tokens[-1].text[:-1]} {words}}}", tokens[-1].spaced)
        elif kind == "command":
            _command(value, spaced, tokens)
        elif kind == "word":
            _word(value, spaced, tokens)
        else:
            tokens.append(Token(kind, value, spaced))
        if value in ("(", "[", "\\{"):
            depth += 1
        elif value in (")", "]", "\\}"):
            depth -= 1
        spaced = False
        if len(tokens) > MAX_TOKENS:
            raise Unreadable("tokens", final=True)
    return tokens


def _command(name: str, spaced: bool, tokens: list[Token]) -> None:
    name = TABLES["renamed commands"].get(name, name)
    if name in RELATIONS:
        tokens.append(Token("relation", RELATIONS[name], spaced))
    elif name in _OPERATORS:
        tokens.append(Token("op", _OPERATORS[name], spaced))
    elif name[1:] in FUNCTIONS and name != "\\sqrt":
        tokens.append(Token("function", name[1:], spaced))
    elif name == "\\log10":
        tokens.append(Token("function", "log10", spaced))
    elif name in ("e", "i"):
        tokens.append(Token("symbol", name, spaced))
    elif name == "\\$":
        tokens.append(Token("unit", "$", spaced))
    elif name in ("\\hline", ""):
        pass
    else:
        tokens.append(Token("command", name, spaced))


def _word(word: str, spaced: bool, tokens: list[Token]) -> None:
    special = _WORDS.get(word) or _WORDS.get(word.lower() if len(word) > 3 else word)
    if special is not None:
        tokens.append(Token(special[0], special[1], spaced))
        return
    if word in FUNCTIONS:
        _command("\\" + word, spaced, tokens)
        return
    after_value = bool(tokens) and (
        tokens[-1].kind in ("number", "unit") or tokens[-1].text in ("}", ")", "\\pi", "^2", "^3")
    )
    if after_value and ((len(word) > 1 and word in UNIT_WORDS) or (word == "per" and tokens[-1].kind == "unit")):
        tokens.append(Token("unit", word, spaced))
    elif len(word) >= 4:
        tokens.append(Token("text", f"\\text{{{word}}}", spaced))
    else:
        for index, letter in enumerate(word):
            tokens.append(Token("symbol", letter, spaced and index == 0))
