"""ReasoningAgent: proposes one next step by symbolic manipulation, never the whole solution."""

from __future__ import annotations

from typing import Final

from aipo_agents.arithmetic_steps import arithmetic_step
from aipo_agents.claims import Claim, find_statements
from aipo_agents.equation_steps import Equation, equation_step, expression_step, system_step
from aipo_agents.expressions import Expression, Number, ParseError, Variable, parse, variables
from aipo_agents.heuristics import heuristic_step
from aipo_agents.rulebook_queries import MAX_QUERY_CHARS
from aipo_agents.rulebook_steps import rulebook_step
from aipo_agents.text import shorten
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import ConsultRequest, Reply

NO_STEP: Final = "I cannot propose a step: send an expression, an equation or the problem"
IS_CLAIM: Final = "this is a claim, with nothing left to solve: ask verify whether it is true"


class ReasoningAgent:
    """Proposes the next step for what stands in the query, and nothing after it.

    - Rulebook: `473@128` gives the first place `4+4+1`, `473@128:4+4+1` the next one, and so on (see
      `aipo_agents.rulebook_steps`).
    - Arithmetic: the innermost operation of an expression; a single operation is taken apart, not computed.
    - Equations and inequalities in one unknown, two linear equations in two: expand, collect, move, divide,
      factor.
    - Otherwise a general step for the kind of problem, or the statement that there is none.

    Args:
        use_transcript: whether the transcript counts as well: to see what is done in a rulebook problem, and
            to find the problem when the query does not state it.
        max_chars: the most characters of a reply, at least 40.
        name: the name that the policy asks for.

    Raises:
        ConfigurationError: an argument out of its range.
    """

    def __init__(self, *, use_transcript: bool = True, max_chars: int = 300, name: str = "reasoning") -> None:
        if isinstance(max_chars, bool) or not isinstance(max_chars, int) or max_chars < 40:
            raise ConfigurationError(f"ReasoningAgent: max_chars must be an integer of 40 or more, got {max_chars!r}.")
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"ReasoningAgent: name must be a non-empty string, got {name!r}.")
        self.name = name
        self.use_transcript, self.max_chars = use_transcript, max_chars

    async def respond(self, request: ConsultRequest) -> Reply:
        """Proposes a step for one query."""
        transcript = request.transcript if self.use_transcript else ""
        return Reply(shorten(next_step(request.query[:MAX_QUERY_CHARS], transcript), self.max_chars))


def next_step(query: str, transcript: str = "") -> str:
    """The next step for a query, as text."""
    step = rulebook_step(query, transcript) or _symbolic_step(query) or heuristic_step(query)
    if step is None and transcript:
        # The problem stands at the beginning of the transcript.
        step = heuristic_step(transcript[:MAX_QUERY_CHARS])
    return step or NO_STEP


def _symbolic_step(query: str) -> str | None:
    """A step for the last piece of mathematics: what was written last is where the solution stands."""
    equations: list[Equation] = []
    last: Expression | Equation | None = None
    for statement in find_statements(query):
        parsed = _parse(statement)
        if isinstance(parsed, Equation):
            equations.append(parsed)
        if isinstance(parsed, Equation) or (parsed is not None and not isinstance(parsed, Number | Variable)):
            last = parsed
    if last is None:
        return None
    if isinstance(last, Equation):
        if not variables(last.left) | variables(last.right):
            return IS_CLAIM
        step = equation_step(last)
        if step is None and len(equations) >= 2:
            step = system_step(equations[-2], equations[-1])
        return step
    return expression_step(last) if variables(last) else arithmetic_step(last)


def _parse(statement: Claim) -> Expression | Equation | None:
    try:
        sides = [parse(side) for side in statement.sides]
    except ParseError:
        return None
    if not statement.relations:
        return sides[0]
    # Of a chain the last link is the newest.
    return Equation(sides[-2], statement.relations[-1], sides[-1])
