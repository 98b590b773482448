"""KnowledgeAgent: looks things up in a local corpus, and expands the operators of the rulebook."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Final

from aipo_agents.entries import Entry, load_corpus
from aipo_agents.retrieval import Index
from aipo_agents.rulebook_queries import (
    MAX_QUERY_CHARS,
    ORDINARY,
    Application,
    find_application,
    find_symbol,
    is_rulebook_episode,
)
from aipo_agents.text import MIN_CHARS, check_name, quote, shorten
from aipo_env.checks import check_count, check_number
from aipo_env.protocol import ConsultRequest, Reply
from aipo_env.tasks.rulebook import COMPOUND, OPERATORS, define

EMBEDDED_CORPUS: Final = Path(__file__).parent / "corpus"
"""The entries that come with the package."""


class KnowledgeAgent:
    """Answers from a corpus of short entries: definitions, identities, theorems, constants.

    A query that contains an application of a rulebook operator, such as `473@128`, is answered with the expansion
    `4+4+1;7+7+2;3+3+8` and nothing else; a bare symbol with its definition. An operator that means something in ordinary
    mathematics too (`12^34`) counts amid words only in episodes about the rulebook. Everything else is retrieved, by words and
    by the shapes of formulas.

    Args:
        corpus: a folder with .md, .txt or .jsonl files, or one such file (see `aipo_agents.entries`); None
            for the entries that come with the package.
        top_k: how many entries a reply may hold, at least 1.
        margin: further entries are left out whose score is this many times below the first one's, at least 1: then the first
            is clearly best.
        max_chars: the most characters of a reply, at least 40. An expansion is never cut.
        min_score: the BM25 score from which an entry counts as found; below it the reply says that there is none.
        expand: whether an application is answered with its expansion (True) or with the rule in words (False).
        rulebook: whether the agent knows the rulebook at all; False leaves the corpus alone to answer.
        name: the name that the policy asks for.

    Raises:
        ConfigurationError: an argument out of its range.
        DataNotFoundError: `corpus` does not exist.
        DataFormatError: `corpus` holds no entries or a file that cannot be read.
    """

    def __init__(
        self,
        corpus: str | os.PathLike[str] | None = None,
        *,
        top_k: int = 2,
        margin: float = 1.5,
        max_chars: int = 800,
        min_score: float = 3.0,
        expand: bool = True,
        rulebook: bool = True,
        name: str = "knowledge",
    ) -> None:
        self.name, self.expand, self.rulebook = check_name("KnowledgeAgent", name), expand, rulebook
        self.top_k = check_count("KnowledgeAgent: top_k", top_k, what="the entries of a reply")
        self.max_chars = check_count(
            "KnowledgeAgent: max_chars", max_chars, what="the length of a reply", least=MIN_CHARS
        )
        self.margin = check_number("KnowledgeAgent: margin", margin, what="a ratio of scores", least=1, inclusive=True)
        self.min_score = check_number("KnowledgeAgent: min_score", min_score, what="a BM25 score", inclusive=True)
        # A folder of the user's is read now, so that its errors appear where it is named; ours is read when
        # needed.
        self._own_entries = load_corpus(corpus) if corpus is not None else None

    async def respond(self, request: ConsultRequest) -> Reply:
        """Answers one query; an unknown topic is an answer too."""
        return Reply(self._answer(request))

    def search(self, query: str) -> list[tuple[Entry, float]]:
        """The entries that a reply would be made of, with their scores, best first."""
        found = self._index.search(query[:MAX_QUERY_CHARS], self.top_k, self.min_score)
        return [(entry, score) for entry, score in found if score * self.margin >= found[0][1]]

    @functools.cached_property
    def _index(self) -> Index:
        entries = self._own_entries if self._own_entries is not None else load_corpus(EMBEDDED_CORPUS)
        return Index([*entries, *rulebook_entries()] if self.rulebook else entries)

    def _answer(self, request: ConsultRequest) -> str:
        query = request.query
        if self.rulebook:
            application = find_application(query)
            if application is not None and (application.symbol not in ORDINARY or _about_rulebook(request)):
                return self._expansion(application)
            symbol = find_symbol(query)
            if symbol is not None:
                return shorten(define(symbol), self.max_chars)
        if not query.strip():
            return "nothing found: the query is empty; ask for a term, a theorem or a formula"
        found = self.search(query)
        if not found:
            return f"nothing found for '{quote(query)}'; try the name of a theorem, a term or a formula"
        parts: list[str] = []
        room = self.max_chars
        for entry, _score in found:
            part = f"{entry.title}: {entry.text}"
            if parts and len(part) + 1 > room:
                break
            parts.append(shorten(part, room))
            room -= len(parts[-1]) + 1
        return "\n".join(parts)

    def _expansion(self, application: Application) -> str:
        if not self.expand:
            return shorten(define(application.symbol), self.max_chars)
        if application.expansion is None:
            lengths = " and ".join(str(len(operand)) for operand in application.operands)
            return (
                f"cannot expand {quote(application.text)}: the operands of {application.symbol} need "
                f"equally many "
                f"digits, these have {lengths}"
            )
        return application.expansion


def _about_rulebook(request: ConsultRequest) -> bool:
    """Whether the rulebook is meant: its episode, its name, or a query that holds no word."""
    return (
        is_rulebook_episode(request)
        or "rulebook" in request.query.lower()
        or not re.search("[A-Za-z]{2}", request.query)
    )


def rulebook_entries() -> list[Entry]:
    """The rulebook's operators as entries, made from the rulebook itself."""
    names = {symbol: operator.name for symbol, operator in OPERATORS.items()} | COMPOUND
    words = "rulebook operator rule digits expansion"
    return [Entry(f"Rulebook operator {s} ({name})", define(s), words, "rulebook") for s, name in names.items()]


def knowledge_without_expansions() -> KnowledgeAgent:
    """A `KnowledgeAgent` that states a rulebook operator's rule in words and leaves expanding it to the asker."""
    return KnowledgeAgent(expand=False)
