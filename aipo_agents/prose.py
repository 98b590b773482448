"""Rewrites prose so that its mathematics can be cut out: words that calculate, marks of a calculator, layout."""

from __future__ import annotations

import re
from typing import Final

from aipo_env.grading.clean import TRANSLATION

_SUPERSCRIPTS: Final = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_SUPERSCRIPT: Final = re.compile(rf"(⁻?)([{_SUPERSCRIPTS}]+)")
MARK: Final = re.compile(r"<<([^<>=]{0,200}(?:=[^<>=]{0,200})+)>>")
"""A calculation as GSM8K marks it: `<<48/2=24>>`."""

_COUNTS: Final = "one two three four five six seven eight nine ten eleven twelve"
_NUMBER_WORDS: Final = {word: str(value) for value, word in enumerate(_COUNTS.split(), start=1)}
_PARTS: Final = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_DETERMINER: Final = r"(?:the|a|an|his|her|their|its|these|those|all|that)\s+"
_AHEAD: Final = r"(?=\\?\$?\s?[(\\]*\.?[0-9])"
"""A number follows, perhaps an amount of money."""

_FRACTION_WORDS: Final = re.compile(
    rf"\b(?P<top>a|an|one|two|three|four|five|seven)[\s-]+(?P<part>{'|'.join(_PARTS)})s?\s+of\s+(?:{_DETERMINER})?{_AHEAD}"
    rf"|\b(?P<half>half)\s+(?:of\s+)?(?:{_DETERMINER})?{_AHEAD}",
    re.IGNORECASE,
)
_OF: Final = re.compile(
    rf"(%|[0-9]\s?/\s?[0-9]+\)?|\\frac\{{?[0-9]+\}}?\{{?[0-9]+\}}?)\s+of\s+(?:{_DETERMINER})?{_AHEAD}"
)
_NAMED: Final = re.compile(
    r"\b(sum|total|product|difference|quotient)\s+(?:of|between)\s+(?:the\s+)?(\\?\$?[0-9][0-9.,]*)\s+and\s+"
    r"(\\?\$?[0-9][0-9,]*(?:\.[0-9]+)?)",
    re.IGNORECASE,
)
_NAMED_OPERATORS: Final = {"sum": "+", "total": "+", "product": "*", "difference": "-", "quotient": "/"}
_OPERATOR_WORDS: Final = {
    "plus": "+", "minus": "-", "times": "*", "multiplied by": "*", "divided by": "/", "over": "/",
}  # fmt: skip
_OPERATOR_WORD: Final = re.compile(
    rf"(?<=[0-9)\]}}%])((?:\s+[a-z]+)?)\s+({'|'.join(_OPERATOR_WORDS)})\s+(?:{_DETERMINER})?{_AHEAD}", re.IGNORECASE
)
_CROSS: Final = re.compile(r"(?<=[0-9)%])\s*[xX](?=\s*\\?\$?\.?[0-9]|\s+\()|(?<=[a-z%])\s+[xX]\s+(?=\\?\$?\.?[0-9(])")
"""The letter x between numbers, as people write a product."""

_EQUALS: Final = re.compile(
    r"(?<=[0-9)\]}a-z!%$])\s+(?:is equal to|are equal to|equals|equal)\s+(?=\\?\$?\s?[0-9(\\.-])", re.IGNORECASE
)
_IS: Final = re.compile(r"(?<=[0-9)\]}a-z!%$])\s+(?:is|are)\s+(?=\\?\$?\s?[0-9(\\.-])")
IS: Final = "\x01"
"""What stands for the word "is" before a number: a relation, if a calculation stands before it."""

_TEXT: Final = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox|textrm)\s*\{([^{}]*)\}")
_PMOD: Final = re.compile(r"\(\s*\\?b?mod\b\s*([0-9]{1,30})\s*\)|\\pmod\s*\{?\s*([0-9]{1,30})\s*\}?")
_LAYOUT: Final = re.compile(
    r"(?<!\\)\\(?:left|right|[bB]igg?[lr]?|displaystyle|quad|qquad|limits|nonumber|boxed(?=\s*\{)|[,;:! ])(?![A-Za-z])"
)
_CONTINUED: Final = re.compile(
    r"\\\\(?:\[[^\]]{0,9}\])?\s*&?\s*(?:\\q?quad\s*)?(?=[=<>+]|\\(?:leq?|geq?|neq?|approx|equiv|times|cdot)\b)"
)
_MATRIX: Final = re.compile(r"\\begin\{([pbvBV]?matrix|array|cases)\}.{0,2000}?\\end\{\1\}", re.DOTALL)
_DEGREES: Final = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))")
_TRIGONOMETRY: Final = re.compile(r"sin|cos|tan|cot|sec|csc|cis")
_RULES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"(?<=[0-9])\{,\}(?=[0-9])|(?<=[0-9]),(?:\\!|\s?\\!)(?=[0-9]{3})"), ","),
    (_LAYOUT, " "),
    (_CONTINUED, " "),
    (re.compile(r"\\(begin|end)\{([A-Za-z]+\*?)\}|\\\\"), " ; "),
    (re.compile(r"\\%|(?<=[0-9])\s*\bpercent\b"), "%"),
    (re.compile(r"[=-]+>|-->|\\(?:Rightarrow|rightarrow|implies|Longrightarrow|to|iff|therefore|because)\b"), " ; "),
    (re.compile(r"(?<=[0-9])-(?=[A-Za-z]{2,})"), " "),  # a 5-foot pole
    (re.compile(r"\s*/\s*(?=[A-Za-z]{2,}(?![A-Za-z(]*\())"), " per "),  # 3 sets/day
    (re.compile(r"\b(?:[0-9]+\s?|[0-9a-z]+\s?\^\s?\{?\s?)(?:st|nd|rd|ths?)\b\s?\}?"), " ordinal "),
    (re.compile(r"\\angle\s*([A-Z]{1,3})(?![A-Za-z])"), r" \\angle_{\1}"),
    (re.compile(r"\b(?:C|binom)\s?\(([^(),]{1,20}),([^(),]{1,20})\)"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?<=[0-9A-Za-z)])\s+(?:mod|modulo)\s+(?=[0-9A-Za-z(])"), r" \\bmod "),
    (_CROSS, " * "),
)


def rewrite(query: str) -> tuple[str, list[str]]:
    """The text with its calculating words replaced, and the calculations that were marked in it."""
    text = _SUPERSCRIPT.sub(_superscript, query).translate(TRANSLATION)
    marks = MARK.findall(text)
    text = MARK.sub("", text)
    text = _MATRIX.sub(r" \\matrix ", text)
    text = _TEXT.sub(r" \1 ", text)
    text = _PMOD.sub(lambda m: f" \\pmod {m[1] or m[2]} ", text)
    if not _TRIGONOMETRY.search(text):
        text = _DEGREES.sub("", text)  # every angle is in degrees then
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = _NAMED.sub(lambda m: f"({m[2]}{_NAMED_OPERATORS[m[1].lower()]}{m[3]})", text)
    text = _OF.sub(r"\1 * ", text)
    text = _FRACTION_WORDS.sub(_fraction, text)
    text = _OPERATOR_WORD.sub(lambda m: f"{m[1]} {_OPERATOR_WORDS[m[2].lower()]} ", text)
    return _IS.sub(f" {IS} ", _EQUALS.sub(" = ", text)), marks


def _superscript(match: re.Match[str]) -> str:
    digits = "".join(str(_SUPERSCRIPTS.index(char)) for char in match[2])
    return f"^({'-' if match[1] else ''}{digits})"


def _fraction(match: re.Match[str]) -> str:
    if match["half"]:
        return "(1/2) * "
    top = match["top"].lower()
    return f"({_NUMBER_WORDS.get(top, '1')}/{_PARTS[match['part'].lower()]}) * "
