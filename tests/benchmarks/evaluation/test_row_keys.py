"""Rows are known by the keys that lm-evaluation-harness writes with --log_samples."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from aipo_env.registry import make_tasks
from aipo_env.tasks.row_keys import row_keys_of
from tests.benchmarks.evaluation.running import aipo_eval, runs_of, write_rows

ROWS: list[dict[str, object]] = [
    {
        "question": "Ada has 3 pens and buys 4 \u2013 for \u20ac2 each. How many has she?",
        "answer": "3 + 4 = <<3+4=7>>7 pens.\n#### 7",
    },
    {"question": 'Ten less "one"?', "answer": "10 - 1 = 9\n#### 9"},
]
THEIRS = [
    {
        "doc_id": 0,
        "doc_hash": "619d945864fca7b899f5e64e02cf40aed8b808e61a3c985bf9a56b3adfe8031e",
        "prompt_hash": "b487b54d73ac77c2bf25500d64c4d20af26cb6ccb720801defa4f4388ecc321f",
        "target_hash": "3114e958e80512f9ec78db101f9391060e1a8186f67567eda3df3a96d2695620",
    },
    {
        "doc_id": 1,
        "doc_hash": "121d5306cf0ee0f6cc2807fcb17d7c24d01c58f2a86d176a2f6ec427ca893ea8",
        "prompt_hash": "64a83c1292bb18c9338ef54794fcc5183e873b84cf4041c7babb78b67770abdf",
        "target_hash": "34c1f9c75ae78f63861b4d1edce2fff8e3adde0d8bed90fcc080ba60eb83d474",
    },
]
"""What lm_eval 0.4.13 logged of these rows: its gsm8k.yaml with `num_fewshot: 0` on this file, `--model dummy --log_samples`."""


def test_rows_have_the_keys_of_lm_evaluation_harness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_rows(tmp_path / "gsm8k" / "test.jsonl", ROWS), tmp_path / "out"
    code, _, errors = aipo_eval(
        capsys, "--suite", "gsm8k", "--data", data, "--mode", "solo", "--max-tokens", 4, "--out", out, "--quiet",
        "--prompt", "Question: {problem}\nAnswer:",
    )  # fmt: skip
    assert code == 0, errors
    (run,) = runs_of(out).values()
    assert [{key: task[key] for key in THEIRS[0]} for task in run["tasks"]] == THEIRS


def test_keys_are_those_of_the_row_whatever_was_left_out_before_it(tmp_path: Path) -> None:
    rows = [{"problem": f"{i} + 1", "answer": i + 1, "level": i, "extra": ["\u00e9", None]} for i in range(4)]
    data = write_rows(tmp_path / "math500" / "test.jsonl", rows)
    tasks = make_tasks("math500-consult", data=str(data), keep="level >= 2")
    keys = row_keys_of(tasks, 0)
    assert keys is not None
    assert (tasks.task(0).problem, keys["doc_id"]) == ("2 + 1", 2)
    document = '{\n  "problem": "2 + 1",\n  "answer": 3,\n  "level": 2,\n  "extra": [\n    "\u00e9",\n    null\n  ]\n}'
    assert json.loads(document) == rows[2]
    assert keys["doc_hash"] == hashlib.sha256(document.encode()).hexdigest()
    assert keys["target_hash"] == hashlib.sha256(b"3").hexdigest()


def test_a_training_split_is_not_hashed(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "gsm8k" / "train.jsonl", ROWS)
    tasks = make_tasks("gsm8k-consult", data=str(data), split="train", decontaminate="none")
    assert row_keys_of(tasks, 0) is None
