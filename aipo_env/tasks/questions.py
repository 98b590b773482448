"""Families whose tasks are the rows of a declared data set (`aipo_env.tasks.data_sets`): questions with short answers."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError, unknown_id
from aipo_env.grading import (
    AIME,
    CHOICE,
    INTEGER,
    MATH500,
    Grade,
    GradingPolicy,
    Verdict,
    extract_answer,
    grade_answer,
    grade_async,
    readable_gold,
)  # fmt: skip
from aipo_env.grading.code import CodeProblem
from aipo_env.leaks import states
from aipo_env.markup import AnswerForm
from aipo_env.tasks.base import Task, check_index
from aipo_env.tasks.data_sets import DATA_SETS, AnswerType, DataSet, Decontamination
from aipo_env.tasks.decontamination import Copy, TestSets, at_hand, letters_of, problems_of
from aipo_env.tasks.hub import DataSetTasks, Provenance, Row, at, is_at_hand, sha256
from aipo_env.tasks.programs import MIN_TESTS, Programs, pack, read_tests, unpack, with_instructions
from aipo_env.tasks.row_keys import RowKeys, keys_of
from aipo_env.tasks.selection import conditions, read_outcomes, results_file

MAX_GOLD_CHARS = 100
"""Longer answers of training sets are left out: they are sentences or several answers."""

_POLICIES: Mapping[AnswerType, GradingPolicy] = {"math": MATH500, "integer": INTEGER, "aime": AIME, "choice": CHOICE}
_NO_ANSWERS = frozenset({"", "proof", "notfound", "notavailable", "none", "na", "null", "seesolution"})
_IMAGE = re.compile(r"!\[|<image>|\\includegraphics", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{2,} +){3,}[A-Za-z]{2,}")
_DIGITS = re.compile(r"-?\d{1,30}")
_log = logging.getLogger("aipo_env")


class QuestionTasks(DataSetTasks):
    """A data set of questions; task i is the i-th row that is left.

    Rows of a training split are left out when nothing could be learnt from them, or too much: no answer that can be graded, a
    problem that stands there twice (with two answers, both), a problem of a test set. Evaluation splits are taken whole.
    `provenance()` counts what was left out and why; `dropped` has the row numbers.

    Args:
        split: "train" or "test", as far as the data set has it; the hub's name is taken too.
        family: which declaration, or one of your own.
        data: a local file or folder; see `aipo_env.tasks.hub.load_rows`.
        revision: of the hub's repository.
        keep: conditions on a row's fields (`aipo_env.tasks.selection`): "difficulty >= 5", "llama8b_solve_rate < 0.6".
        rates: results.json of an `aipo eval` of these tasks, whose pass rates conditions then call "solo" and "assisted".
        decontaminate: how problems of test sets are told in a training split: "containment", "equal" or "none". Test sets count
            that are at hand: in the folder `data` or AIPO_DATA, or in the cache of `datasets`.
        loaded: rows that were read already, and what they are.
    """

    def __init__(
        self,
        split: str | None = None,
        *,
        family: str | DataSet,
        data: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        keep: str = "",
        rates: str | os.PathLike[str] | None = None,
        decontaminate: Decontamination | None = None,
        loaded: tuple[Sequence[Row], Provenance] | None = None,
    ) -> None:
        if isinstance(family, str) and family not in DATA_SETS:
            raise unknown_id("data set", family, DATA_SETS)
        if decontaminate not in (None, "containment", "equal", "none"):
            raise ConfigurationError(f"decontaminate is 'containment', 'equal' or 'none', got {decontaminate!r}.")
        source = DATA_SETS[family] if isinstance(family, str) else family
        super().__init__(source, source.splits[-1] if split is None else split, data, revision, loaded)
        self.name, self.source = source.family, source
        self.decontaminate: Decontamination = decontaminate or source.decontaminate
        self._filtered = self.split == "train" or source.filtered
        self._keep = conditions(source.keep) + conditions(keep)
        self._rates = {} if rates is None else _rates(rates)
        self._rates_sha256 = None if rates is None else sha256(results_file(rates))
        self.num_rows = len(self._rows)
        self.dropped: dict[str, list[int]] = collections.defaultdict(list)
        """Reason to the numbers of the rows that were left out for it, from 0."""
        self.copies: list[Copy] = []
        """The rows that stand in test sets."""
        self.against: tuple[str, ...] = ()
        """The test sets that were looked through."""
        self._tests: dict[str, bytes] = {}
        self._row_keys: dict[str, RowKeys] = {}
        if source.answer_type == "code":
            self.answers: AnswerForm = "program"
            self._programs = Programs(self._tests_of)
            self.isolation = self._programs.isolation
        self._policy = dataclasses.replace(_POLICIES.get(source.answer_type, MATH500), letters=source.letters)
        self._tasks = self._make_tasks(data)
        self.num_tasks = len(self._tasks)
        del self._rows
        if not self._tasks:
            raise DataFormatError(f"{self.name}: of {self.num_rows} rows none is left: {self._reasons()}.")
        if self.dropped:
            _log.info("%s: %d of %d rows; left out: %s", self.name, self.num_tasks, self.num_rows, self._reasons())
        if source.hints:
            self.default_agents = {"verify": "verify", "knowledge": "knowledge", "reasoning": "reasoning"} | {
                helper: f"aipo_agents.hints:{helper}_hints" for helper in source.hints
            }

    def task(self, index: int) -> Task:
        """The task of this row."""
        return self._tasks[check_index(index, self.num_tasks, self.name)]

    def row_keys(self, index: int) -> RowKeys | None:
        """By what other harnesses know the row of a task; of an evaluation split."""
        return self._row_keys.get(self.task(index).id)

    def grade(self, task: Task, answer: str) -> Grade:
        """Compares by the data set's type of answers, any of several golds counting; runs a program on its tests."""
        if self.source.answer_type == "code":
            return self._programs.grade(task.id, answer)
        if self.source.answer_type == "exact":
            return _grade_exact(task, answer)
        grades = (grade_answer(gold, answer, self._policy) for gold in (task.gold, *task.alternatives))
        first = next(grades)
        return first if first.correct else next((grade for grade in grades if grade.correct), first)

    async def grade_async(self, task: Task, answer: str) -> Grade:
        """As `grade`, without blocking the event loop."""
        if self.source.answer_type == "code":
            return await self._programs.grade_async(task.id, answer)
        if self.source.answer_type == "exact":
            return _grade_exact(task, answer)
        first = await grade_async(task.gold, answer, self._policy)
        for gold in () if first.correct else task.alternatives:
            grade = await grade_async(gold, answer, self._policy)
            if grade.correct:
                return grade
        return first

    def provenance(self) -> dict[str, object]:
        """What the data are; of a training split also how many rows were read, how many left out and why."""
        known = super().provenance()
        known |= {"keep": " and ".join(map(str, self._keep)), "rates": self._rates_sha256} if self._keep else {}
        if not self._filtered and not self._keep:
            return known
        dropped = {reason: len(rows) for reason, rows in sorted(self.dropped.items())}
        return known | {
            "rows_read": self.num_rows,
            "dropped": dropped,
            "decontaminate": self.decontaminate,
            "decontaminated_against": list(self.against),
        }

    # -- rows to tasks --------------------------------------------------------------------------------------------------

    def _make_tasks(self, data: str | os.PathLike[str] | None) -> list[Task]:
        ids = self._ids()
        made: dict[int, Task] = {}
        for number, row in enumerate(self._rows):
            task = self._make_task(row, number, ids[number])
            if isinstance(task, Task):
                made[number] = task
                # Training splits are too large for it, and tests of programs are no row to hash.
                if self.split != "train" and self.source.answer_type != "code" and not task.confidential:
                    self._row_keys[task.id] = keys_of(number, row, at(row, self.source.answer))
            else:
                self.dropped[task].append(number)
        if self._filtered:
            self._drop_duplicates(made)
        if self.split == "train":
            self._drop_copies(made, data)
        return list(made.values())

    def _ids(self) -> list[str]:
        plain = f"{self.name}/{self.split}" if len(self.source.splits) > 1 else self.name
        ids = [f"{plain}/{number}" for number in range(len(self._rows))]
        if self.source.id is None or not all(self.source.id in row for row in self._rows):
            return ids
        own = [str(row[self.source.id]) for row in self._rows]
        return [i if "/" in i else f"{self.name}/{i}" for i in own] if len(set(own)) == len(own) else ids

    def _make_task(self, row: Row, number: int, task_id: str) -> Task | str:
        """The task of a row, or why there is none."""
        source = self.source
        for condition in self._keep:
            if not condition.holds({**row, **self._rates.get(task_id, {})}):
                return f"not {condition}"
        problem = str(at(row, source.problem))
        if source.cut:
            problem = self._cut(problem, number)
        golds = [""] if source.answer_type == "code" else self._golds(row, number)
        if source.choices is not None:
            problem, golds = self._choices(problem, at(row, source.choices), golds[0])
        if self._filtered:
            if not problem.strip() or _IMAGE.search(problem):
                return "problem empty or with an image"
            if source.answer_type != "code" and (why := self._unusable(golds)):
                return why
        if source.answer_type == "code":
            starter = str(self._optional(row, source.starter) or "")
            function = str(self._optional(row, source.function) or "").rpartition(".")[2] or None
            where = f"{self.name} row {number + 1}, {source.answer!r}"
            tests = read_tests(at(row, source.answer), where, starter=starter, function=function)
            if tests is None:
                return f"fewer than {MIN_TESTS} tests that can be used"
            problem = with_instructions(problem, starter, tests.func_name)
            self._tests[task_id] = pack(tests)
        metadata = {name: at(row, path) for name, path in source.facts.items()} | dict(source.constants)
        metadata |= {name: row[name] for name in source.optional_facts if row.get(name) is not None}
        hints = {helper: self._hints(row, paths, golds, problem) for helper, paths in source.hints.items()}
        return Task(task_id, problem, golds[0], metadata, source.confidential, tuple(golds[1:]), hints)

    def _optional(self, row: Row, path: str | None) -> object:
        try:
            return None if path is None else at(row, path.removesuffix("?"))
        except KeyError:
            return None

    def _tests_of(self, task_id: str) -> CodeProblem:
        if task_id not in self._tests:
            raise ConfigurationError(f"{task_id!r} is none of these {self.num_tasks} tasks of {self.name}.")
        return unpack(self._tests[task_id])

    def _cut(self, problem: str, number: int) -> str:
        ends = [problem.find(mark) for mark in self.source.cut if mark in problem]
        if not ends:
            raise DataFormatError(
                f"{self.name} row {number + 1}: expected one of {list(self.source.cut)} behind the problem, found none: the "
                "prompts are written otherwise now. Take an earlier revision."
            )
        return problem[: min(ends)].strip()

    def _choices(self, problem: str, choices: object, gold: str) -> tuple[str, list[str]]:
        """A problem with its choices behind it, and the letter of the right one, which is named by letter, place or text."""
        texts = [str(choice).strip() for choice in choices] if isinstance(choices, list) else []
        letters = self.source.letters[: len(texts)]
        named = [letters[i] for i, text in enumerate(texts[: len(letters)]) if text == gold]
        right = (
            [gold]
            if gold in letters
            else named or ([letters[int(gold)]] if gold in map(str, range(len(letters))) else [])
        )
        lines = "\n".join(f"{letter}) {text}" for letter, text in zip(letters, texts, strict=False))
        usable = len(right) == 1 and len(letters) == len(texts)
        return f"{problem.strip()}\n\n{lines}\n\nAnswer with the letter of the right choice.", right if usable else []

    def _golds(self, row: Row, number: int) -> list[str]:
        """The answers of a row: one, or several of which any is right; none where a text holds none."""
        value = at(row, self.source.answer)
        if self.source.answer_from == "####":
            if "####" not in str(value):
                raise DataFormatError(
                    f"{self.name} row {number + 1}: expected '#### <number>' at the end of {self.source.answer!r}, found none."
                )
            value = str(value).rsplit("####", 1)[1]
        elif self.source.answer_from == "boxed":
            _, box, last = str(value).rpartition("\\boxed")
            value = (extract_answer(box + last, marked_only=True) if box else None) or ""
        if self.source.several != "no" and isinstance(value, str) and value.startswith('["'):
            with contextlib.suppress(ValueError):  # a list that was written into a text
                value = json.loads(value)
        golds = [str(part).strip() for part in (value if isinstance(value, list) else [value])]
        if self.source.several == "all":
            golds = [", ".join(golds)]
        if self.source.answer_type not in ("integer", "aime"):
            return golds
        whole = [digits for gold in golds if (digits := _whole(gold)) is not None]
        too_large = self.source.answer_type == "aime" and any(not 0 <= int(digits) <= 999 for digits in whole)
        if not self._filtered and (len(whole) != len(golds) or too_large):
            what = "an integer from 0 to 999" if self.source.answer_type == "aime" else "an integer"
            raise DataFormatError(f"{self.name} row {number + 1}: expected {what} as the answer, got {value!r}.")
        return whole if len(whole) == len(golds) else []

    def _unusable(self, golds: list[str]) -> str | None:
        if not golds or any(letters_of(gold) in _NO_ANSWERS for gold in golds):
            return "no answer, or none of the kind"
        if any(len(gold) > MAX_GOLD_CHARS for gold in golds):
            return f"answer of over {MAX_GOLD_CHARS} characters"
        if self.source.answer_type == "math" and any(_SENTENCE.search(gold) for gold in golds):
            return "answer is a sentence"
        if self.source.answer_type == "exact" or all(_DIGITS.fullmatch(gold) for gold in golds):
            return None
        return None if all(readable_gold(gold, self._policy) for gold in golds) else "answer cannot be read"

    def _hints(self, row: Row, paths: tuple[str, ...], golds: list[str], problem: str) -> tuple[str, ...]:
        hints: list[str] = []
        for path in paths:
            value = at(row, path)
            if not isinstance(value, list) or not all(isinstance(hint, str) for hint in value):
                raise DataFormatError(
                    f"{self.name}: expected a list of texts in {path!r}, got {type(value).__name__}. Take an earlier revision."
                )
            hints += [hint.strip() for hint in value if hint.strip()]
        return tuple(hint for hint in hints if not any(reveals(hint, gold, problem) for gold in golds))

    def _drop_duplicates(self, made: dict[int, Task]) -> None:
        same: dict[str, list[int]] = collections.defaultdict(list)
        for number, task in made.items():
            same[letters_of(task.problem)].append(number)
        for numbers in same.values():
            first = made[numbers[0]]
            agree = all(self._agree(first, made[number]) for number in numbers[1:])
            for number in numbers[1:] if agree else numbers:
                del made[number]
                self.dropped["duplicate" if agree else "several answers to one problem"].append(number)

    def _agree(self, one: Task, two: Task) -> bool:
        return one.gold.replace(" ", "") == two.gold.replace(" ", "") or self.grade(one, two.gold).correct

    def _drop_copies(self, made: dict[int, Task], data: str | os.PathLike[str] | None) -> None:
        if self.decontaminate == "none" and not self.source.without:
            return
        problems = {name: self._part(name, data) for name in self.source.without}
        if self.decontaminate != "none":
            folder = data if data is not None and Path(data).expanduser().is_dir() else None
            problems = at_hand(folder) | problems
        self.against = tuple(sorted(problems))
        mode = "equal" if self.decontaminate == "none" else self.decontaminate
        numbers = list(made)
        for copy in TestSets(problems, mode).copies([task.problem for task in made.values()]):
            number = numbers[copy.row]
            del made[number]
            self.dropped[f"stands in {copy.test_set}"].append(number)
            self.copies.append(dataclasses.replace(copy, row=number))

    def _part(self, name: str, data: str | os.PathLike[str] | None) -> list[tuple[str, str]]:
        """The problems of a test set that is a part of this data set."""
        try:
            return problems_of(name, data if data is not None and is_at_hand(DATA_SETS[name], "test", data) else None)
        except DataNotFoundError as error:
            raise DataNotFoundError(
                f"{self.name} is what is left of {self.source.repository} without {name}, so {name} is needed as well. {error}"
            ) from error

    def _reasons(self) -> str:
        return ", ".join(f"{len(rows)} {reason}" for reason, rows in sorted(self.dropped.items())) or "no reason"


def reveals(hint: str, gold: str, problem: str) -> bool:
    """Whether a hint gives the answer away: in a box, as what something is, or as a value that the problem does not mention."""
    return "\\boxed" in hint or states(hint, gold, problem, least=1)


def _rates(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """Measured pass rates, by id and mode."""
    measured = {task_id: counts.items() for task_id, (_, counts) in read_outcomes(path).items()}
    return {task_id: {mode: c / n for mode, (c, n) in counts if n} for task_id, counts in measured.items()}


def _whole(text: str) -> str | None:
    """A whole number as plain digits: "025", 25, 25.0 and "1,008" are "25" and "1008"; None for anything else."""
    whole, _, fraction = text.strip().strip("$").replace(",", "").partition(".")
    return str(int(whole)) if whole.isascii() and _DIGITS.fullmatch(whole) and not fraction.strip("0") else None


def _grade_exact(task: Task, answer: str) -> Grade:
    """Equal texts, but for case and the space around them."""
    given = " ".join(answer.split()).casefold()
    if not given:
        return Grade(False, Verdict.NO_ANSWER, "exact", None)
    correct = given in {" ".join(gold.split()).casefold() for gold in (task.gold, *task.alternatives)}
    return Grade(correct, Verdict.CORRECT if correct else Verdict.WRONG, "exact", answer)
