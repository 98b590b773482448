"""ReasoningAgent: proposes one next step by symbolic manipulation, never the whole solution."""

from __future__ import annotations

from typing import Final

from aipo_agents.arithmetic_steps import arithmetic_step
from aipo_agents.checking import read_side
from aipo_agents.claims import Claim, find_statements
from aipo_agents.equation_steps import equation_step, expression_step
from aipo_agents.rulebook_queries import MAX_QUERY_CHARS
from aipo_agents.rulebook_steps import rulebook_step
from aipo_agents.text import MIN_CHARS, check_name, shorten
from aipo_agents.word_steps import word_step
from aipo_env.checks import check_count
from aipo_env.grading.mathematics import Budget, OutOfBudget, Unreadable, variables
from aipo_env.grading.nodes import Node, Relation
from aipo_env.protocol import ConsultRequest, Reply

NO_STEP: Final = "I cannot propose a step: send an expression, an equation or the problem"
IS_CLAIM: Final = "this is a claim, with nothing left to solve: ask verify whether it is true"


class ReasoningAgent:
    """Proposes the next step for what stands in the query, and nothing after it.

    - Rulebook: `473@128` gives the first place `4+4+1`, `473@128:4+4+1` the next one, and so on (see
      `aipo_agents.rulebook_steps`).
    - Arithmetic: the innermost operation of an expression; a single operation is taken apart, not computed.
    - Equations and inequalities in one unknown: expand, collect, move, divide, factor.
    - A problem in words: a product that the words spell out (see `aipo_agents.word_steps`).
    - Otherwise the statement that there is none: a sentence that fits any problem is no step.

    Args:
        use_transcript: whether the transcript counts as well: to see what is done in a rulebook problem, and
            to find the problem when the query does not state it.
        max_chars: the most characters of a reply, at least 40.
        name: the name that the policy asks for.

    Raises:
        ConfigurationError: an argument out of its range.
    """

    def __init__(self, *, use_transcript: bool = True, max_chars: int = 300, name: str = "reasoning") -> None:
        self.name, self.use_transcript = check_name("ReasoningAgent", name), use_transcript
        self.max_chars = check_count(
            "ReasoningAgent: max_chars", max_chars, what="the length of a reply", least=MIN_CHARS
        )

    async def respond(self, request: ConsultRequest) -> Reply:
        """Proposes a step for one query."""
        transcript = request.transcript if self.use_transcript else ""
        return Reply(shorten(next_step(request.query[:MAX_QUERY_CHARS], transcript), self.max_chars))


def next_step(query: str, transcript: str = "") -> str:
    """The next step for a query, as text."""
    step = rulebook_step(query, transcript) or _symbolic_step(query) or word_step(query, transcript)
    # The problem stands at the beginning of the transcript.
    return step or word_step(transcript, transcript) or NO_STEP


def _symbolic_step(query: str) -> str | None:
    """A step for the last piece of mathematics: what was written last is where the solution stands."""
    budget = Budget()
    last: Node | None = None
    try:
        for statement in find_statements(query):
            tree = _read(statement)
            if isinstance(tree, Relation) or (tree is not None and _calculates(statement) and not statement.prose):
                last = tree
        if last is None:
            return None
        if isinstance(last, Relation):
            if not variables(last):
                return IS_CLAIM
            return equation_step(last, budget)
        return expression_step(last, budget) if variables(last) else arithmetic_step(last, budget)
    except OutOfBudget:
        return None


def _calculates(statement: Claim) -> bool:
    """Whether there is something to do in an expression; `20%` amid words is a number."""
    pieces = statement.sides[0].pieces
    return len(pieces) > 1 and any(
        piece.kind in ("operator", "symbol", "bar") and piece.text != "%" for piece in pieces
    )


def _read(statement: Claim) -> Node | None:
    """The expression of a statement, or the last link of its chain: that is the newest."""
    try:
        sides = [read_side(side) for side in statement.sides[-2:]]
    except Unreadable:
        return None
    return Relation(sides, [statement.relations[-1]]) if len(sides) == 2 else sides[0]
