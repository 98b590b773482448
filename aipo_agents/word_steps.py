"""Next steps for problems in words: one calculation with the numbers of this problem, and the words that call for it.

Every number is read with what it counts and what it is counted per: "3 boxes with 12 pens each", "$20 an hour". Rules say which
numbers belong together: a rate and a count of what it is per, "half as many clips as Ann", "20% of the 50 apples"; they stand
from the surest to the least sure. A calculation whose result is written down already is no step, and nothing is proposed where
no rule fits.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from aipo_agents.render import format_decimal
from aipo_agents.text import words

MAX_CHARS: Final = 2000
MAX_TRANSCRIPT_CHARS: Final = 20_000
MAX_DIGITS: Final = 12

_ONES: Final = words(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen"""
)
_TENS: Final = dict(
    zip(words("twenty thirty forty fifty sixty seventy eighty ninety"), range(20, 100, 10), strict=True)
)
_PARTS: Final = {"third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "tenth": 10}
_WORD_NUMBER: Final = re.compile(
    rf"\b(?:({'|'.join(_TENS)})(?:[ -]({'|'.join(_ONES[1:10])}))?|({'|'.join(_ONES)}))\b", re.IGNORECASE
)
_FRACTION: Final = re.compile(rf"\b(a|an|[0-9]+)[ -]({'|'.join(_PARTS)})s?\b")

_NUMBER: Final = re.compile(rf"\d{{0,{MAX_DIGITS}}}\.?\d{{1,{MAX_DIGITS}}}")
_QUANTITY: Final = re.compile(
    r"(?<![\d/.:-])(\$ ?)?((?:\d+)?\.?\d+)(?![\d/%:]|\.\d| times\b)(?:-(?=[a-z]))?((?: ?[a-z'-]+){0,4})"
)
_PER: Final = re.compile(
    r"^(?: ?(?!(?:and|with|for|of|in|on|to|from|by|at|but|or)\b)[a-z'-]+){0,3}? ?"
    r"\b(?:per|an?|each|every|for each|for every|for an?|in each|to each) ([a-z]+)"
)
_EACH: Final = re.compile(r"^[^.?!\d$]{0,40}?\b(?:each|apiece)\b(?! [a-z]+ (?:has|have|cost|is|are))")
_SUBJECT: Final = re.compile(
    r"\b(?:(?:for |in )?(?:each|every)(?: of (?:the|his|her|their|these))? (?:(?:[a-z'-]+ ){0,2}?)(?P<each>[a-z'-]+)"
    r"|(?:an?|1|per|the) (?:[a-z'-]+ )?(?P<one>[a-z'-]+)) (?:costs?|weighs?|contains?|has|have|holds?|takes?|lasts?"
    r"|can (?:hold|carry|fit)|produces?|makes?|sells? for|is sold (?:at|for)|pays?|eats?|uses?|needs?|gets?|earns?|gives?"
    r"|receives?|lays?|buys?|will (?:cost|get|have|eat|need))"
    r"(?: (?:about|only|exactly|an average of|a total of|up to|for|at))* ?$"
)
_SKIPPED: Final = frozenset(
    words(
        """more less fewer other of the new different large small big full whole extra total additional old red blue green and
        or in on at to for from with that which who is are was were has have had he she they it each every per a an"""
    )
)
_PERIODS: Final = (("day", "week", 7), ("month", "year", 12), ("week", "year", 52), ("day", "year", 365))
_SHARE: Final = re.compile(
    r"(?<![\d/.])(\d+(?:\.\d+)?)%|(?<![\d/.])(\d+)/(\d+)(?![\d/])|(?<![\d/.])(\d+(?:\.\d+)?) times\b(?! (?:a|per|each|every)\b)"
)
"""A percentage, a fraction, or a multiple: it is taken of one of the numbers."""


def word_step(problem: str, transcript: str = "") -> str | None:
    """A calculation for a problem in words that is not written down yet, or None."""
    text = normal_form(problem[:MAX_CHARS])
    found = quantities(text)
    seen = transcript[-MAX_TRANSCRIPT_CHARS:].replace(",", "")
    written = {Fraction(number) for number in _NUMBER.findall(f"{text} {seen}")}
    for left, said in itertools.chain(*(rule(text, found) for rule in (_products, _shares, _differences, _periods))):
        value = _value(left)
        if value is not None and value > 0 and value not in written:
            shown = format_decimal(value) if value.denominator > 1 else str(value)
            return f"{left}={shown or value} ({said.strip(' ,.')})"
    return None


def normal_form(problem: str) -> str:
    """The problem in lower case, with its numbers in digits."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", problem.replace("’", "'")).lower()
    text = re.sub(r"\b(?:a|one) dozen\b", "1 dozen", text)
    text = _WORD_NUMBER.sub(_digits, text)
    text = _FRACTION.sub(lambda m: f"{m[1] if m[1].isdigit() else 1}/{_PARTS[m[2]]}", text)
    text = re.sub(r"\bhalf\b(?! an? (?:hour|mile|dozen))", "1/2", text)
    text = re.sub(r"\b(?:twice|double)\b", "2 times", text)
    text = re.sub(r"\b(?:thrice|triple)\b", "3 times", text)
    text = re.sub(r" ?percent\b", "%", text)
    return re.sub(r"\s+", " ", text)


def _digits(match: re.Match[str]) -> str:
    if match[3]:
        return str(_ONES.index(match[3].lower()))
    return str(_TENS[match[1].lower()] + (_ONES.index(match[2].lower()) if match[2] else 0))


def _value(expression: str) -> Fraction | None:
    """The value of `a*b`, `a+b-c` or `a/b*c`, from the left."""
    total: Fraction | None = None
    for operator, number in re.findall(r"([-+*/]?)(\d*\.?\d+)", expression):
        term = Fraction(number)
        if total is None:
            total = term
        elif operator == "/" and not term:
            return None
        else:
            total = {"+": total + term, "-": total - term, "*": total * term, "/": total / term if term else total}[
                operator
            ]
    return total


@dataclasses.dataclass(frozen=True, slots=True)
class Quantity:
    """A number of a problem."""

    value: str
    noun: str
    """What it counts, singular; `$` for money."""
    per: str
    """What it is counted per, singular; `each` where that is not named."""
    start: int
    end: int
    sentence: int


def quantities(text: str) -> list[Quantity]:
    """The numbers of a problem in its normal form, with what they count."""
    found: list[Quantity] = []
    vague: set[int] = set()
    ends = [match.end() for match in re.finditer(r"[.?!](?= |$)", text)]
    for match in _QUANTITY.finditer(text):
        if len(match[2]) > MAX_DIGITS:
            continue
        words = [word for word in match[3].split() if word not in _SKIPPED or word in _PER_WORDS]
        noun = "$" if match[1] else ""
        for word in words if not noun else ():
            if word in _PER_WORDS:
                break
            noun = word
            if word.endswith("s"):
                break
        end = match.end(2)
        rest = text[end : end + 60].split(". ")[0]
        per = _PER.match(rest)
        subject = _SUBJECT.search(text[max(0, match.start() - 70) : match.start()])
        unit = ""
        if per is not None:
            unit = singular(per[1])
        elif _EACH.match(rest):
            unit = "each"
        elif subject is not None:
            unit = singular(subject["each"] or subject["one"])
        sentence = sum(stop <= match.start() for stop in ends)
        found.append(Quantity(match[2], singular(noun), unit, match.start(), end, sentence))
        if subject is not None and per is None and unit != "each" and subject["one"]:
            vague.add(len(found) - 1)
    counted = {quantity.noun for quantity in found}
    # "A shop has 3 boxes" is a rate only where shops are counted.
    return [dataclasses.replace(q, per="") if k in vague and q.per not in counted else q for k, q in enumerate(found)]


_PER_WORDS: Final = frozenset(("per", "a", "an", "each", "every", "for"))


_ONE_NAME: Final = {
    "daily": "day", "morning": "day", "night": "day", "evening": "day", "hourly": "hour", "feet": "foot",
    "children": "child", "people": "person", "dollars": "$", "dollar": "$", "buck": "$", "bucks": "$",
}  # fmt: skip


def singular(word: str) -> str:
    """A noun without the ending of its plural; units of time by one name."""
    word = _ONE_NAME.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word


Calculation = tuple[str, str]
"""The calculation and the words it is made of."""

_CONTAINING: Final = re.compile(r" (?:[a-z'-]+ ){1,4}?(?:of|with|containing|holding|that (?:hold|have|contain)) $")
_PRICED: Final = re.compile(r" (?:[a-z'-]+ ){1,4}?(?:at|for|costing|that cost|worth) $")


def _products(text: str, found: list[Quantity]) -> Iterator[Calculation]:
    """`3 boxes with 12 pens each`, `5 packs of 12 pens`, `4 shirts at $5`; `$20 an hour` and `8 hours`."""
    for a, b in itertools.pairwise(found):
        between = text[a.end : b.start]
        contained = (_PRICED if b.noun == "$" else _CONTAINING).fullmatch(between)
        each = b.per == "each" and a.sentence == b.sentence
        if a.noun not in ("", "$") and not a.per and (contained or each):
            yield f"{a.value}*{b.value}", _said(text, a, b)
    for rate in found:
        counts = [
            q for q in found if q.noun == rate.per and q is not rate and rate.noun != rate.per and q.per != rate.per
        ]
        counts = [q for q in counts if q.sentence == rate.sentence] or counts
        if rate.per and len({q.value for q in counts}) == 1:
            yield f"{counts[0].value}*{rate.value}", _said(text, rate, counts[0])


_WHO: Final = re.compile(
    r"%? (?:(?:as|more|the|that|older|longer|larger|bigger)\b[^.?!]*? (?:as|than|of)|of)"
    r" (?:(?:the|his|her|their|an?|number|of|what|that|all|1|those) )*([a-z]+)"
)
_PRONOUNS: Final = frozenset(("them", "these", "those", "it", "he", "she", "they", "which", "we", "him", "before"))


def _shares(text: str, found: list[Quantity]) -> Iterator[Calculation]:
    """`20% of the 50 apples`, `1/3 of them`, `twice as many as Ann`: of what is named, else of what stands last before."""
    weaker: list[Calculation] = []
    for match in _SHARE.finditer(text):
        who = _WHO.match(text[match.end() :])
        share = f"*{match[4]}" if match[4] else f"*{match[1]}/100" if match[1] else f"*{match[2]}/{match[3]}"
        for q in found:
            if _COMPARED.match(text, q.end) is not None:
                continue
            calculation = q.value + share.replace("*1/", "/"), text[match.start() : match.end() + 35]
            direct = re.match(r"%? of (?:the |his |her |their )?\$? ?$", text[match.end() - 1 : q.start]) is not None
            if direct or (who is not None and who[1] not in _PRONOUNS and not q.per and _belongs(q, who[1], text)):
                yield calculation
            elif q.end <= match.start() and not q.per and (who is None or who[1] in _PRONOUNS):
                weaker = [item for item in weaker if item[1] != calculation[1]] + [calculation]  # the last one before
    yield from weaker


_COMPARED: Final = re.compile(
    r" (?:[a-z'-]+ ){0,3}?(more|fewer|less|older|younger|taller|shorter|longer|heavier|higher|lower)\b[^.?!]*?\bthan\b"
)


def _differences(text: str, found: list[Quantity]) -> Iterator[Calculation]:
    """`5 more than Ann`, where the number of Ann's is stated."""
    for more in found:
        compared = _COMPARED.match(text, more.end)
        if compared is None:
            continue
        who = re.match(r" (?:(?:the|his|her|their|an?|of) )*([a-z]+)", text[compared.end() :])
        for q in found:
            if (
                who is not None
                and q is not more
                and not q.per
                and _COMPARED.match(text, q.end) is None
                and _belongs(q, who[1], text)
            ):
                sign = "-" if compared[1] in ("fewer", "less", "younger", "shorter", "lower") else "+"
                yield f"{q.value}{sign}{more.value}", text[more.start : compared.end() + 20]


def _belongs(quantity: Quantity, who: str, text: str) -> bool:
    """Whether a number counts somebody's or something's: `60 girls`, `Ann has 60`."""
    subject = text[max(0, quantity.start - 40) : quantity.start].split(". ")[-1]
    return quantity.noun == singular(who) or re.search(rf"\b{re.escape(who)}\b", subject) is not None


def _periods(text: str, found: list[Quantity]) -> Iterator[Calculation]:
    """`3 eggs a day` in a problem about weeks."""
    for small, large, size in _PERIODS:
        for q in found if re.search(rf"\b{large}s?\b", text) else ():
            if q.per == small and not any(other.noun == small for other in found):
                yield f"{q.value}*{size}", f"{_said(text, q)}; {size} {small}s a {large}"


def _said(text: str, *parts: Quantity) -> str:
    """The words of quantities."""
    return ", ".join(
        text[part.start : part.end + 25].rsplit(" ", 1)[0] for part in sorted(parts, key=lambda q: q.start)
    )
