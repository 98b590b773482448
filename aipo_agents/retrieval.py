"""Lexical retrieval over entries: BM25 with a tokenizer that knows a little mathematics.

The scores come from bm25s: it is kept up to date, needs nothing but numpy and imports in about 0.15 s.
(rank-bm25 is as small, but saw its last release in 2022; bm25s' own tokenizer and its progress bars are not
used.)
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from aipo_agents.entries import Entry

TITLE_WEIGHT: Final = 3
KEYWORD_WEIGHT: Final = 2
MAX_QUERY_TOKENS: Final = 200

_STOPWORDS: Final = frozenset(
    {
        "a", "an", "and", "any", "are", "as", "at", "be", "by", "can", "could", "did", "do", "does", "for",
        "from", "give", "given", "has", "have", "how", "i", "if", "in", "is", "it", "its", "me", "my", "need",
        "of", "on", "or", "our", "please", "should", "show", "so", "state", "tell", "than", "that", "the",
        "their", "them", "then", "there", "these", "they", "this", "to", "us", "use", "using", "want", "was",
        "we", "what", "when", "where", "which", "who", "why", "will", "with", "would", "you", "your", "about",
        "explain", "find", "help", "know", "question",
    }
)  # fmt: skip
_TOKEN: Final = re.compile(r"[^\W_]+|[+*/^=<>@#~&$%|√∑∫∞]")
_SYMBOL_WORDS: Final[dict[str, str]] = {"√": "sqrt", "∑": "sum", "∫": "integral", "π": "pi", "∞": "infinity"}


def tokenize(text: str) -> list[str]:
    """Words in a normal form: lower case, no accents or stop words, a light stem; single symbols stay."""
    plain = unicodedata.normalize("NFKD", text.replace("'s", "").replace("’s", "")).lower()
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    tokens: list[str] = _TOKEN.findall(plain)
    return [_stem(_SYMBOL_WORDS.get(token, token)) for token in tokens if token not in _STOPWORDS]


def _stem(word: str) -> str:
    """Joins singular and plural, and the commonest endings; both sides of a search go through it."""
    if len(word) <= 3 or not word.isalpha():
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) >= len(ending) + 4:
            return word[: -len(ending)]
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


class Index:
    """A BM25 index; scores are non-negative, 0 for an entry that shares no word with the query."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        import bm25s  # lazily: it is not needed for an expansion, and optional backends of it load slowly

        # Importing bm25s sets its logger to DEBUG, which would print in programs that log to the root logger.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self.entries = tuple(entries)
        documents = [_document(entry) for entry in self.entries]
        self._vocabulary = frozenset(token for document in documents for token in document)
        self._bm25 = bm25s.BM25(method="lucene", backend="numpy")
        if self._vocabulary:
            self._bm25.index(documents, show_progress=False)

    def search(self, query: str, top_k: int, min_score: float) -> list[tuple[Entry, float]]:
        """The best entries, best first; entries with the same score keep the order of the corpus."""
        tokens = [token for token in dict.fromkeys(tokenize(query)) if token in self._vocabulary][:MAX_QUERY_TOKENS]
        if not tokens:
            return []
        scores = [float(score) for score in self._bm25.get_scores(tokens)]
        best = sorted(range(len(self.entries)), key=lambda index: (-scores[index], index))[:top_k]
        return [(self.entries[index], scores[index]) for index in best if scores[index] >= min_score]


def _document(entry: Entry) -> list[str]:
    return TITLE_WEIGHT * tokenize(entry.title) + KEYWORD_WEIGHT * tokenize(entry.keywords) + tokenize(entry.text)
