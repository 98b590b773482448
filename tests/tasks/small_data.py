"""Small data files of our own, in the schemas of the public data sets."""

from __future__ import annotations

import base64
import csv
import json
import pickle
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.grading_code.support import needs_sandbox

MATH500 = {"problem": "What is $1+1$?", "answer": "2", "unique_id": "own/1", "level": 1, "subject": "Sums"}
GSM8K = {"question": "How many?", "answer": "#### 5"}
AIME24 = [
    {"id": 60, "problem": "Find the least $n$.", "solution": "...", "answer": "025", "url": "https://example.org/60", "year": "2024"},
    {"id": 61, "problem": "Find the sum of digits.", "solution": "...", "answer": "204", "url": "https://example.org/61", "year": "2024"},
    {"id": 62, "problem": "Count the paths.", "solution": "...", "answer": "000", "url": "https://example.org/62", "year": "2024"},
]  # fmt: skip
AIME25 = [{"problem": "Find $m+n$.", "answer": "70", "id": "0"}, {"problem": "Find $k$.", "answer": "588", "id": "1"}]
GPQA_FIELDS = ("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def gpqa_rows(count: int = 4) -> list[dict[str, str]]:
    """Questions whose right choice is known by its words."""
    return [
        {
            "Record ID": f"recAbCdEfGhIj{i:04d}",
            **dict(zip(GPQA_FIELDS, (f"Which number is {i}?\n", f"{i} exactly\n", f"{i + 1}", f"{i + 2}", f"{i + 3}"), strict=True)),
            "High-level domain": "Physics" if i % 2 else "Chemistry",
            "Subdomain": "Quantum Mechanics",
        }
        for i in range(count)
    ]  # fmt: skip


def stdin_test(given: str, expected: str) -> dict[str, str]:
    return {"input": given, "output": expected, "testtype": "stdin"}


def functional_test(given: str, expected: str) -> dict[str, str]:
    return {"input": given, "output": expected, "testtype": "functional"}


def packed(tests: object) -> str:
    """Private tests as the data set packs them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def lcb_row(
    question_id: str,
    *,
    public: Iterable[Mapping[str, str]] = (stdin_test("3\n", "6\n"),),
    private: object = None,
    starter: str = "",
    function: str | None = None,
    date: str = "2024-08-01T00:00:00",
    platform: str = "atcoder",
    difficulty: str = "easy",
) -> dict[str, object]:
    """A row in the order and the types of the hub's; by default a program that doubles a number."""
    return {
        "question_title": "Double",
        "question_content": "Read an integer and print twice its value.",
        "platform": platform,
        "question_id": question_id,
        "contest_id": "contest",
        "contest_date": date,
        "starter_code": starter,
        "difficulty": difficulty,
        "public_test_cases": json.dumps(list(public)),
        "private_test_cases": packed([stdin_test("-5\n", "-10\n")]) if private is None else private,
        "metadata": json.dumps({} if function is None else {"func_name": function}),
    }


DOUBLE = lcb_row("abc300_a")
STARTER = "class Solution:\n    def twice(self, values: List[int]) -> List[int]:\n        "
FUNCTION = lcb_row(
    "2777",
    public=[functional_test("[1, 2]", "[2, 4]")],
    private=packed([functional_test("[]", "[]"), functional_test("[7]", "[14]")]),
    starter=STARTER,
    function="twice",
    date="2024-11-30T18:30:00",
    platform="leetcode",
    difficulty="medium",
)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_small_data(folder: Path) -> Path:
    """A folder for AIPO_DATA with some rows for each data set that is not part of the repository."""
    write_jsonl(folder / "math500" / "test.jsonl", [MATH500])
    write_jsonl(folder / "gsm8k" / "test.jsonl", [GSM8K])
    write_jsonl(folder / "aime24" / "train.jsonl", AIME24)
    write_jsonl(folder / "aime25" / "test.jsonl", AIME25)
    write_csv(folder / "gpqa-diamond" / "test.csv", gpqa_rows())
    write_jsonl(folder / "livecodebench" / "test.jsonl", [DOUBLE, FUNCTION])
    return folder


def for_this_machine(env_ids: Iterable[str]) -> list[Any]:
    """Environment ids as parameters of a test; those that run programs are skipped where programs cannot be isolated."""
    return [pytest.param(i, marks=[needs_sandbox] if i.startswith("livecodebench") else []) for i in env_ids]
