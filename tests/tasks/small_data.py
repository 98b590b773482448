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
MINERVA = {"question": "A star is how many parsecs away?", "answer": "1.5"}
OLYMPIAD = {
    "id": 7, "question": "Solve $x^2=4$.", "solution": ["..."], "final_answer": ["2,-2"], "context": None, "image_1": None,
    "modality": "Text-only", "difficulty": "Competition", "is_multiple_answer": True, "unit": None, "answer_type": "Numerical",
    "error": None, "question_type": "Open-ended", "subfield": "Algebra", "subject": "Math", "language": "English",
}  # fmt: skip
EVALUATION_ROWS: dict[str, list[dict[str, object]]] = {
    "aime26": [{"problem_idx": 1, "answer": 70, "problem": "Find the largest three-digit $n$ of the kind."}],
    "hmmt-feb26": [
        {"problem_idx": 3, "answer": "\\frac{3}{4}", "problem_type": ["Algebra"], "problem": "Compute the ratio."}
    ],
    "beyondaime": [{"problem": "How many trees of the kind are there?", "answer": 20160}],
    "amc23": [
        {"id": 0, "question": "What is the sum of the two ages?", "answer": "27.0", "url": "https://example.org/amc"}
    ],
    "olympiadbench": [OLYMPIAD],
    "minerva": [MINERVA],
    "dataset": [{"question": "What is the sum of the corners?", "answer": "360"}],
}
MATH_ROW = {
    "problem": "Evaluate $7\\cdot 8$ and halve it.", "level": "Level 2", "type": "Prealgebra",
    "solution": "First $\\boxed{56}$ comes to mind, but half of it is $\\boxed{28}$.",
}  # fmt: skip
SCAF_ROW = {
    "question": "A box has $12$ red and $9$ blue balls. How many are there?", "solution": "The sum is $\\boxed{21}$.",
    "prompt": [{"role": "user", "content": "..."}], "reward_model": {"ground_truth": "21", "style": "rule"},
    "knowledge_components_parts": ["Disjoint sets add up.", "Balls are red or blue.", "Count each once.", "Use $12+9$."],
    "planning_skeleton_parts": ["Count the red ones.", "Count the blue ones.", "Add.", "State the sum."],
    "solution_breakdown_parts": ["There are $12$ red ones.", "There are $9$ blue ones.", "$12 + 9 = 21$", "So \\boxed{21}."],
}  # fmt: skip
KNOWRL_ROW = {
    "data_source": "own", "reward_model": {"ground_truth": '["42"]', "style": "rule"},
    "prompt": [{"role": "user", "content": "What is $6\\cdot 7$?\n## Hint\n1. Multiply.\nPlease reason step by step, and box it."}],
    "kp_list": ["A product is a repeated sum.", "The result is 42."], "css_selected": [0], "cbrs_selected": [0],
}  # fmt: skip
TRAINING_ROWS: dict[str, list[dict[str, object]]] = {
    "math": [MATH_ROW],
    "gsm8k": [{"question": "Tom has 3 pens and buys 4. How many has he?", "answer": "3+4=<<3+4=7>>7\n#### 7"}],
    "dapo-math": [
        {
            "prompt": "Find $m+n$ of the reduced fraction.", "solution": "34", "data_source": "math_dapo", "ability": "MATH",
            "source_prompt": [{"role": "user", "content": "..."}], "reward_model": {"ground_truth": "34", "style": "rule"},
            "extra_info": {"index": "9a9b"},
        }
    ],
    "deepscaler": [{"problem": "Compute the area of the kite.", "answer": "\\frac{15}{2}", "solution": ""}],
    "acereason-math": [{"problem": "Find the radius of the incircle.", "answer": "2\\sqrt{3}"}],
    "big-math": [
        {
            "problem": "Simplify the product of the roots.", "answer": "x+1", "source": "orca_math", "domain": ["Mathematics"],
            "llama8b_solve_rate": None,
        }
    ],
    "skywork-or1": [
        {
            "question": "How many paths lead home?", "answer": '["924"]',
            "info": {"data_source": "own", "index": 3, "difficulty_deepseek_r1_distill_qwen_1.5b": 4},
        }
    ],
    "polaris": [{"problem": "Determine the last digit of the tower.", "answer": "6", "difficulty": "3/8"}],
    "deepmath": [
        {"question": "Evaluate the integral of the bump.", "final_answer": "\\frac{\\pi}{4}", "difficulty": 6.5, "topic": "Calculus"}
    ],
    "webinstruct": [
        {
            "id": 1, "question": "What is the specific heat ratio?", "answer": "1.4", "answer_type": "Float",
            "category": "Physics", "difficulty": "University",
        }
    ],
    "dataset": [{"question": "How long is the path of the snail?", "answer": "12"}],
    "leetcode": [
        {
            "task_id": "double-all", "question_id": 9001, "difficulty": "Easy", "tags": ["Array"],
            "problem_description": "Given an integer array nums and an integer k, return k times its reverse.",
            "starter_code": "class Solution:\n    def scaled(self, nums: List[int], k: int) -> List[int]:\n        ",
            "estimated_date": "2023-05-01T00:00:00", "prompt": "from typing import *", "completion": "...",
            "entry_point": "Solution().scaled", "test": "def check(candidate): ...", "query": "...", "response": "...",
            "input_output": [
                *({"input": f"nums = [1, {i}], k = {i}", "output": f"[{i * i}, {i}]"} for i in range(1, 6)),
                {"input": "nums = None, k = 2", "output": "Error: 'NoneType' object is not iterable"},
                {"input": "nums = [1] * 3, k = 2", "output": "[2, 2, 2]"},
            ],
        }
    ],
    "deepcoder": [
        {
            "problem": "Read two integers, one a line, and print their product.", "solutions": ["..."],
            "tests": json.dumps({"inputs": [f"{i}\r\n7\r\n" for i in range(6)], "outputs": [f"{7 * i}\n" for i in range(6)]}),
        },
    ],
    "scaf-grpo": [SCAF_ROW],
    "knowrl": [KNOWRL_ROW],
}  # fmt: skip
"""Rows of our own in the schemas of the hubs; none is a copy of another."""
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
    for split, rows_of in (("test", EVALUATION_ROWS), ("train", TRAINING_ROWS)):
        for family, rows in rows_of.items():
            write_jsonl(folder / family / f"{split}.jsonl", rows)
    write_jsonl(folder / "livecodebench" / "test.jsonl", [DOUBLE, FUNCTION])
    return folder


PROGRAMS = ("livecodebench", "leetcode", "deepcoder")


def for_this_machine(env_ids: Iterable[str]) -> list[Any]:
    """Environment ids as parameters of a test; those that run programs are skipped where programs cannot be isolated."""
    return [pytest.param(i, marks=[needs_sandbox] if i.startswith(PROGRAMS) else []) for i in env_ids]
