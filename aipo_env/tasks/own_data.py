"""`dataset`: a data set of one's own, from a file or the hub, in one line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import get_args

from aipo_env.errors import ConfigurationError
from aipo_env.tasks.base import evaluates
from aipo_env.tasks.data_sets import AnswerFrom, AnswerType, DataSet, Decontamination
from aipo_env.tasks.decontamination import is_test_set
from aipo_env.tasks.hub import HubSource, Row, check_row, load_rows, local_data
from aipo_env.tasks.questions import QuestionTasks

PROBLEMS = ("problem", "question", "prompt", "query", "instruction")
ANSWERS = ("answer", "final_answer", "expected_answer", "ground_truth", "label", "gold")
_HUB = re.compile(r"hub:(?P<repository>[^@:]+)(?:@(?P<revision>[^:]+))?(?::(?P<config>.+))?")


class OwnData(QuestionTasks):
    """Rows of a file or of the hub; filtered as every training set is, if they are for training.

    Fields are paths: "question", "prompt[0].content", "reward_model.ground_truth". Those that are left out are guessed, and the
    guess is printed.

    Args:
        split: of the hub; "test", "validation" and the like are for evaluation. For a file, what its rows are for.
        data: "hub:org/name", "hub:org/name@revision:config", or a .jsonl, .json, .csv or .parquet file; by default
            dataset/<split>.jsonl in the folder that AIPO_DATA names.
        problem: field of the problem.
        answer: field of the answer.
        answer_type: "math", "integer", "aime" (0 to 999), "choice", "exact" or "code": `answer` then names the tests
            (`aipo_env.tasks.programs.read_tests`).
        answer_from: "field", or where the answer stands in the field's text: "boxed" or "####".
        choices: field of the list of choices.
        starter: field of the code that a program completes.
        function: field of the name that the tests of a program call, where they do not say it.
        id: field of the ids.
        metadata: fields of what is known of a task; names, or one text with commas between.
        keep: conditions on the fields, "level >= 3"; see `QuestionTasks`.
        rates: measured pass rates, for conditions; see `QuestionTasks`.
        decontaminate: as for every training set: "containment", "equal" or "none".
        allow_loss: takes even a set of which more than half is left out.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        data: str | os.PathLike[str] | None = None,
        problem: str | None = None,
        answer: str | None = None,
        answer_type: AnswerType = "math",
        answer_from: AnswerFrom | None = None,
        choices: str | None = None,
        starter: str | None = None,
        function: str | None = None,
        id: str | None = None,
        metadata: str | Sequence[str] = (),
        keep: str = "",
        rates: str | os.PathLike[str] | None = None,
        decontaminate: Decontamination = "containment",
        allow_loss: bool = False,
    ) -> None:
        for name, value, known in (("answer_type", answer_type, AnswerType), ("answer_from", answer_from, AnswerFrom)):
            if value is not None and value not in get_args(known):
                raise ConfigurationError(f"{name} is one of {', '.join(get_args(known))}; got {value!r}.")
        if (choices is None) == (answer_type == "choice"):
            raise ConfigurationError("answer_type='choice' and choices= (the field with the list) belong together.")
        if data is None and local_data(None, None) is None:
            raise ConfigurationError(
                "the environment dataset has no data of its own: say data='rows.jsonl', or data='hub:org/name'."
            )
        hub = _HUB.fullmatch(str(data))
        role = "test" if evaluates(split) or (hub is not None and is_test_set(hub["repository"])) else "train"
        where = HubSource(
            "dataset", hub["repository"] if hub else str(data), hub["config"] if hub else None, (role,), {},
            hub_splits={role: split}, suffixes=(".jsonl", ".json", ".csv", ".parquet"),
        )  # fmt: skip
        revision = hub["revision"] if hub else None
        local = None if hub else data
        rows, known_of_them = load_rows(where, role, local, revision)
        problem_field = problem or _guess(rows[0], PROBLEMS, "problem")
        answer_field = answer or _guess_answer(rows[0])
        if answer is None and answer_field == "solution" and answer_from is None:
            answer_from = "boxed"  # a solution is a text, and its last box the answer
        if problem is None or answer is None:
            print(f"{data}: problem={problem_field!r}, answer={answer_field!r} (guessed)", file=sys.stderr)
        facts = metadata.split(",") if isinstance(metadata, str) else metadata
        source = DataSet(
            family=where.family, repository=where.repository, splits=where.splits, description="",
            problem=problem_field, answer=answer_field,
            answer_type=answer_type, answer_from=answer_from or "field", choices=choices, starter=starter, function=function,
            id=id, several="any",
            facts={name: name for name in facts if name}, filtered=True,
        )  # fmt: skip
        checked = [check_row(row, source, f"{data}, row {number}") for number, row in enumerate(rows, start=1)]
        super().__init__(
            role, family=source, data=local, keep=keep, rates=rates, decontaminate=decontaminate,
            loaded=(checked, known_of_them),
        )  # fmt: skip
        kept = f"{self.num_tasks} left; left out: {self._reasons()}" if self.num_tasks < self.num_rows else "all kept"
        print(f"{data}: {self.num_rows} rows, {kept}", file=sys.stderr)
        if self.num_tasks * 2 < self.num_rows and not allow_loss:
            raise ConfigurationError(
                f"{data}: of {self.num_rows} rows only {self.num_tasks} are left ({self._reasons()}). Is {answer_field!r} "
                f"the answer, and {answer_type!r} its type? If so, say allow_loss=True (1 on a command line)."
            )


def _guess(row: Mapping[str, object], names: Sequence[str], what: str) -> str:
    fitting = [name for name in names if name in row]
    if len(fitting) == 1:
        return fitting[0]
    said = f"{' and '.join(fitting)} could be it" if fitting else f"none of {', '.join(names)} is there"
    raise ConfigurationError(f"which field is the {what}? {said}; the row has {sorted(row)}. Say {what}=...")


def _guess_answer(row: Row) -> str:
    return "solution" if "solution" in row and not set(ANSWERS) & set(row) else _guess(row, ANSWERS, "answer")
