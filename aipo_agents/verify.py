"""VerifyAgent: judges claims by arithmetic and algebra. It does not solve or execute anything."""

from __future__ import annotations

import re
from typing import Final

from aipo_agents.checking import Checker, Outcome
from aipo_agents.claims import MAX_CLAIMS, find_claims
from aipo_agents.rulebook_queries import MAX_QUERY_CHARS, find_application, is_rulebook_episode
from aipo_agents.text import MIN_CHARS, check_name, quote, shorten
from aipo_env.checks import check_count, check_number
from aipo_env.grading.mathematics import Budget
from aipo_env.protocol import ConsultRequest, Reply
from aipo_env.tasks.rulebook import evaluate_expansion

NO_CLAIM: Final = "cannot tell: there is no claim to check; I judge claims such as 2+2=4, I do not solve"
EMPTY_SIDE: Final = "cannot tell: one side of the claim is missing; I judge claims such as 2+2=4, I do not solve"
MAX_REASONS: Final = 3

_PLACES: Final = re.compile(
    r"(?<![0-9+;.])([0-9]\+[0-9]\+[0-9](?:;[0-9]\+[0-9]\+[0-9])+)\s*=\s*([0-9]{3,200})(?![0-9.+*/^-])"
)
"""A rulebook expansion and the digits it is said to make: `4+4+1;7+7+2=0916`. Two digits are the last sum's alone."""


class VerifyAgent:
    r"""Checks the claims in a query: sums, identities, chains, inequalities, congruences; plain, LaTeX or amid prose.

    Examples: `17+25=43`, `x^2-1=(x-1)(x+1)`, `\frac12+\frac13=\frac56`, `1<2<3`, `20% of 50 apples is 10`,
    `He pays $18 x4 = $72`. Replies start with "correct", "incorrect: <reason>" or "cannot tell: <reason>". Numbers are
    checked exactly; identities at points of the grader's engine. A value such as `x=2` is put into the claims about x.
    A text is correct if what it comes to last is, and nothing in it is wrong; the reply names what was not checked.

    Args:
        timeout: seconds that one query may take, more than 0; the request's deadline shortens it.
        max_chars: the most characters of a reply, at least 40.
        name: the name that the policy asks for.

    Raises:
        ConfigurationError: an argument out of its range.
    """

    def __init__(self, *, timeout: float = 0.8, max_chars: int = 300, name: str = "verify") -> None:
        self.name = check_name("VerifyAgent", name)
        self.timeout = check_number("VerifyAgent: timeout", timeout, what="the seconds of a query")
        self.max_chars = check_count("VerifyAgent: max_chars", max_chars, what="the length of a reply", least=MIN_CHARS)

    async def respond(self, request: ConsultRequest) -> Reply:
        """Judges the claims of one query."""
        return Reply(shorten(self._judge(request), self.max_chars))

    def _judge(self, request: ConsultRequest) -> str:
        if len(request.query) > MAX_QUERY_CHARS:
            return f"cannot tell: the query is longer than {MAX_QUERY_CHARS} characters; send the claim alone"
        seconds = self.timeout if request.deadline is None else min(self.timeout, 0.9 * request.deadline)
        text, operator = _mask_operators(request)
        judged: list[tuple[str, Outcome]] = []

        def check_places(match: re.Match[str]) -> str:
            judged.append((match[0], _check_places(match[1].split(";"), match[2])))
            return " ; "

        found = find_claims(_PLACES.sub(check_places, text))
        claims = found.claims[:MAX_CLAIMS]
        judged += zip(
            [claim.text for claim in claims],
            Checker(Budget(seconds=seconds), prose=found.words).check(claims),
            strict=True,
        )
        if not judged:
            if operator is not None:
                return f"cannot tell: {_not_arithmetic(operator)}"
            return EMPTY_SIDE if found.incomplete else NO_CLAIM
        blocked: list[str] = []
        if operator is not None and (found.incomplete or any(outcome.reason == "\x00" for _, outcome in judged)):
            blocked.append(_not_arithmetic(operator))  # `473@128=4+4+1;7+7+2=...`: the expansion was claimed too
        elif found.incomplete and not found.words and all(outcome.verdict == "correct" for _, outcome in judged):
            blocked.append("one side of a claim is empty")
        if len(found.claims) > MAX_CLAIMS:
            blocked.append(f"only {MAX_CLAIMS} claims are checked at once")
        return _summary([(text, outcome) for text, outcome in judged if outcome.reason != "\x00"], blocked, found.words)


def _mask_operators(request: ConsultRequest) -> tuple[str, str | None]:
    """Replaces applications of rulebook operators, which are no arithmetic, by a mark.

    `^` is a power, except in episodes about the rulebook.

    Returns:
        The text, and the first operator that was replaced.
    """
    text, first = request.query.replace("\x00", " "), None
    rulebook_episode = is_rulebook_episode(request)
    position, pieces = 0, list[str]()
    while (application := find_application(text[position:])) is not None:
        start, end = position + application.start, position + application.end
        power = application.symbol == "^" and not rulebook_episode
        question = application.symbol in "?!" and text[:start].rstrip()[-1:] in ("=", "<", ">")
        if power or question:
            pieces.append(text[position:end])
        else:
            pieces.append(text[position:start] + " \x00 ")
            first = first or application.symbol
        position = end
    return "".join(pieces) + text[position:], first


def _not_arithmetic(operator: str) -> str:
    return f"operator {operator} is not arithmetic; ask knowledge"


def _check_places(places: list[str], digits: str) -> Outcome:
    """Checks `4+4+1;7+7+2=0916`; names the first place that is wrong."""
    expected = evaluate_expansion(";".join(places))
    if digits == expected:
        return Outcome("correct")
    if len(digits) != len(expected):
        return Outcome("incorrect", f"{len(places)} places make {len(expected)} digits, not {len(digits)}")
    for index, place in enumerate(places):
        right = expected[2 * index : 2 * index + 2]
        if digits[2 * index : 2 * index + 2] != right:
            return Outcome("incorrect", f"{place} is {right}")
    raise AssertionError("the digits differ, so that some place differs")


def _summary(judged: list[tuple[str, Outcome]], blocked: list[str], words: bool) -> str:
    """The reply. What is claimed last decides: a text whose conclusion was not checked is not called correct."""
    wrong = list(dict.fromkeys(outcome.reason for _, outcome in judged if outcome.verdict == "incorrect"))
    if wrong:
        return "incorrect: " + "; ".join(wrong[:MAX_REASONS])
    checked = list(dict.fromkeys(text for text, outcome in judged if outcome.verdict == "correct"))
    open_ = {text: outcome.reason for text, outcome in judged if outcome.verdict != "correct"}
    rest = "; the rest is correct" if checked else ""
    if blocked:
        return "cannot tell: " + "; ".join(list(dict.fromkeys([*blocked, *open_.values()]))[:MAX_REASONS]) + rest
    if judged[-1][1].verdict != "correct":
        if len(judged) == 1:
            return f"cannot tell: {judged[0][1].reason}"
        latest = list(open_.items())[-MAX_REASONS:]
        return "cannot tell: " + "; ".join(f"{quote(text, 40)} was not checked: {why}" for text, why in latest) + rest
    shown = "; ".join(quote(text, 40) for text in checked[:MAX_REASONS]) + "; ..." * (len(checked) > MAX_REASONS)
    if open_:
        return f"correct: {shown}; not checked: " + "; ".join(quote(text, 40) for text in list(open_)[:MAX_REASONS])
    if not words:
        return f"correct: all {len(judged)} claims" if len(judged) > 1 else "correct"
    return f"correct: all {len(judged)} claims: {shown}" if len(judged) > 1 else f"correct: {shown}"
