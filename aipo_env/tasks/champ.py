"""`champ`: the competition problems of CHAMP with the concepts and hints that belong to them, from the package champ-dataset.

Public since January 2024, and small: a test of helpers, not of policies, and nothing to train on. arXiv 2401.06961.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from aipo_env.errors import DataFormatError, MissingDependencyError
from aipo_env.tasks.data_sets import DataSet
from aipo_env.tasks.hub import Provenance, sha256
from aipo_env.tasks.questions import QuestionTasks

PACKAGE = "champ-dataset"
SOURCE = DataSet(
    family="champ", repository=PACKAGE, splits=("test",), description="CHAMP competition problems with concepts and hints",
    id="id", facts={"category": "category"}, hints={"knowledge": ("concepts",), "reasoning": ("hints",)}, filtered=True,
)  # fmt: skip
# Behind the answer stand other words for it.
_APPENDED = re.compile(r"\s*\(i\.e\..*|, or equivalently.*|\s*is the only possible value$")
_PHRASE = re.compile(r"The limit exists and is equal to |The only possible value for the limit is ")
_WORDS = re.compile(r"\b(?:No|(?!sqrt|log|sin|cos)[A-Za-z]{3,})\b")


class ChampTasks(QuestionTasks):
    """The problems whose answers are numbers or formulas; those in words ("No", "At least 1 number") are left out and counted.

    Knowledge gives the problem's own concepts, Reasoning its hints.

    Args:
        split: "test" is the only one.
    """

    def __init__(self, split: str = "test") -> None:
        contents = _contents()
        try:
            rows = [_row(problem, contents) for problem in contents["problems"].values()]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataFormatError(
                f"{PACKAGE} has other fields than version 1.0.0 ({error!r}). Install that one."
            ) from error
        known = Provenance(
            "package", PACKAGE, importlib.metadata.version(PACKAGE), files={_file().name: sha256(_file())}
        )
        super().__init__(split, family=SOURCE, loaded=(rows, known))


def marked_solutions() -> list[tuple[str, str | None]]:
    """Solutions of four models, each with its first wrong step, or None where it has none: a test of whoever verifies."""
    marks = [m for problem in _contents()["problems"].values() for m in problem["fws_annotations"].values()]
    return [(m["text"], None if m["start_idx"] is None else m["text"][m["start_idx"] : m["end_idx"]]) for m in marks]


def _row(problem: dict[str, Any], contents: dict[str, Any]) -> dict[str, object]:
    answer = _PHRASE.sub("", _APPENDED.sub("", problem["_answer"]))
    concepts = [contents["concepts"][name] for name in problem["ch_list"] if name in contents["concepts"]]
    return {
        "id": problem["identifier"],
        "problem": problem["_text"],
        "answer": "" if _WORDS.search(answer) else answer,
        "category": problem["category"],
        "concepts": [": ".join(filter(None, (concept["name"], concept["_text"]))) for concept in concepts],
        "hints": [contents["hints"][name]["_text"] for name in problem["ch_list"] if name in contents["hints"]],
    }


@functools.lru_cache(maxsize=1)
def _contents() -> dict[str, Any]:
    """The package's one file; its own loader copies all of it once more."""
    contents: dict[str, Any] = json.loads(_file().read_text(encoding="utf-8"))
    return contents


def _file() -> Path:
    spec = importlib.util.find_spec("champ_dataset")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(f"champ needs the package {PACKAGE}: pip install {PACKAGE}")
    return Path(spec.origin).parent / "dataset_files" / "v0.json"
