"""VerifyAgent: judges claims by exact arithmetic and algebra. It does not solve or execute anything."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import Final

from aipo_agents.checking import Link, Outcome, check_link
from aipo_agents.claims import Claim, PlaceSums, find_claims
from aipo_agents.exact import EvaluationError, NotExactError, evaluate
from aipo_agents.expressions import Expression, ParseError, Variable, parse, variables
from aipo_agents.polynomials import Algebra
from aipo_agents.render import render_latex
from aipo_agents.rulebook_queries import MAX_QUERY_CHARS, find_application
from aipo_agents.text import quote, shorten
from aipo_env.errors import ConfigurationError, GradingError
from aipo_env.protocol import ConsultRequest, Reply
from aipo_env.tasks.rulebook import evaluate_expansion

NO_CLAIM: Final = "cannot tell: there is no claim to check; I judge claims such as 2+2=4, I do not solve"
EMPTY_SIDE: Final = "cannot tell: one side of the claim is missing; I judge claims such as 2+2=4, I do not solve"
MAX_REASONS: Final = 3

_ASSIGNMENTS: Final = 6
"""So many values of one variable are tried: both roots of a quadratic, and some more."""


class VerifyAgent:
    r"""Checks the claims in a query: sums, identities, chains, inequalities, congruences; plain or LaTeX.

    Examples: `17+25=43`, `x^2-1=(x-1)(x+1)`, `\frac12+\frac13=\frac56`, `1<2<3`. Replies start with
    "correct", "incorrect: <reason>" or "cannot tell: <reason>". Numbers are checked exactly and identities by
    their normal form; equalities beyond polynomials and square roots go to the grading engine, whose workers
    are killed when late. A value such as `x=2` beside an equation is put into it.

    Args:
        engine: whether to ask the grading engine about equalities that are beyond our own algebra. False
            keeps everything in this process; such claims then are "cannot tell".
        timeout: seconds that the engine may take for one query, more than 0; the request's deadline shortens it.
        max_chars: the most characters of a reply, at least 40.
        name: the name that the policy asks for.

    Raises:
        ConfigurationError: an argument out of its range.
    """

    def __init__(
        self, *, engine: bool = True, timeout: float = 0.8, max_chars: int = 300, name: str = "verify"
    ) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
            raise ConfigurationError(f"VerifyAgent: timeout must be a number of seconds above 0, got {timeout!r}.")
        if isinstance(max_chars, bool) or not isinstance(max_chars, int) or max_chars < 40:
            raise ConfigurationError(f"VerifyAgent: max_chars must be an integer of 40 or more, got {max_chars!r}.")
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"VerifyAgent: name must be a non-empty string, got {name!r}.")
        self.name = name
        self.engine, self.timeout, self.max_chars = engine, float(timeout), max_chars

    async def respond(self, request: ConsultRequest) -> Reply:
        """Judges the claims of one query; a failure of the grading engine is an error reply."""
        try:
            return Reply(shorten(await self._judge(request), self.max_chars))
        except GradingError as error:
            return Reply("", error=str(error))

    async def _judge(self, request: ConsultRequest) -> str:
        if len(request.query) > MAX_QUERY_CHARS:
            return f"cannot tell: the query is longer than {MAX_QUERY_CHARS} characters; send the claim alone"
        text, operator = _mask_operators(request)
        found = find_claims(text)
        outcomes = [_check_places(place_sums) for place_sums in found.place_sums]
        links: list[Link] = []
        for claim in found.claims:
            parsed = _links(claim)
            links += [item for item in parsed if isinstance(item, Link)]
            outcomes += [item for item in parsed if isinstance(item, Outcome)]
        outcomes += await self._check(links, request.deadline)
        if not outcomes:
            if operator is not None:
                return f"cannot tell: {_not_arithmetic(operator)}"
            return EMPTY_SIDE if found.incomplete else NO_CLAIM
        if operator is not None:
            outcomes = [_named(outcome, operator) for outcome in outcomes]
            if found.incomplete:  # `473@128=4+4+1;7+7+2=...`: the expansion itself was claimed too
                outcomes.append(Outcome("unknown", _not_arithmetic(operator)))
        elif found.incomplete and all(outcome.verdict == "correct" for outcome in outcomes):
            outcomes.append(Outcome("unknown", "one side of a claim is empty"))
        if found.too_many:
            outcomes.append(Outcome("unknown", f"only {len(found.claims)} claims are checked at once"))
        return _summary(outcomes, len(found.claims) + len(found.place_sums))

    async def _check(self, links: list[Link], deadline: float | None) -> list[Outcome]:
        algebra = Algebra()
        outcomes: list[Outcome] = []
        values = _stated_values(links)
        used: set[str] = set()
        loop = asyncio.get_running_loop()
        late = None if deadline is None else loop.time() + 0.9 * deadline
        asked_engine = 0.0
        definitions: list[tuple[str, Outcome]] = []
        for link in links:
            names = variables(link.left) | variables(link.right)
            outcome = check_link(link, algebra)
            if outcome.verdict == "unproven":
                started = await self._start_engine(late)
                start = loop.time()
                limit = self.timeout - asked_engine
                if late is not None:
                    limit = min(limit, late - start)
                outcome = await self._ask_engine(link, outcome, limit if started else 0.0)
                asked_engine += loop.time() - start
            if outcome.verdict == "correct":
                outcomes.append(outcome)
            elif _defines(link) is not None:
                definitions.append((next(iter(names)), outcome))
            elif names and names <= values.keys():
                used |= names
                outcomes.append(_check_at_values(link, algebra, values, names))
            else:
                outcomes.append(outcome)
        unused = [outcome for name, outcome in definitions if name not in used]
        # `x=10/2=5` defines x and claims 10/2=5: the definition is no reason to withhold the judgement.
        return outcomes if outcomes else unused[:1]

    async def _start_engine(self, late: float | None) -> bool:
        """Waits for the engine's workers, so that the first claim has as much time as every other one."""
        if not self.engine:
            return False
        from aipo_env.grading import shared_grader  # lazily: only some claims need it

        grader = shared_grader()
        if grader.worker_pids:
            return True
        limit = None if late is None else max(late - asyncio.get_running_loop().time(), 0.0)
        try:
            await asyncio.wait_for(asyncio.to_thread(grader.start), limit)
        except TimeoutError:
            return False
        return True

    async def _ask_engine(self, link: Link, unproven: Outcome, limit: float) -> Outcome:
        if not self.engine:
            return Outcome("unknown", unproven.reason)
        if limit <= 0.01:
            return Outcome("unknown", "there was no time left to check it")
        from aipo_env.grading import Verdict, grade_async

        left, right = render_latex(link.left), render_latex(link.right)
        try:
            # The outer limit also covers the wait for a free worker.
            grade = await asyncio.wait_for(grade_async(left, right, timeout=limit), timeout=limit)
        except TimeoutError:
            return Outcome("unknown", "the check took too long")
        if grade.verdict is Verdict.CORRECT:
            return Outcome("correct")
        reason = "the check took too long" if grade.verdict is Verdict.TIMEOUT else unproven.reason
        return Outcome("unknown", reason)


def _mask_operators(request: ConsultRequest) -> tuple[str, str | None]:
    """Replaces applications of rulebook operators, which are no arithmetic, by a mark.

    `^` is a power, except in episodes about the rulebook.

    Returns:
        The text, and the first operator that was replaced.
    """
    text, first = request.query.replace("\x00", " "), None
    rulebook_episode = request.task_id.startswith("rulebook") or "rulebook" in request.transcript
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


def _named(outcome: Outcome, operator: str) -> Outcome:
    return Outcome("unknown", _not_arithmetic(operator)) if outcome.reason == "\x00" else outcome


def _links(claim: Claim) -> list[Link | Outcome]:
    """The links of a chain; a side that cannot be parsed makes its links outcomes."""
    sides: list[Expression | Outcome] = []
    for tokens, text in zip(claim.sides, claim.texts, strict=True):
        try:
            if any(token.kind == "rulebook" for token in tokens):
                sides.append(Outcome("unknown", "\x00"))
            else:
                sides.append(parse(tokens))
        except ParseError as error:
            sides.append(Outcome("unknown", f"I cannot read '{quote(text, 40)}': {error}"))
    links: list[Link | Outcome] = []
    for index, relation in enumerate(claim.relations):
        left, right = sides[index], sides[index + 1]
        if isinstance(left, Outcome) or isinstance(right, Outcome):
            failed = left if isinstance(left, Outcome) else right
            assert isinstance(failed, Outcome)
            links.append(failed)
        else:
            links.append(Link(left, relation, right, claim.texts[index], claim.texts[index + 1], claim.modulus))
    return links


def _check_places(claim: PlaceSums) -> Outcome:
    """Checks `4+4+1;7+7+2=0916`; names the first place that is wrong."""
    expected = evaluate_expansion(";".join(claim.places))
    if claim.digits == expected:
        return Outcome("correct")
    if len(claim.digits) != len(expected):
        return Outcome("incorrect", f"{len(claim.places)} places make {len(expected)} digits, not {len(claim.digits)}")
    for index, place in enumerate(claim.places):
        right = expected[2 * index : 2 * index + 2]
        if claim.digits[2 * index : 2 * index + 2] != right:
            return Outcome("incorrect", f"{place} is {right}")
    raise AssertionError("the digits differ, so that some place differs")


def _defines(link: Link) -> tuple[str, Expression] | None:
    """The variable and its value in `x=2`."""
    for side, other in ((link.left, link.right), (link.right, link.left)):
        if (
            link.relation == "="
            and isinstance(side, Variable)
            and not variables(other)
            and side.name not in ("e", "pi")
        ):
            return side.name, other
    return None


def _stated_values(links: list[Link]) -> dict[str, list[Fraction]]:
    values: dict[str, list[Fraction]] = {}
    for link in links:
        definition = _defines(link)
        if definition is None:
            continue
        try:
            value = evaluate(definition[1])
        except (EvaluationError, NotExactError):
            continue
        stated = values.setdefault(definition[0], [])
        if value not in stated and len(stated) < _ASSIGNMENTS:
            stated.append(value)
    return values


def _check_at_values(link: Link, algebra: Algebra, values: dict[str, list[Fraction]], names: set[str]) -> Outcome:
    """Puts the stated values in; with several variables of several values each, the first of each."""
    single = len(names) == 1
    for index in range(len(values[next(iter(names))]) if single else 1):
        outcome = check_link(link, algebra, {name: values[name][index] for name in sorted(names)})
        if outcome.verdict != "correct":
            return Outcome("unknown", outcome.reason) if outcome.verdict == "unproven" else outcome
    return Outcome("correct")


def _summary(outcomes: list[Outcome], num_claims: int) -> str:
    wrong = list(dict.fromkeys(outcome.reason for outcome in outcomes if outcome.verdict == "incorrect"))
    if wrong:
        return "incorrect: " + "; ".join(wrong[:MAX_REASONS])
    unknown = list(dict.fromkeys(outcome.reason for outcome in outcomes if outcome.verdict == "unknown"))
    if unknown:
        rest = "; the rest is correct" if any(outcome.verdict == "correct" for outcome in outcomes) else ""
        return "cannot tell: " + "; ".join(unknown[:MAX_REASONS]) + rest
    return f"correct: all {num_claims} claims" if num_claims > 1 else "correct"
