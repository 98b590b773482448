"""Which tasks of a data set are kept: by columns of its rows, and by what a policy was measured to solve."""

from __future__ import annotations

import dataclasses
import json
import operator
import os
import re
from collections.abc import Mapping
from pathlib import Path

from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from aipo_env.tasks.hub import at

_COMPARED = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "=": operator.eq}
_CONDITION = re.compile(r"\s*([^<>=]+?)\s*(<=|>=|<|>|=)\s*([^<>=]+?)\s*")


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """What a row must fulfil, such as "difficulty >= 5", "topic = Algebra|Calculus", "solo < 0.5"."""

    path: str
    """Of the field (`aipo_env.tasks.hub.at`)."""
    sign: str
    values: tuple[str, ...]
    """Any of them will do."""

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.path} {self.sign} {'|'.join(self.values)}"

    def holds(self, row: Mapping[str, object]) -> bool:
        """Whether a row fulfils it; one that has nothing in the field does not.

        Numbers, and fractions such as "3/8", are compared as numbers; texts (dates, "Level 3") as texts.
        """
        try:
            value = at(row, self.path)
        except KeyError:
            return False
        pairs = ((_number(value), _number(wanted), str(value), wanted) for wanted in self.values)
        compared = _COMPARED[self.sign]
        return value is not None and any(
            compared(text, wanted) if number is None or bound is None else compared(number, bound)
            for number, bound, text, wanted in pairs
        )


def conditions(text: str) -> tuple[Condition, ...]:
    """Reads conditions, with " and " between them; none of an empty text."""
    parts = text.split(" and ") if text.strip() else []
    matches = [_CONDITION.fullmatch(part) for part in parts]
    if None in matches:
        raise ConfigurationError(
            f"conditions are written as 'difficulty >= 5 and topic = Algebra|Calculus' (signs <, <=, >, >=, =), got {text!r}."
        )
    return tuple(Condition(m[1], m[2], tuple(v.strip() for v in m[3].split("|"))) for m in matches if m is not None)


def _number(value: object) -> float | None:
    try:
        above, _, below = str(value).partition("/")
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        return None


def results_file(path: str | os.PathLike[str]) -> Path:
    """The results.json of `aipo eval` that is named, or that lies in the folder; DataNotFoundError where there is none."""
    file = Path(path).expanduser()
    file = file / "results.json" if file.is_dir() else file
    if not file.is_file():
        raise DataNotFoundError(f"expected a results.json of `aipo eval`, or its folder; there is no {file}.")
    return file


def read_outcomes(path: str | os.PathLike[str]) -> dict[str, tuple[int, dict[str, tuple[int, int]]]]:
    """Reads what an evaluation says of each task, by id: its index, and the correct and the finished episodes by mode.

    Args:
        path: see `results_file`.

    Raises:
        DataFormatError: it is no result of `aipo eval`.
    """
    file = results_file(path)
    found: dict[str, tuple[int, dict[str, tuple[int, int]]]] = {}
    try:
        for run in json.loads(file.read_text(encoding="utf-8"))["runs"]:
            for task in run["tasks"]:
                _, counts = found.setdefault(task["id"], (int(task["index"]), {}))
                counts[run["mode"]] = int(task["num_correct"]), int(task["num_samples"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataFormatError(f"{file} is no results.json of `aipo eval` ({error!r}). Run `aipo eval` anew.") from error
    return found
