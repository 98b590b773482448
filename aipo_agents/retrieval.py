"""Lexical retrieval over entries: BM25 over words and over the shapes of formulas.

A formula is found by its shape: letters are all the same, so that sin(a+b) finds what is said of sin(x + y). Pieces of three to
six signs of it are words of the index beside the ordinary ones.

The scores come from bm25s: it is kept up to date, needs nothing but numpy and imports in about 0.15 s.
(rank-bm25 is as small, but saw its last release in 2022; bm25s' own tokenizer and its progress bars are not
used.)
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

from aipo_agents.entries import Entry
from aipo_agents.text import WORDS, words

TITLE_WEIGHT: Final = 3
KEYWORD_WEIGHT: Final = 2
MAX_QUERY_TOKENS: Final = 200
SHAPE_WEIGHT: Final = 0.5

_STOPWORDS: Final = frozenset[str](WORDS["stop words of a search"])
_SIGN: Final = re.compile(r"\\?[a-z]+|[0-9]+|[-+*/^=!|±√(<>]")
_NAMES: Final = frozenset(
    words("sin cos tan cot sec csc arcsin arccos arctan log ln exp sqrt gcd lcm mod lim det floor ceil abs max min")
)
_TOKEN: Final = re.compile(r"[^\W_]+|[+*/^=<>@#~&$%|√∑∫∞]")
_IDLE: Final = re.compile(r"[#0-9]*|[-+*/^=(|<>]#?|#[-+*/^=(|<>]|[-+*/^=(|<>]*")
"""Shapes that say nothing: letters alone, a letter beside one sign."""

_SHORT: Final = frozenset(words("is so if we of to in it at as be by do no or an my us go he me on up am"))
_SYMBOL_WORDS: Final[dict[str, str]] = {"√": "sqrt", "∑": "sum", "∫": "integral", "π": "pi", "∞": "infinity"}


def tokenize(text: str) -> list[str]:
    """Words in a normal form: lower case, no accents or stop words, a light stem; single symbols stay."""
    plain = unicodedata.normalize("NFKD", text.replace("'s", "").replace("’s", "")).lower()
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    tokens: list[str] = _TOKEN.findall(plain)
    return [_stem(_SYMBOL_WORDS.get(token, token)) for token in tokens if token not in _STOPWORDS]


def shapes(text: str) -> list[str]:
    """The shapes of the formulas in a text in lower case: `sin(a+b)` holds `sin(#`, `(#+#` and more."""
    found: list[str] = []
    signs: list[str] = []
    for sign in [*_SIGN.findall(text.replace("**", "^").replace("\\left", "").replace("\\right", "")), "."]:
        name = sign.lstrip("\\")
        if name.isalpha() and name not in _NAMES:
            sign = (
                "#"
                if len(name) == 1 or name in ("alpha", "beta", "theta")
                else "ab"
                if len(name) == 2 and name not in _SHORT
                else ""
            )
        else:
            sign = name if sign != "." else ""
        if sign == "ab":
            signs += ["#", "#"]
        elif sign:
            signs.append(sign)
        if not sign:
            found += _pieces(signs)
            signs = []
    return found


def _pieces(signs: list[str]) -> list[str]:
    return [
        "".join(signs[start : start + size])
        for size in range(2, 7)
        for start in range(len(signs) - size + 1)
        if not _IDLE.fullmatch("".join(signs[start : start + size]))
    ]


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
    """BM25 over words plus BM25 over shapes; scores are non-negative, 0 for an entry that shares nothing with the query."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self._words, self._shapes = _Scores(entries, tokenize), _Scores(entries, lambda text: shapes(text.lower()))

    def search(self, query: str, top_k: int, min_score: float) -> list[tuple[Entry, float]]:
        """The best entries, best first; entries with the same score keep the order of the corpus."""
        found = self._words.of(tokenize(query)), self._shapes.of(shapes(query.lower()))
        scores = [word + SHAPE_WEIGHT * shape for word, shape in zip(*found, strict=True)]
        best = sorted(range(len(self.entries)), key=lambda index: (-scores[index], index))[:top_k]
        return [
            (self.entries[index], scores[index]) for index in best if scores[index] >= min_score and scores[index] > 0
        ]


class _Scores:
    """One BM25 index."""

    def __init__(self, entries: Sequence[Entry], cut: Callable[[str], list[str]]) -> None:
        import bm25s  # lazily: it is not needed for an expansion, and optional backends of it load slowly

        # Importing bm25s sets its logger to DEBUG, which would print in programs that log to the root logger.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        documents = [
            TITLE_WEIGHT * cut(entry.title) + KEYWORD_WEIGHT * cut(entry.keywords) + cut(entry.text)
            for entry in entries
        ]
        self._num_entries = len(documents)
        self._vocabulary = frozenset(token for document in documents for token in document)
        self._bm25 = bm25s.BM25(method="lucene", backend="numpy")
        if self._vocabulary:
            self._bm25.index(documents, show_progress=False)

    def of(self, tokens: Sequence[str]) -> list[float]:
        known = [token for token in dict.fromkeys(tokens) if token in self._vocabulary][:MAX_QUERY_TOKENS]
        if not any(token.isalpha() or (len(token) > 1 and not token.isdigit()) for token in known):
            return [0.0] * self._num_entries
        # The numbers of a problem say nothing of its topic.
        return [float(score) for score in self._bm25.get_scores([t for t in known if len(t) == 1 or not t.isdigit()])]
