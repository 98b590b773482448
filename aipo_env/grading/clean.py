"""Bring an answer into one plain LaTeX spelling before anything parses it.

Everything is linear in the length, which is bounded first. What cannot be an honest answer is refused here:
control characters, digits that only look like ASCII digits, and excessive length or nesting.
"""

from __future__ import annotations

import re
import unicodedata

from aipo_env.grading.extract import MAX_ANSWER
from aipo_env.grading.phrases import spell_out
from aipo_env.grading.units import is_unit
from aipo_env.grading.vocabulary import TABLES, introduces

MAX_NESTING = 60


class Refused(Exception):
    """A text that no parser should see; ``reason`` is part of the rule in the grade."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


TRANSLATION = str.maketrans(TABLES["characters"])

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

_COMMANDS = "frac|dfrac|tfrac|sqrt|left|right|begin|end|text|le|leq|ge|geq|cdot|times|pi|infty|pm|cup|boxed|circ|ne|neq"
_DOUBLED = re.compile(rf"\\\\(?={_COMMANDS})")
_BACKSLASHES = re.compile(r"\\+")

_DROP = re.compile(
    r"(?<!\\)\\[!,;:> ]|~|\\q?quad|\\(?:left|right|mleft|mright|middle|bigl|bigr|Bigl|Bigr|biggl|biggr|Biggl|"
    r"Biggr|big|Big|bigg|Bigg|displaystyle|textstyle|scriptstyle|limits|nolimits|negthinspace|thinspace|medspace|"
    r"thickspace|negmedspace|negthickspace|enspace|hfill|hspace\*?\{[^{}]*\}|phantom\{[^{}]*\})(?![a-z])\.?"
)
_MATH_DELIMITERS = re.compile(r"(?<!\\)\$+|(?<!\\)\\[()\[\]]")
_THOUSANDS = re.compile(r"(?<=\d)(?:\s?\{\s?,\s?\}\s?|,?\\!\s*,?|,\\!\s*|\\,|\\ )(?=\d{3}(?!\d))")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])|\\frac(?=[A-Za-z])")
_STYLE = re.compile(
    r"\\(text(?:bf|it|rm|normal|sf|tt|up)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathtt|mathnormal|boldsymbol|bm|"
    r"operatorname\*?|emph|fbox|boxed)\s*\{([^{}]*)\}"
)
_LEAD = re.compile(r"([A-Za-z][A-Za-z ,':]{0,160}?)[\s:]+(?=\\?[$]|[\d(\[{+-]|\\(?:frac|sqrt|pi|\{))")
_ORDINAL = re.compile(
    r"(?<=\d)\s?\^\s?\{?\s?(?:\\text\s?\{\s?)?(?:st|nd|rd|th)\s?\}?\s?\}?(?![A-Za-z])"
    r"|(?:(?<=1)st|(?<=2)nd|(?<=3)rd|(?<=\d)th)(?![A-Za-z])"
)
FUNCTIONS = frozenset(
    [
        "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch", "arcsin",
        "arccos", "arctan", "arccot", "arcsec", "arccsc", "asin", "acos", "atan", "asinh", "acosh", "atanh",
        "acot", "asec", "acsc", "arsinh", "arcosh", "artanh", "arcsinh", "arccosh", "arctanh", "log", "ln",
        "lg", "exp", "sqrt", "gcd", "lcm", "max", "min", "floor", "ceil", "abs", "det", "mod", "arg", "Re",
        "Im", "sgn", "sign", "tr", "rank",
    ]
)  # fmt: skip
"""Names that are read as functions, with or without a backslash."""

_CONNECTIVES = {"and": " and ", "or": " or ", ",": ",", ", and": ", and ", "and,": " and ", "if": " if "}
_LETTERS = re.compile(r"[A-Za-z](?:\s*(?:,|,?\s*and\b|,?\s*or\b)\s*[A-Za-z])+")
_SPACED_THOUSANDS = re.compile(r"-?\d{1,3}(?: \d{3})+")
_OPTION = re.compile(r"[A-Za-z]\)")
_LETTER = re.compile(r"\(?[A-Za-z]\)?\.?")
_UNIT_LETTERS = frozenset("msghlLNJWVKFC")
_VALUE_BEFORE = re.compile(r"(?:\d|[})]|\\pi|\\circ)\s*$")
_BRACED = re.compile(r"\s?\{\s?([,:])\s?\}\s?")
_BARE_STYLE = re.compile(r"\\(?:mathbf|mathrm|mathit|mathsf|boldsymbol|bm|rm|bf)\s+(?=[A-Za-z\\])")
_MEASURED = re.compile(r"(-?\d[\d,]{0,30}(?:\.\d{1,30})?)\s+([A-Za-z][A-Za-z .]{0,40})")
_REPEATING = re.compile(r"(?<![\d.])(\d{0,9}\.\d{0,9}?)(\d{1,6})\2{1,40}\s?(?:\.\.\.|\\l?dots)")
_SPACES = re.compile(r"\s{2,}|\n")


def clean(text: str, *, trusted: bool = False) -> str:
    """Return the text in plain LaTeX: one spelling of fractions, spaces, delimiters and styles.

    Args:
        text: an extracted answer.
        trusted: the text is a gold answer, so a stray control character is dropped, not refused.

    Raises:
        Refused: if the text is too long, nests too deeply, or holds characters that an answer cannot hold.
    """
    if len(text) > MAX_ANSWER:
        # Blank padding is the only length that is forgiven.
        text = text.strip()
        if len(text) > MAX_ANSWER:
            raise Refused("length")
    if not text.isascii():
        text = _to_ascii(text)
    if _CONTROL.search(text):
        if not trusted:
            raise Refused("control")
        text = _CONTROL.sub(" ", text)
    text = _SPACES.sub(" ", text).strip()
    for mark in ("**", "`"):
        if text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark):
            text = text[len(mark) : -len(mark)].strip()
    if "\\" in text:
        text = _unescape(text)
        text = _THOUSANDS.sub(",", text)
        text = _DROP.sub(" ", text)
        text = _FRACTION.sub(r"\\frac ", text)
        text = text.replace("\\lbrace", "\\{").replace("\\rbrace", "\\}")
        text = text.replace("\\lbrack", "[").replace("\\rbrack", "]").replace("\\%", "%")
        text = _BARE_STYLE.sub(" ", text)
        for _ in range(3):
            replaced = _STYLE.sub(_restyle, text)
            if replaced == text:
                break
            text = replaced
        text = _MATH_DELIMITERS.sub(" ", text)
    elif "$" in text:
        text = text.replace("$", " ")
    if "{" in text:
        text = _BRACED.sub(r"\1", text)
    text = text.strip()
    lead = _LEAD.match(text)
    if lead is not None and introduces(lead[1]):
        text = text[lead.end() :]
    if "th" in text or "st" in text or "nd" in text or "rd" in text:
        text = _ORDINAL.sub("", text)
    if "..." in text or "dots" in text:
        text = _REPEATING.sub(r"\1\\overline{\2}", text)
    _check_nesting(text)
    # The full stop of the sentence is not part of the answer.
    while text.endswith((".", ",", ";")) and not text.endswith("\\,"):
        text = text[:-1].rstrip()
    text = text.strip()
    if _SPACED_THOUSANDS.fullmatch(text):
        return text.replace(" ", "")
    return text[0] if _OPTION.fullmatch(text) else spell_out(text)


def _to_ascii(text: str) -> str:
    text = text.translate(TRANSLATION)
    if text.isascii():
        return text
    for char in text:
        if not char.isascii():
            category = unicodedata.category(char)
            if category in ("Cc", "Cs", "Co", "Cn", "Cf", "Mn", "Me", "Mc"):
                raise Refused("control")
            if category.startswith("N") or unicodedata.normalize("NFKC", char).isascii():
                # A full-width or mathematical character imitates an ASCII one.
                raise Refused("lookalike")
    return text


def _unescape(text: str) -> str:
    """Undo a doubled escaping: every run of backslashes is even, and one of them starts a command."""
    if "\\\\" not in text:
        return text
    if _DOUBLED.search(text) and all(len(run) % 2 == 0 for run in _BACKSLASHES.findall(text)):
        return _BACKSLASHES.sub(lambda match: "\\" * (len(match.group()) // 2), text)
    # Outside an environment there are no rows, so a doubled backslash before a command is a single one.
    return text if "\\begin" in text else _DOUBLED.sub(r"\\", text)


def _restyle(match: re.Match[str]) -> str:
    r"""Unwrap styled mathematics, keep words as ``\text{...}``, name functions."""
    content = match[2].strip()
    # Unwrapping inserts a space, so that \text{3}4 becomes two numbers and is refused, not thirty-four.
    if content in _CONNECTIVES:
        return _CONNECTIVES[content]
    if _LETTERS.fullmatch(content):
        return f" {content} "
    value_before = _VALUE_BEFORE.search(match.string, max(0, match.start() - 12), match.start())
    if content in FUNCTIONS and not (content in ("min", "sec") and value_before):
        return f"\\{content} "
    if content in _UNIT_LETTERS and value_before:
        return f"\\text{{{content}}}"
    if _LETTER.fullmatch(content) and not match.string[match.end() :].strip(" .,;$"):
        return f" {content.rstrip('.')} "
    if len(content) == 1 or not any(char.isalpha() for char in content):
        return f" {content} "
    measured = _MEASURED.fullmatch(content)
    if measured is not None and is_unit(measured[2], frozenset()):
        return f" {measured[1]} \\text{{{measured[2]}}}"
    if match[1] in ("text", "textrm") and match[2] == content and "\\" not in content:
        return match[0] if match[1] == "text" else f"\\text{{{content}}}"
    if match[1] in ("boxed", "fbox") or "\\" in content or any(char.isdigit() or char in "=+^_" for char in content):
        return f" {content} "
    return f"\\text{{{content}}}"


def _check_nesting(text: str) -> None:
    depth = 0
    for char in text:
        if char in "([{":
            depth += 1
            if depth > MAX_NESTING:
                raise Refused("nesting")
        elif char in ")]}":
            depth -= 1
