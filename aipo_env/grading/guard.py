"""The static guard: what no computer algebra system should be asked to look at."""

from __future__ import annotations

import re

from aipo_env.grading.clean import FUNCTIONS

MAX_LENGTH = 600
MAX_DEPTH = 12
MAX_TOKENS = 250
MAX_DIGITS = 40
MAX_EXPONENT = 60

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+|[^\s]")
_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")
_SCIENTIFIC = re.compile(r"\d[eE][-+]?0*(\d+)")
_EXPONENT = re.compile(r"(?:\^|\*\*)\s*\{?\s*\(?\s*[-+]?\s*(\d+)")
_FACTORIAL = re.compile(r"(\d+)\s*!")
_BIG_ARGUMENT = re.compile(r"\\(?:binom|dbinom|tbinom|prod|sum)\b[^A-Za-z]{0,20}?(\d{4,}|\d+\s*\^)")
_CODE = re.compile(r"__|(?<!\\)lambda|import|\bexec\b|\beval\b|subclasses|\\write|\\input|\\def\b|\\catcode")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
# A command that no mathematics has would be skipped by a lenient parser, and the rest read as an answer.
_NAMES = """
frac sqrt binom choose pi infty cdot times ast div pm mp le leq leqslant ge geq geqslant lt gt ne neq approx equiv
in notin cup cap setminus emptyset varnothing mathbb mathcal begin end text overline bar vec hat tilde sum prod int
iint iiint oint lim to partial nabla circ degree lfloor rfloor lceil rceil lvert rvert vert mid mod bmod pmod land
lor wedge vee prime dots ldots cdots langle rangle angle triangle perp parallel subset subseteq supset cong sim
mathrm operatorname quad hline colon top intercal alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta
iota kappa lambda mu nu xi rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi
Psi Omega ell
"""
_COMMANDS = FUNCTIONS | frozenset(_NAMES.split())


def check_for_algebra(text: str) -> str | None:
    """Return why a cleaned expression must not reach the computer algebra system, or None if it may."""
    if len(text) > MAX_LENGTH:
        return "length"
    if _CODE.search(text):
        return "code"
    if _LONG_NUMBER.search(text):
        return "digits"
    if any(name not in _COMMANDS for name in _COMMAND.findall(text)):
        return "command"
    tokens = _TOKEN.findall(text)
    if len(tokens) > MAX_TOKENS:
        return "tokens"
    depth = deepest = powers = 0
    for token in tokens:
        if token in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in ")]}":
            depth -= 1
        powers += token == "^"
    if deepest > MAX_DEPTH:
        return "nesting"
    if powers > 24:
        return "powers"
    if tokens.count("\\sqrt") > 8:
        return "radicals"
    if any(int(match) > MAX_EXPONENT for match in _SCIENTIFIC.findall(text)):
        return "exponent"
    if any(int(match) > MAX_EXPONENT for match in _EXPONENT.findall(text)):
        return "exponent"
    if re.search(r"(?:\^|\*\*)\s*\{?[^{}+\-]{0,40}(?:\^|\*\*)\s*\{?[^{}]{0,40}(?:\^|\*\*)", text):
        return "tower"
    if any(int(match) > 100 for match in _FACTORIAL.findall(text)) or re.search(r"!\s*!|\)\s*!", text):
        return "factorial"
    if _BIG_ARGUMENT.search(text):
        return "range"
    return None
