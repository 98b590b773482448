"""LiveCodeBench's schema through the whole harness: programs are graded in the sandbox, whatever they try."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path

import pytest

from tests.benchmarks.evaluation.running import aipo_eval, runs_of, write_rows
from tests.benchmarks.evaluation.scripted import ScriptedPolicy, save_byte_tokenizer
from tests.grading_code.hostile import FUNCTIONAL_CHEATS
from tests.grading_code.support import needs_sandbox


def packed(tests: list[dict[str, str]]) -> str:
    """Private tests as the hub has them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def case(given: str, wanted: str, kind: str) -> dict[str, str]:
    return {"input": given, "output": wanted, "testtype": kind}


ROWS: list[dict[str, object]] = [
    {
        "question_title": "double", "question_content": "Read a number and print its double.", "platform": "atcoder",
        "question_id": "abc1", "contest_id": "abc", "contest_date": "2024-09-01T00:00:00", "starter_code": "",
        "difficulty": "easy", "public_test_cases": json.dumps([case("2\n", "4\n", "stdin")]),
        "private_test_cases": packed([case("-3\n", "-6\n", "stdin"), case("0\n", "0\n", "stdin")]), "metadata": "{}",
    },
    {
        "question_title": "triple", "question_content": "Return three times x.", "platform": "leetcode",
        "question_id": "3001", "contest_id": "weekly", "contest_date": "2025-01-05T00:00:00",
        "starter_code": "def f(x: int) -> int:\n    ", "difficulty": "hard",
        "public_test_cases": json.dumps([case("2", "6", "functional")]),
        "private_test_cases": packed([case("5", "15", "functional")]), "metadata": json.dumps({"func_name": "f"}),
    },
    {
        "question_title": "old", "question_content": "Too old to count.", "platform": "atcoder", "question_id": "abc0",
        "contest_id": "abc", "contest_date": "2023-06-01T00:00:00", "starter_code": "", "difficulty": "easy",
        "public_test_cases": json.dumps([case("1\n", "1\n", "stdin")]), "private_test_cases": packed([]), "metadata": "{}",
    },
]  # fmt: skip


@needs_sandbox
def test_right_wrong_and_hostile_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_rows(tmp_path / "lcb.jsonl", ROWS)
    marker = tmp_path / "escaped"
    programs = {
        "its double": (
            "print(2 * int(input()))",
            "print(4)",  # passes the public test alone
            "while True: pass",
            f"open({str(marker)!r}, 'w').write('x')\nprint(2 * int(input()))",
            "import os\nos._exit(0)",
            "print(2 * int(input())",
        ),
        "three times x": (
            "def f(x):\n    return 3 * x",
            "def f(x):\n    return 6",
            FUNCTIONAL_CHEATS["equal_int"],
            FUNCTIONAL_CHEATS["frames"],
            FUNCTIONAL_CHEATS["patch_harness"],
            FUNCTIONAL_CHEATS["forged_report"],
        ),
    }

    def script(prompt: str, sample: int, turn: int) -> str:
        (texts,) = [texts for words, texts in programs.items() if words in prompt]
        return f"Here it is.\n```python\n{texts[sample]}\n```\n"

    tokenizer = save_byte_tokenizer(tmp_path / "tokenizer")
    with ScriptedPolicy(tokenizer, script) as server:
        code, _, err = aipo_eval(
            capsys, "--suite", "livecodebench", "--data", data, "--samples", 6, "--max-tokens", 2000, "--out", tmp_path / "out",
            "--server", server.base_url, "--model", "scripted", "--policy", tokenizer,
            "--env-options", "livecodebench.start_date", "2024-08-01", "livecodebench.time_limit_s", "1.0",
        )  # fmt: skip
        assert code == 0, err
    assert not marker.exists()
    runs = runs_of(tmp_path / "out")
    for run in runs.values():
        assert [task["correct"] for task in run["tasks"]] == [[1, 0, 0, 0, 0, 0]] * 2
        assert [task["id"] for task in run["tasks"]] == ["livecodebench/abc1", "livecodebench/3001"]
        assert run["tasks"][1]["metadata"] == {
            "difficulty": "hard", "platform": "leetcode", "contest_date": "2025-01-05T00:00:00",
        }  # fmt: skip
        assert (run["metrics"]["maj_at_n"], run["metrics"]["maj_tie_rule"]) == (None, None)
        assert {row["k"]: row["estimate"] for row in run["metrics"]["pass_at_k"]}[6] == 1.0
        assert run["metrics"]["avg_at_n"]["estimate"] == pytest.approx(1 / 6)
        assert run["isolation"]["is_sandbox"] is True
        assert {"user", "mount", "pid", "net"} <= set(run["isolation"]["in_force"])
        assert [(row["value"], row["num_tasks"]) for row in run["breakdowns"]["difficulty"]] == [
            ("easy", 1),
            ("hard", 1),
        ]
        data_of = run["data"]
        assert (data_of["start_date"], data_of["first_contest"], data_of["last_contest"]) == (
            "2024-08-01", "2024-09-01", "2025-01-05",
        )  # fmt: skip
        assert data_of["rows"] == 2
        assert run["prompt"]["name"] == ("plain" if run["mode"] == "solo" else "consult")
        assert "```python" in run["prompt"]["template"]
