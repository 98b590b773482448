"""Which problems of a training set stand in a test set.

A row is a copy of a test problem when

- both are the same text of letters and digits;
- half of the test problem's 8-grams of tokens stand in the row ("any 8-gram", as is usual, drops rows for stock phrases, and
  misses short problems; a text of fewer than 8 tokens is one gram). Grams of five and more test problems are stock phrases and
  count only where a problem has no other;
- it is an edited copy: the same numbers, 70 % of the same tokens, and enough of the same 3-grams.

The first alone is "equal", all three are "containment". A template with other numbers is no copy.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from aipo_env.registry import env_spec, list_envs, make_tasks
from aipo_env.tasks.data_sets import DATA_SETS, Decontamination
from aipo_env.tasks.gpqa import SOURCE as GPQA
from aipo_env.tasks.hub import HubSource, is_at_hand
from aipo_env.tasks.lcb_files import SOURCE as LIVECODEBENCH
from aipo_env.tasks.programs import without_instructions

log = logging.getLogger("aipo_env")

GRAM, SHORT_GRAM, STOCK = 8, 3, 5
CONTAINED, SAME_TOKENS, SAME_SHORT_GRAMS = 0.5, 0.7, 0.1

_TOKEN = re.compile(r"\\[a-z]+|[a-z]+|\d+(?:\.\d+)?|[^\s\w]", re.IGNORECASE)
_LAYOUT = re.compile(r"\\(?:left|right|text|mathrm|displaystyle|dfrac|tfrac|,|;|!)|[$~]")


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """A row that stands in a test set."""

    row: int
    """Its number among the texts that were checked."""
    test_set: str
    test_id: str
    how: Literal["equal", "contained", "edited"]
    share: float
    """Of the test problem's 8-grams, or, of an edited copy, of its tokens."""


class TestSets:
    """Test problems, indexed; finds copies of them in any number of texts, in one pass.

    Args:
        problems: name of the test set to the ids and texts of its problems.
        mode: "containment", or "equal" for the same letters and digits alone.
    """

    __test__ = False  # its name says what it holds; it is none of pytest's

    def __init__(
        self, problems: Mapping[str, Iterable[tuple[str, str]]], mode: Decontamination = "containment"
    ) -> None:
        self.mode = mode
        self.names = tuple(problems)
        self._ids: list[tuple[str, str]] = []
        self._same: dict[str, int] = {}
        self._grams: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
        """8-gram to the problems that it counts for."""
        self._edits: dict[tuple[str, ...], dict[tuple[str, ...], list[int]]] = {}
        """All numbers of a problem, then 3-gram, to the problems that have both."""
        self._sizes: list[tuple[int, int, collections.Counter[str]]] = []
        """Of each problem: its 8-grams that count, its 3-grams, its tokens."""
        self._own: list[set[tuple[str, ...]]] = []
        for name, items in problems.items():
            for test_id, text in items:
                self._add(name, test_id, text)
        self._leave_stock_out()

    def _add(self, name: str, test_id: str, text: str) -> None:
        place, text = len(self._ids), without_instructions(text)
        self._ids.append((name, test_id))
        self._same.setdefault(letters_of(text), place)
        if self.mode != "containment":
            return
        tokens = tokens_of(text)
        grams, short = _grams(tokens, GRAM), _grams(tokens, SHORT_GRAM)
        for gram in grams:
            self._grams[gram].append(place)
        self._own.append(grams)
        edits = self._edits.setdefault(_numbers(tokens), {})
        for gram in short:
            edits.setdefault(gram, []).append(place)
        self._sizes.append((len(grams), len(short), collections.Counter(tokens)))

    def _leave_stock_out(self) -> None:
        stock = {gram for gram, places in self._grams.items() if len(places) >= STOCK}
        kept: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
        for place, grams in enumerate(self._own):
            counting = grams - stock or grams
            for gram in counting:
                kept[gram].append(place)
            self._sizes[place] = (len(counting), *self._sizes[place][1:])
        self._grams, self._own = dict(kept), []

    def copies(self, texts: Iterable[str]) -> Iterator[Copy]:
        """The rows that are copies, each once, in their order."""
        for row, text in enumerate(texts):
            if (copy := self.find(text, row)) is not None:
                yield copy

    def find(self, text: str, row: int = 0) -> Copy | None:
        """What a text is a copy of; None where it is none."""
        text = without_instructions(text)
        same = self._same.get(letters_of(text))
        if same is not None:
            return Copy(row, *self._ids[same], "equal", 1.0)
        if self.mode != "containment":
            return None
        tokens = tokens_of(text)
        shared = collections.Counter(
            place for gram in self._grams.keys() & _grams(tokens, GRAM) for place in self._grams[gram]
        )
        best = max(((count / self._sizes[place][0], -place) for place, count in shared.items()), default=(0.0, 0))
        if best[0] >= CONTAINED:
            return Copy(row, *self._ids[-best[1]], "contained", best[0])
        return self._edited(tokens, row)

    def _edited(self, tokens: Sequence[str], row: int) -> Copy | None:
        numbers = _numbers(tokens)
        if numbers not in self._edits:
            return None
        short = _grams(tokens, SHORT_GRAM)
        edits = self._edits[numbers]
        shared = collections.Counter(place for gram in edits.keys() & short for place in edits[gram])
        have = collections.Counter(tokens)
        for place, count in shared.most_common():
            _, size, wanted = self._sizes[place]
            share = (have & wanted).total() / max(have.total(), wanted.total())
            if count >= SAME_SHORT_GRAMS * size and share >= SAME_TOKENS:
                return Copy(row, *self._ids[place], "edited", share)
        return None


def letters_of(text: str) -> str:
    """The letters and digits of a text, which copies have in common whatever their punctuation; all of it where it has none."""
    return "".join(filter(str.isalnum, text.lower())) or text


def tokens_of(text: str) -> list[str]:
    """Words, commands, numbers and single signs, without what only lays a formula out."""
    return _TOKEN.findall(_LAYOUT.sub(" ", text.lower()))


def _grams(tokens: Sequence[str], size: int) -> set[tuple[str, ...]]:
    if len(tokens) <= size:
        return {tuple(tokens)}
    return set(zip(*(tokens[i:] for i in range(size)), strict=False))


def _numbers(tokens: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(token for token in tokens if token[0].isdigit()))


def is_test_set(repository: str) -> bool:
    """Whether a repository of the hub holds nothing but a test set; its split may be called "train" all the same."""
    sources = [source for source in map(_source, evaluation_sets()) if source is not None]
    return any(s.repository.casefold() == repository.casefold() and "train" not in s.splits for s in sources)


def evaluation_sets() -> list[str]:
    """The families that have a test split of problems, procedural ones left out."""
    specs = [env_spec(env_id) for env_id in list_envs()]
    return [s.id for s in specs if "test" in s.splits and not s.assisted and _source(s.id) is not None]


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """What was found of test sets in a training set."""

    rows: int
    against: dict[str, int]
    """The test sets and how many problems each has."""
    copies: list[tuple[str, Copy]]
    """Ids of the training set's tasks, and what they are copies of."""


def check(train: str, against: Sequence[str] = (), data: str | os.PathLike[str] | None = None) -> Check:
    """Looks for test problems in a training set as it is without the filter of its loader.

    Args:
        train: environment id of the training set.
        against: environment ids of test sets; by default all that are at hand.
        data: the folder with all of them; by default that of AIPO_DATA, else the hub.
    """
    spec = env_spec(train)
    options = {} if data is None else {"data": data}
    unfiltered = {"decontaminate": "none"} if "family" in spec.options else {}
    tasks = make_tasks(spec.id, split="train" if "train" in spec.splits else None, **options, **unfiltered)
    if tasks.num_tasks is None:
        raise ConfigurationError(f"{spec.id} has no end, so its tasks cannot be looked through. Name a data set.")
    problems = {name: problems_of(name, data) for name in against} or at_hand(data)
    if not problems:
        raise ConfigurationError(
            "no test set is at hand to compare with. Name some (--against math500,aime24), or the folder that has them."
        )
    found = TestSets(problems).copies(tasks.task(index).problem for index in range(tasks.num_tasks))
    copies = [(tasks.task(copy.row).id, copy) for copy in found]
    return Check(tasks.num_tasks, {name: len(items) for name, items in problems.items()}, copies)


def at_hand(data: str | os.PathLike[str] | None = None) -> dict[str, list[tuple[str, str]]]:
    """The problems of all test sets that can be read without asking a server.

    Args:
        data: where to look beside the folder that AIPO_DATA names, or the cache of `datasets`.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for name in evaluation_sets():
        source = _source(name)
        for place in dict.fromkeys([data, None]):
            if name not in found and source is not None and is_at_hand(source, "test", place):
                try:
                    found[name] = problems_of(name, place)
                except DataNotFoundError:  # the cache holds another part of it
                    continue
                except DataFormatError as error:  # a copy that cannot be read hides no training set
                    log.warning(
                        "training rows are not compared with %s, whose copy here cannot be read: %s", name, error
                    )
    return found


def problems_of(env_id: str, data: str | os.PathLike[str] | None = None) -> list[tuple[str, str]]:
    """Ids and problems of a finite test set."""
    spec = env_spec(env_id)
    options = {} if data is None else {"data": data}
    tasks = make_tasks(spec.id, split="test" if "test" in spec.splits else None, **options)
    made = (tasks.task(index) for index in range(tasks.num_tasks or 0))
    return [(task.id, task.problem) for task in made]


def _source(name: str) -> HubSource | None:
    return DATA_SETS.get(name) or {GPQA.family: GPQA, LIVECODEBENCH.family: LIVECODEBENCH}.get(name)
