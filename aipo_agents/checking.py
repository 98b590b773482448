"""Decides claims with the grader's engine: which links of a chain hold, which do not, which are no claims at all.

A link that calculates is judged exactly. Work that people write has more than one reading (a percent sign is a
hundredth or a unit, different units are converted), so a link is wrong only if every reading of it is.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Final, Literal

from aipo_agents.algebra import (
    coefficients,
    has_sign,
    has_work,
    literal_value,
    minus,
    names_e,
    substitute,
    unknown_function,
    value_of,
)  # fmt: skip
from aipo_agents.claims import Claim, Side
from aipo_agents.readings import compose, other_readings, ratios, same_unit
from aipo_agents.render import format_decimal, format_fraction, format_value, spoken
from aipo_agents.text import quote
from aipo_env.grading.arithmetic import to_complex
from aipo_env.grading.mathematics import Budget, NoValue, OutOfBudget, Unreadable, Value, equal, read, variables
from aipo_env.grading.nodes import Call, Node, Num, Relation, Sym
from aipo_env.grading.trees import mentions

_POINTS: Final = tuple(map(Fraction, ("2", "3", "1", "5", "1/2", "-1", "-2", "7", "0", "10")))
_PLACE_SUM: Final = re.compile(r"[0-9]\+[0-9]\+[0-9]")
_AMBIGUOUS: Final = re.compile(
    r"/\s*(?:[0-9]+(?:\.[0-9]+)?|[A-Za-z]|\([^()]*\))\s*(?:[A-Za-z]|\((?!\s*\\bmod)|\\(?!cdot|times|div|bmod|pmod|right|rfloor|rceil|le|ge))"
)
_SUM_BEHIND_MOD: Final = re.compile(r"\\bmod\s*[^()\s]*\s*[-+]")
_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge
}  # fmt: skip
_NAMES: Final = ("e", "i", "\\pi")

Verdict = Literal["correct", "incorrect", "unknown", "definition"]


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of a link or a claim; a "definition" says what something is, and nothing that can be wrong."""

    verdict: Verdict
    reason: str = ""


CORRECT: Final = Outcome("correct")


@dataclasses.dataclass(frozen=True, slots=True)
class _Link:
    """left RELATION right."""

    left: Node
    relation: str
    right: Node
    sides: tuple[Side, Side]
    modulus: int | None = None


class Checker:
    """Judges the claims of one text; what one of them defines is used in the others.

    Args:
        budget: bounds all work for the text; what exceeds it is unknown.
        prose: whether words stand around the claims: an equation that fails somewhere is then one to solve, and
            of several values of a variable only those right behind an equation are put into it.
    """

    def __init__(self, budget: Budget, *, prose: bool = False) -> None:
        self._budget, self._prose = budget, prose
        self._values: dict[str, list[tuple[int, Node]]] = {}
        self._functions: dict[str, tuple[str, Node]] = {}
        self._used: set[int] = set()
        self._conditions: list[_Link] = []

    def check(self, claims: Sequence[Claim]) -> list[Outcome]:
        """One outcome for each claim."""
        links = [[self._read(claim, k) for k in range(len(claim.relations))] for claim in claims]
        for index, chain in enumerate(links):
            for link in chain:
                if isinstance(link, _Link):
                    self._define(index, link)
        outcomes: list[Outcome] = []
        for index, (claim, chain) in enumerate(zip(claims, links, strict=True)):
            try:
                outcomes.append(self._claim(index, claim, chain))
            except OutOfBudget as spent:
                late = (
                    "there was no time left to check it"
                    if spent.reason == "time"
                    else "it takes too many steps to check"
                )
                outcomes.append(Outcome("unknown", late))
        # A value that was put into another claim has been checked with it.
        return [CORRECT if o.verdict == "definition" and k in self._used else o for k, o in enumerate(outcomes)]

    def _read(self, claim: Claim, position: int) -> _Link | Outcome:
        trees: list[Node] = []
        sides = claim.sides[position], claim.sides[position + 1]
        for side in sides:
            try:
                trees.append(read_side(side))
            except Unreadable as error:
                return Outcome("unknown", error.reason)
        return _Link(trees[0], claim.relations[position], trees[1], sides, claim.modulus)

    def _define(self, index: int, link: _Link) -> None:
        if link.relation != "=":
            return
        for side, other in ((link.left, link.right), (link.right, link.left)):
            if isinstance(side, Sym) and side.name not in _NAMES and side.name not in variables(other):
                self._values.setdefault(side.name, []).append((index, other))
                return
            if isinstance(side, Call) and unknown_function(side) == side.name and len(side.args) == 1:
                argument = side.args[0]
                if isinstance(argument, Sym) and argument.name in variables(other):
                    self._functions.setdefault(side.name, (argument.name, other))
                return

    def _claim(self, index: int, claim: Claim, chain: Sequence[_Link | Outcome]) -> Outcome:
        outcomes = [self._link(index, claim, link) if isinstance(link, _Link) else link for link in chain]
        for verdict in ("incorrect", "correct", "unknown", "definition"):
            reasons = [outcome.reason for outcome in outcomes if outcome.verdict == verdict]
            if reasons:
                return Outcome(verdict, "; ".join(dict.fromkeys(filter(None, reasons))))
        raise AssertionError("a claim has at least one link")

    def _link(self, index: int, claim: Claim, link: _Link) -> Outcome:
        if link.relation != "~=" and (names_e(link.left) or names_e(link.right)):
            return Outcome("unknown", "e may be a name here; write e ~= 2.718 for the constant")
        if Sym("i") in (link.left, link.right):
            return Outcome("definition", "i may be a name here")
        if not variables(link.left) | variables(link.right) and not any(map(unknown_function, (link.left, link.right))):
            outcome = self._constants(link)
            if outcome.verdict != "incorrect":
                return outcome
            if link.relation == "=" and any(self._holds(link, *texts) for texts in other_readings(*link.sides)):
                return CORRECT
            return self._excused(link, claim) or outcome
        identity = self._identity(link)
        if identity.verdict in ("correct", "incorrect"):
            return identity
        outcome = self._resolved(index, link) or (CORRECT if self._follows(link) else identity)
        self._conditions.append(link)
        return outcome

    # -- without variables

    def _holds(self, link: _Link, left: str, right: str) -> bool:
        try:
            return self._constants(dataclasses.replace(link, left=read(left), right=read(right))) == CORRECT
        except Unreadable:
            return False

    def _constants(self, link: _Link) -> Outcome:
        try:
            left, right = (value_of(node, None, self._budget) for node in (link.left, link.right))
        except NoValue as error:
            return Outcome("unknown", str(error))
        if link.relation in ("==", "|") or (link.relation == "=" and link.modulus and left != right):
            return _divisibility(link, left, right)
        if link.relation != "~=" and isinstance(left, Fraction) and isinstance(right, Fraction):
            return CORRECT if _ORDERS[link.relation](left, right) else _wrong(link, left, right)
        try:
            a, b = to_complex(left), to_complex(right)
        except OverflowError:
            return Outcome("unknown", "its numbers are too large")
        return _approximate(link, a.real, b.real) if link.relation == "~=" else _irrational(link, a, b, self._budget)

    def _excused(self, link: _Link, claim: Claim) -> Outcome | None:
        """What may be said in place of "incorrect" where people write loosely; None where nothing may."""
        left, right = link.sides
        work = claim.prose or bool(left.units) or bool(right.units)
        if link.relation != "=" or not work:
            return None
        a, b = (value_of(node, None, self._budget) for node in (link.left, link.right))
        if right.is_number and isinstance(a, Fraction):
            decimals = _decimals(right)
            gap = abs(a - (b if isinstance(b, Fraction) else Fraction(b.real)))
            if (a * 10**decimals).denominator != 1 and gap < Fraction(1, 10**decimals):
                if decimals:
                    return CORRECT
                return Outcome(
                    "unknown", f"{quote(left.text)} is {format_decimal(a) or format_fraction(a)}, before rounding"
                )
        if left.is_number and right.is_number:
            if same_unit(left, right) and not (claim.prose and left is claim.sides[0]):
                return None
            if not ratios(left, right):
                return Outcome("definition", f"nothing says how {quote(left.text)} makes {quote(right.text)}")
        elif left.is_number and left is claim.sides[0] and (claim.prose or left.units):
            return Outcome("definition", f"{quote(left.text)} may belong to the words beside it")
        return None

    # -- with variables

    def _resolved(self, index: int, link: _Link) -> Outcome | None:
        """The link with the values put in that the text states elsewhere; None where one is missing.

        Where a variable has a value before the link and another one behind it, either may be meant.
        """
        behind, before = self._with_values(index, link, roots=True), self._with_values(index, link, roots=False)
        if behind is None or behind == before:
            return before
        return CORRECT if CORRECT in (behind, before) else behind if before is None else None

    def _with_values(self, index: int, link: _Link, *, roots: bool) -> Outcome | None:
        if any(isinstance(a, Sym) and not variables(b) for a, b in ((link.left, link.right), (link.right, link.left))):
            return None  # `x=2` beside `x=4`: two roots
        outcome: Outcome | None = None
        for values, used in self._assignments(index, link, roots):
            left, right = (substitute(node, values, self._functions) for node in (link.left, link.right))
            if variables(left) | variables(right) or unknown_function(left) or unknown_function(right):
                return None
            if (left, right) == (link.left, link.right) or left == right:
                return None
            outcome = self._constants(dataclasses.replace(link, left=left, right=right))
            if outcome.verdict not in ("correct", "incorrect"):
                return None
            self._used |= used
            if outcome.verdict == "incorrect":
                shown = {name: self._shown(substitute(Sym(name), values, {})) for name in sorted(values)[:4]}
                return Outcome("incorrect", _at(shown, self._shown(left), self._shown(right)))
        return outcome

    def _follows(self, link: _Link) -> bool:
        """Whether an equation or an inequality is an earlier one in another form: a multiple of it."""
        relation = _relation(link)
        names = variables(relation)
        if not names or link.relation in ("==", "|", "~=") or unknown_function(relation):
            return False
        earlier = map(_relation, self._conditions[-6:])
        return any(names == variables(one) and equal(relation, one, self._budget) is True for one in earlier)

    def _shown(self, node: Node) -> str:
        return format_value(value_of(node, None, self._budget))

    def _assignments(self, index: int, link: _Link, roots: bool) -> Iterator[tuple[dict[str, Node], set[int]]]:
        """Values for the link's variables: the last ones stated before it, else all that are stated behind it."""
        fixed: dict[str, Node] = {}
        used: set[int] = set()
        later: list[tuple[str, list[tuple[int, Node]]]] = []
        wanted = sorted(variables(link.left) | variables(link.right))
        for name in wanted:
            stated = [(k, value) for k, value in self._values.get(name, ()) if k != index]
            before = [(k, value) for k, value in stated if k < index]
            if any(value != stated[0][1] for _, value in stated):
                # Roots stand right behind their equation; other values are those of other cases.
                after = [(k, value) for k, value in stated if k > index]
                after = [item for place, item in enumerate(after) if item[0] == index + place + 1]
                if roots:
                    stated, before = after, []
                elif (self._prose and before and before[-1][0] != index - 1) or not before:
                    return
            if before:
                fixed[name] = before[-1][1]
                used.add(before[-1][0])
                # A value may be given by another one: y=2x and x=3.
                wanted += sorted(variables(fixed[name]) - set(wanted))
            elif stated:
                later.append((name, stated))
            else:
                return
        if len(later) == 1:
            for k, value in later[0][1][:6]:
                yield {**fixed, later[0][0]: value}, {*used, k}
        else:
            yield (
                {**fixed, **{name: stated[0][1] for name, stated in later}},
                used | {stated[0][0] for _, stated in later},
            )

    def _identity(self, link: _Link) -> Outcome:
        """The link for all values of its variables: a proof, a counterexample, or what kind of statement it is."""
        left, right = link.left, link.right
        names = sorted(variables(left) | variables(right))
        listed = ", ".join(map(spoken, names[:4]))
        for node in (left, right):
            function = unknown_function(node)
            if function is not None:
                kind: Verdict = "definition" if isinstance(node, Call) and node.name == function else "unknown"
                return Outcome(kind, f"{spoken(function)} is an unknown function")
        for side, other in ((left, right), (right, left)):
            if isinstance(side, Sym) and side.name not in _NAMES and side.name not in variables(other):
                return Outcome(
                    "definition", f"it says what {spoken(side.name)} is; give the equation to test it in as well"
                )
        if link.relation in ("==", "|", "~="):
            return Outcome("unknown", f"it depends on {listed}")
        if link.relation != "=" and len(names) == 1:
            difference = coefficients(minus(left, right), names[0], 2, self._budget)
            if difference is not None and has_sign(link.relation, difference):
                return CORRECT
        rewriting = variables(left) == variables(right) and (has_work(left) or has_work(right))
        imaginary = mentions(left, Sym("i")) or mentions(right, Sym("i"))
        tried = 0
        for offset in range(len(_POINTS)):
            point = {name: _POINTS[(offset + k) % len(_POINTS)] for k, name in enumerate(names)}
            try:
                values = [value_of(node, point, self._budget) for node in (left, right)]
                a, b = map(to_complex, values)
            except (NoValue, OverflowError):
                continue
            if (a.imag or b.imag) and not imaginary:
                continue
            tried += 1
            if isinstance(values[0], Fraction) and isinstance(values[1], Fraction):
                fails = not _ORDERS[link.relation](*values)
            else:
                real = not a.imag and not b.imag and _ORDERS[link.relation](a.real, b.real)
                fails = abs(a - b) > 1e-7 * max(1.0, abs(a), abs(b)) and (link.relation == "=" or not real)
            if not fails:
                continue
            if self._prose or not rewriting:
                # `2x+3=7`, `2n+1=3n-6`, `AB=CD`: a condition to be used, not a claim that one form is the other.
                return Outcome(
                    "definition",
                    f"whether it holds depends on {listed}; add a value such as {spoken(names[0])}=2 to test",
                )
            shown = _at({name: format_fraction(point[name]) for name in names[:4]}, *map(format_value, values))
            if link.relation != "=":
                return Outcome("unknown", f"it needs a condition: {shown}")
            return Outcome("incorrect", f"not true for all {listed}: {shown}")
        if link.relation == "=" and equal(left, right, self._budget):
            return CORRECT
        return Outcome(
            "unknown", f"it holds at the {tried} points tried, which is no proof" if tried else "it has no value"
        )


def _relation(link: _Link) -> Relation:
    return Relation([link.left, link.right], [link.relation])


def read_side(side: Side) -> Node:
    """The tree of a side.

    Raises:
        Unreadable: it is none, or can be read in two ways; the reason is a whole message.
    """
    for piece in side.pieces:
        if piece.text == "\\pmod":
            raise Unreadable("a congruence needs a modulus, such as (mod 5)")
        if piece.kind == "unknown":
            raise Unreadable(
                "\x00" if piece.text == "\x00" else f"I cannot read '{quote(side.text, 40)}': unexpected '{piece.text}'"
            )
    text = compose(side)
    before, remainder, modulus = text.rpartition("\\bmod")
    if remainder and before.count("(") == before.count(")"):
        text = f"({before})\\bmod{modulus}"  # of all that stands before it: 3^5 + 4^5 mod 11
    for pattern, shown in ((_AMBIGUOUS, "a/bc"), (_SUM_BEHIND_MOD, "a mod b + c")):
        if pattern.search(text):
            raise Unreadable(f"I cannot read '{quote(side.text, 40)}': {shown} can be read in two ways; add brackets")
    try:
        return read(text)
    except Unreadable:
        raise Unreadable(f"I cannot read '{quote(side.text, 40)}'") from None


def _divisibility(link: _Link, left: Value, right: Value) -> Outcome:
    if not (isinstance(left, Fraction) and isinstance(right, Fraction) and left.denominator == right.denominator == 1):
        return Outcome("unknown", "this needs integers")
    if link.relation == "|":
        if left == 0:
            return Outcome("unknown", "divisibility is by a number that is not 0")
        rest = int(right) % abs(int(left))
        return CORRECT if rest == 0 else Outcome("incorrect", f"the remainder is {rest}")
    if link.modulus is None or link.modulus < 1:
        return Outcome("unknown", "a congruence needs a modulus, such as (mod 5)")
    if (left - right) % link.modulus == 0:
        return CORRECT
    rest = int(left) % link.modulus
    return Outcome("incorrect", f"{quote(link.sides[0].text)} leaves the remainder {rest} modulo {link.modulus}")


def _approximate(link: _Link, left: float, right: float) -> Outcome:
    """`22/7 ~= 3.14`: within one unit of the last digit written; 1 per cent where no decimal is written."""
    written = next(
        (node.decimals for node in (link.right, link.left) if isinstance(node, Num) and node.decimals > 0), None
    )
    tolerance = 0.01 * max(abs(left), abs(right)) if written is None else 10.0**-written
    if abs(left - right) <= tolerance * (1 + 1e-9):
        return CORRECT
    texts = [quote(side.text) for side in link.sides]
    return Outcome("incorrect", f"{texts[0]} is about {left:.6g}, {texts[1]} about {right:.6g}")


def _irrational(link: _Link, left: complex, right: complex, budget: Budget) -> Outcome:
    size = max(abs(left), abs(right), 1.0)
    if max(abs(left.imag), abs(right.imag)) > 1e-9 * size and link.relation not in ("=", "!="):
        return Outcome("unknown", "a side is not real")
    same = abs(left - right) <= 1e-7 * size and equal(link.left, link.right, budget)
    if same is None or (size > 1e15 and not same and abs(left - right) > 1e-7 * size):
        return Outcome("unknown", "the sides are too close, or too large, to tell")  # tan(pi/2) comes out as 1.6e16
    if link.relation in ("=", "!="):
        if same == (link.relation == "="):
            return CORRECT
    elif (same and "=" in link.relation) or (not same and _ORDERS[link.relation](left.real, right.real)):
        return CORRECT
    if abs(left - right) <= 1e-7 * size:
        return Outcome("incorrect", "the two sides are equal" if same else "the sides are close but differ")
    facts = [
        f"{quote(side.text)} is {format_value(value)}"
        for node, side, value in zip((link.left, link.right), link.sides, (left, right), strict=True)
        if not isinstance(node, Num)
    ]
    return Outcome("incorrect", ", ".join(facts))


def _wrong(link: _Link, left: Fraction, right: Fraction) -> Outcome:
    """The reason: the values of those sides that are not plain numbers already."""
    texts = [quote(side.text) for side in link.sides]
    facts: list[str] = []
    for k, (node, value) in enumerate(((link.left, left), (link.right, right))):
        text, other = texts[k], texts[1 - k]
        if literal_value(node) is not None and all(piece.text != "*" for piece in link.sides[k].pieces):
            continue
        shown = format_fraction(value)
        if _PLACE_SUM.fullmatch(text.replace(" ", "")) and re.fullmatch("[0-9]{2}", other):
            shown = shown.zfill(2)  # a place of the rulebook is written with two digits
        elif "." in other or "$" in text + other:
            shown = format_decimal(value) or shown
        facts.append(f"{text} is {shown}")
    if facts:
        return Outcome("incorrect", ", ".join(facts))
    if link.relation == "=" and abs(left - right) < Fraction(1, 100) * abs(left):
        return Outcome("incorrect", f"{texts[0]} is not exactly {texts[1]}")
    words = {"=": "is not", "<": "is not less than", ">": "is not greater than", "!=": "is equal to"}
    words |= {"<=": "is greater than", ">=": "is less than"}
    return Outcome("incorrect", f"{texts[0]} {words[link.relation]} {texts[1]}")


def _decimals(side: Side) -> int:
    """The digits behind the point of a side that is one number; a percent sign moves the point by two."""
    number = next(piece.text for piece in side.pieces if piece.kind == "number")
    return len(number.partition(".")[2]) + 2 * any(piece.text == "%" for piece in side.pieces)


def _at(point: dict[str, str], left: str, right: str) -> str:
    where = ", ".join(f"{spoken(name)}={value}" for name, value in point.items())
    return f"{f'at {where} ' if where else ''}the left side is {left}, the right side {right}"
