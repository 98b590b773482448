"""Next steps for problems in words: one calculation with the numbers of this problem, and the words that call for it.

Every number is read with what it counts and what it is counted per: "3 boxes with 12 pens each", "$20 an hour". Signs tell
which numbers belong together: a rate and a count of what it is per, "half as many clips as Ann", "20% of the 50 apples". What
speaks for a calculation has a weight (word_steps.json, fitted by `python -m benchmarks.word_steps` on problems that no report
uses); the likeliest calculation is the step. One whose result is written down already is none, and nothing is proposed where
none is likely.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Final

from aipo_agents.render import format_decimal
from aipo_agents.text import words

MAX_CHARS: Final = 2000
MIN_PROBABILITY: Final = 0.3

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
_WEIGHTS_FILE: Final = Path(__file__).with_name("word_steps.json")
_SIGNS: Final = {
    "loss": re.compile(
        r"\b(?:gave|gives?|lost|loses?|sold|sells?|ate|eats?|used?|uses|spent|spends?|broke|threw|donated?|removed?|left|leave|"
        r"took|takes?|died|drank|popped|returned|paid|pays|traded|cut)\b"
    ),
    "more": re.compile(r"\b(?:more|another|additional|also|plus|extra)\b"),
    "and": re.compile(r" and |,"),
}
_ASKED: Final = {
    "total": re.compile(r"\b(?:total|altogether|in all|combined|together|sum)\b"),
    "rest": re.compile(r"\b(?:left|remain|remaining|rest|still)\b"),
    "difference": re.compile(r"\bmore\b"),
}
_PERIODS: Final = (
    ("day", "week", 7), ("week", "month", 4), ("month", "year", 12), ("week", "year", 52), ("day", "year", 365),
    ("minute", "hour", 60), ("second", "minute", 60), ("inch", "foot", 12), ("egg", "dozen", 12), ("item", "dozen", 12),
)  # fmt: skip
_SHARE: Final = re.compile(
    r"(?<![\d/.])(\d+(?:\.\d+)?)%|(?<![\d/.])(\d+)/(\d+)(?![\d/])|(?<![\d/.])(\d+(?:\.\d+)?) times\b(?! (?:a|per|each|every)\b)"
)
"""A percentage, a fraction, or a multiple: it is taken of one of the numbers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A calculation, the words that it is made of, and what speaks for or against it."""

    left: str
    value: Fraction
    said: str
    features: frozenset[str]


def word_step(problem: str, transcript: str = "") -> str | None:
    """The likeliest calculation for a problem in words that is not written down yet, or None where none is likely."""
    text = normal_form(problem[:MAX_CHARS])
    written = {Fraction(number) for number in re.findall(r"\d+(?:\.\d+)?", transcript.replace(",", ""))}
    found = [candidate for candidate in candidates(text) if candidate.value not in written]
    if not found:
        return None
    scores = [sum(_weights().get(feature, 0.0) for feature in candidate.features) for candidate in found]
    best = max(range(len(found)), key=scores.__getitem__)
    if 1 / sum(math.exp(score - scores[best]) for score in scores) < MIN_PROBABILITY:
        return None
    chosen = found[best]
    shown = format_decimal(chosen.value) if chosen.value.denominator > 1 else str(chosen.value)
    return f"{chosen.left}={shown or chosen.value} ({chosen.said.strip(' ,.')})"


@functools.cache
def _weights() -> dict[str, float]:
    weights: dict[str, float] = json.loads(_WEIGHTS_FILE.read_text(encoding="utf-8"))
    return weights


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


def candidates(text: str) -> list[Candidate]:
    """The calculations that the numbers of a text in its normal form allow, each result once."""
    found = quantities(text)
    stated = {Fraction(number) for number in re.findall(r"\d*\.?\d+", text)}
    question = text[max(text.rstrip(" ?").rfind(". "), 0) :]
    asked = {name for name, pattern in _ASKED.items() if pattern.search(question)}
    merged: dict[Fraction, Candidate] = {}
    for left, said, features in (
        *_pairs(text, found, asked, len(text) - len(question)),
        *_shares(text, found, asked),
        *_differences(text, found),
        *_periods(text, found),
    ):
        value = _value(left)
        if value is None or value <= 0 or value in stated:
            continue
        known = merged.get(value)
        signs = frozenset(features) | ({"whole"} if value.denominator == 1 else set())
        merged[value] = (
            Candidate(left, value, said, signs)
            if known is None
            else dataclasses.replace(known, features=known.features | signs)
        )
    return list(merged.values())


Raw = tuple[str, str, Iterable[str]]


def _pairs(text: str, found: list[Quantity], asked: set[str], question: int) -> Iterator[Raw]:
    """Two numbers and an operation that suits them."""
    found = [q for q in found if _COMPARED.match(text, q.end) is None]
    for i, j in itertools.combinations(range(len(found)), 2):
        a, b = found[i], found[j]
        between = text[a.end : b.start]
        facts = {
            "next": j == i + 1, "far": j - i > 2, "same noun": a.noun == b.noun != "", "money": a.noun == "$" == b.noun,
            "one is money": (a.noun == "$") != (b.noun == "$"), "one sentence": a.sentence == b.sentence,
            "apart": b.sentence - a.sentence > 1, "first per": bool(a.per), "second per": bool(b.per),
            "rate": (a.noun == b.per != "") or (b.noun == a.per != ""), "each": b.per == "each", "first": i == 0,
            "asked about": b.start > question, "smaller first": float(a.value) < float(b.value),
            "same per": a.per == b.per != "",
            "a one": "1" in (a.value, b.value), "no noun": "" in (a.noun, b.noun), "few numbers": len(found) <= 3,
        }  # fmt: skip
        facts |= {
            name: pattern.search(between + text[b.end : b.end + 15] * (name == "more")) is not None
            for name, pattern in _SIGNS.items()
        }
        names = [name for name, holds in facts.items() if holds] + [f"asked {name}" for name in asked]
        for operator in _sensible(a, b, between, text, facts, asked):
            x, y = (b, a) if operator == "-" and facts["smaller first"] else (a, b)
            features = [operator, *(f"{operator} {name}" for name in names)]
            yield f"{x.value}{operator}{y.value}", _said(text, a, b), features


_CONTAINING: Final = re.compile(r" (?:[a-z'-]+ ){1,4}?(?:of|with|containing|holding|that (?:hold|have|contain)) $")
_PRICED: Final = re.compile(r" (?:[a-z'-]+ ){1,4}?(?:at|for|costing|that cost|worth) \$? ?$")
_COMPARED: Final = re.compile(
    r" (?:[a-z'-]+ ){0,3}?(more|fewer|less|older|younger|taller|shorter|longer|heavier|higher|lower)\b[^.?!]*?\bthan\b"
)


def _sensible(a: Quantity, b: Quantity, between: str, text: str, facts: Mapping[str, bool], asked: set[str]) -> str:
    """The operations that two numbers allow: a product needs a rate, a sum two numbers of one thing."""
    operators = ""
    alike = (
        a.noun == b.noun != ""
        and a.per == b.per
        and not facts["apart"]
        and a.noun not in ("time", "pm", "am", "a.m", "p.m")
    )
    contained = _CONTAINING.fullmatch(between) if b.noun != "$" else _PRICED.fullmatch(between)
    if facts["rate"] or (a.noun not in ("", "$") and not a.per and (contained or (facts["each"] and facts["next"]))):
        operators += "*"
    if alike and ("total" in asked or facts["more"]) and not facts["loss"]:
        operators += "+"
    if alike and (facts["loss"] or asked & {"rest", "difference"}):
        operators += "-"
    return operators


def _differences(text: str, found: list[Quantity]) -> Iterator[Raw]:
    """`5 more than Ann`, where the number of Ann's is stated."""
    for more in found:
        compared = _COMPARED.match(text, more.end)
        if compared is None:
            continue
        who = re.match(
            r" (?:(?:the|his|her|their|an?|number|of|that|what|he|she|they) )*([a-z]+)", text[compared.end() :]
        )
        for q in found:
            subject = text[max(0, q.start - 40) : q.start].split(". ")[-1]
            facts = {
                "last": q.end <= more.start and not any(q.end < other.start < more.start for other in found),
                "noun": who is not None and q.noun == singular(who[1]), "compared": _COMPARED.match(text, q.end) is not None,
                "named": who is not None and re.search(rf"\b{who[1]}\b", subject) is not None, "before": q.end <= more.start,
            }  # fmt: skip
            if (
                q is not more
                and not q.per
                and not facts["compared"]
                and (facts["noun"] or facts["named"] or (facts["last"] and who is None))
            ):
                sign = "-" if compared[1] in ("fewer", "less", "younger", "shorter", "lower") else "+"
                yield (
                    f"{q.value}{sign}{more.value}",
                    text[more.start : compared.end() + 20],
                    ["d", *(f"d {n}" for n, holds in facts.items() if holds)],
                )


_WHO: Final = re.compile(
    r"%? (?:(?:as|more|the|that|older|longer|larger|bigger)\b[^.?!]*? (?:as|than|of)|of)"
    r" (?:(?:the|his|her|their|an?|number|of|what|that|all|1|those) )*([a-z]+)"
)
_PRONOUNS: Final = frozenset(("them", "these", "those", "it", "he", "she", "they", "which", "we", "him", "before"))


def _shares(text: str, found: list[Quantity], asked: set[str]) -> Iterator[Raw]:
    """A percentage, a fraction or a multiple of a number."""
    for match in _SHARE.finditer(text):
        kind = "%" if match[1] else "f" if match[2] else "t"
        behind = re.findall(r"[a-z]+", text[match.end() : match.end() + 60])
        nouns = {singular(word) for word in behind[:6]}
        last = [q for q in found if q.end <= match.start()][-1:]
        said_of = [q for q in found if _COMPARED.match(text, q.end) is None]
        following = [q for q in found if q.start >= match.end()][:1]
        who = _WHO.match(text[match.end() :])
        if who is not None and who[1] in _PRONOUNS:
            who = None
        said = text[match.start() : match.end() + 35]
        for q in said_of:
            subject = text[max(0, q.start - 40) : q.start].split(". ")[-1]
            facts = {
                "before": q.end <= match.start(), "last": [q] == last, "following": [q] == following, "money": q.noun == "$",
                "per": bool(q.per), "first": q is found[0], "near": abs(q.start - match.start()) < 40,
                "noun": q.noun in nouns and q.noun != "",
                "named": who is not None and re.search(rf"\b{who[1]}\b", subject) is not None,
                "as": behind[:1] == ["as"], "one": len(found) == 1,
                "directly of": re.match(r"%? of (?:the |his |her |their )?$", text[match.end() - 1 : q.start]) is not None,
            }  # fmt: skip
            if not (
                facts["noun"]
                or facts["named"]
                or facts["directly of"]
                or facts["one"]
                or (facts["last"] and not facts["per"] and who is None)
            ):
                continue
            share = (
                f"*{match[1]}/100"
                if match[1]
                else f"*{match[4]}"
                if match[4]
                else f"{'' if match[2] == '1' else f'*{match[2]}'}/{match[3]}"
            )
            yield q.value + share, said, [kind, *(f"{kind} {name}" for name, holds in facts.items() if holds)]


def _periods(text: str, found: list[Quantity]) -> Iterator[Raw]:
    """`3 eggs a day` in a problem about weeks, `2 hours` in one about minutes."""
    for small, large, size in _PERIODS:
        if re.search(rf"\b{large}s?\b", text):
            for q in found:
                if q.per == small and not any(other.noun == small for other in found):
                    yield (
                        f"{q.value}*{size}",
                        f"{_said(text, q)}; {size} {small}s a {large}",
                        ["c", f"c {small} {large}"],
                    )
                elif q.noun == large and re.search(rf"\b{small}s?\b|\bdaily\b", text) and not q.per:
                    yield f"{q.value}*{size}", f"{_said(text, q)}; {size} {small}s a {large}", ["c of", f"c of {large}"]


def _said(text: str, *parts: Quantity) -> str:
    """The words of quantities."""
    return ", ".join(
        text[part.start : part.end + 25].rsplit(" ", 1)[0] for part in sorted(parts, key=lambda q: q.start)
    )
