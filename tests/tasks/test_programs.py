from __future__ import annotations

import asyncio
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

import aipo_env
from aipo_env.errors import ConfigurationError, DataFormatError
from aipo_env.tasks import programs
from aipo_env.tasks.base import Task
from aipo_env.tasks.mix import MixTasks
from aipo_env.tasks.programs import pack, read_tests, unpack
from aipo_env.tasks.questions import QuestionTasks
from tests.grading_code.support import needs_sandbox
from tests.tasks.fake_hub import COMMIT, FakeHub, run_with, serving
from tests.tasks.small_data import TRAINING_ROWS, lcb_row, write_jsonl

(LEETCODE,), (DEEPCODER,) = TRAINING_ROWS["leetcode"], TRAINING_ROWS["deepcoder"]
SCALED = "class Solution:\n    def scaled(self, nums, k):\n        return [k * n for n in reversed(nums)]"
PRODUCT = "print(int(input()) * int(input()))"


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIPO_DATA", raising=False)


def load(family: str, rows: list[dict[str, Any]], folder: Path, **options: Any) -> QuestionTasks:
    return QuestionTasks("train", family=family, data=write_jsonl(folder / "rows.jsonl", rows), **options)


@needs_sandbox
@pytest.mark.parametrize(
    ("family", "right", "wrong"),
    [("leetcode", SCALED, SCALED.replace("reversed", "list")), ("deepcoder", PRODUCT, "print(7)")],
)
def test_programs_are_run_on_the_rows_tests(family: str, right: str, wrong: str, tmp_path: Path) -> None:
    (row,) = TRAINING_ROWS[family]
    tasks = load(family, [row], tmp_path)
    for family_ in (tasks, pickle.loads(pickle.dumps(tasks))):  # noqa: S301 (made just now)
        task = family_.task(0)
        assert family_.grade(task, f"```python\n{right}\n```").correct
        assert not family_.grade(task, f"```python\n{wrong}\n```").correct
    assert asyncio.run(tasks.grade_async(task, right)).correct
    assert tasks.isolation()["is_sandbox"]
    assert task.gold == ""
    assert tasks.answers == "program"
    with pytest.raises(ConfigurationError, match="none of these 1 tasks"):
        tasks.grade(Task("elsewhere", "", ""), right)


def test_the_prompt_says_how_the_program_is_called(tmp_path: Path) -> None:
    leetcode, deepcoder = load("leetcode", [LEETCODE], tmp_path), load("deepcoder", [DEEPCODER], tmp_path)
    assert leetcode.task(0).problem.endswith("def scaled(self, nums: List[int], k: int) -> List[int]:\n        \n```")
    assert leetcode.task(0).id == "leetcode/double-all"
    assert deepcoder.task(0).problem.endswith(
        "reads its input from standard input and writes its answer to standard output."
    )
    named = {
        "tests": json.dumps(
            [{"type": "function_call", "fn_name": "add", "input": [i, 1], "output": [i + 1]} for i in range(5)]
        )
    }
    assert (
        load("deepcoder", [DEEPCODER | named], tmp_path)
        .task(0)
        .problem.endswith("Write a function `add`. It is called from outside.")
    )
    assert "make" not in leetcode.task(0).metadata
    assert leetcode.task(0).metadata == {"difficulty": "Easy"}


def test_leetcode_ends_where_livecodebenchs_window_begins(tmp_path: Path) -> None:
    late = LEETCODE | {
        "task_id": "late",
        "problem_description": "Another one.",
        "estimated_date": "2024-08-01T00:00:00",
    }
    tasks = load("leetcode", [LEETCODE, late], tmp_path)
    assert [tasks.task(i).id for i in range(tasks.num_tasks)] == ["leetcode/double-all"]
    assert tasks.provenance()["dropped"] == {"not estimated_date < 2024-08-01": 1}


def test_problems_of_livecodebench_are_left_out(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "livecodebench" / "test.jsonl", [lcb_row("abc1_a") | {"question_content": DEEPCODER["problem"]}]
    )
    write_jsonl(tmp_path / "deepcoder" / "train.jsonl", [DEEPCODER, DEEPCODER | {"problem": "Multiply what you read."}])
    tasks = QuestionTasks("train", family="deepcoder", data=tmp_path)
    assert tasks.provenance()["dropped"] == {"stands in livecodebench": 1}
    # What all prompts say of programs makes no copy.
    write_jsonl(
        tmp_path / "livecodebench" / "test.jsonl",
        [lcb_row("1", starter=str(LEETCODE["starter_code"]), function="scaled")],
    )
    write_jsonl(tmp_path / "leetcode" / "train.jsonl", [LEETCODE])
    assert QuestionTasks("train", family="leetcode", data=tmp_path).provenance()["dropped"] == {}


@pytest.mark.parametrize(
    ("family", "field"),
    [
        ("leetcode", "input_output"), ("leetcode", "entry_point"), ("leetcode", "starter_code"), ("leetcode", "estimated_date"),
        ("leetcode", "problem_description"), ("deepcoder", "tests"), ("deepcoder", "problem"),
    ],
)  # fmt: skip
def test_a_changed_schema_is_refused_by_name(family: str, field: str, tmp_path: Path) -> None:
    (row,) = TRAINING_ROWS[family]
    changed = {("renamed" if name == field else name): value for name, value in row.items()}
    with pytest.raises(DataFormatError, match=rf"{family}.*renamed.*{field}"):
        load(family, [changed], tmp_path)


CALLS = [(f"{i}\n[1, {i}]", str([1, i])) for i in range(6)]


@pytest.mark.parametrize(
    "value",
    [
        [{"input": i, "output": o, "testtype": "functional"} for i, o in CALLS],  # LiveCodeBench
        [{"input": f"a = {json.loads(o)[1]}, b = {o}", "output": o} for _, o in CALLS],  # LeetCode
        [
            {
                "type": "function_call",
                "fn_name": "f",
                "input": [json.loads(o)[1], json.loads(o)],
                "output": [json.loads(o)],
            }
            for _, o in CALLS
        ],
        {
            "fn_name": "f",
            "inputs": [[json.loads(o)[1], json.loads(o)] for _, o in CALLS],
            "outputs": [json.loads(o) for _, o in CALLS],
        },
    ],
    ids=["lines", "python", "wrapped", "lists"],
)
def test_calls_of_functions_in_every_form(value: object) -> None:
    for written in (value, json.dumps(value)):
        problem = read_tests(written, "here", function="f")
        assert problem is not None
        assert sorted((test.input, test.output) for test in problem.tests) == CALLS
        assert {(test.kind, problem.func_name) for test in problem.tests} == {("functional", "f")}
        assert unpack(pack(problem)) == problem


def test_standard_input_in_every_form() -> None:
    pairs = [(f"{i}\n7", f"{7 * i}") for i in range(6)]
    for value in (
        {"inputs": [i for i, _ in pairs], "outputs": [o for _, o in pairs]},
        {"inputs": [i.replace("\n", "\r\n") for i, _ in pairs], "outputs": [o for _, o in pairs]},
        {"inputs": [i.split("\n") for i, _ in pairs], "outputs": [[o] for _, o in pairs]},
        [{"input": i, "output": o, "type": "stdin_stdout"} for i, o in pairs],
        [{"input": i, "output": o} for i, o in pairs],
    ):
        problem = read_tests(value, "here")
        assert problem is not None
        assert sorted((test.input, test.output) for test in problem.tests) == pairs
        assert problem.func_name is None
        assert unpack(pack(problem)) == problem


def test_texts_that_functions_return_are_kept_as_they_are() -> None:
    value = [{"input": f"s = 'a{i}'", "output": "12" if i else "Error: no"} for i in range(7)]
    problem = read_tests(value, "here", function="f", starter="def f(self, s: str) -> str:")
    assert problem is not None
    assert {test.output for test in problem.tests} == {'"12"'}
    assert len(problem.tests) == 6  # the one that failed is none
    number = read_tests(value, "here", function="f", starter="def f(self, s: str) -> int:")
    assert number is not None
    assert {test.output for test in number.tests} == {"12"}


def test_what_cannot_be_used_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(*inputs: str) -> object:
        return [{"input": i, "output": "1"} for i in inputs]

    assert read_tests(few("n = 1", "n = 2", "n = 3", "n = 4"), "here", function="f") is None  # too few
    odd = ("n = float('inf')", "n = open('x')", "n = ", "n = 1) + (2", "n = __import__('os').system('true')")
    assert read_tests(few(*odd, "n = 1", "n = 2", "n = 3", "n = 4"), "here", function="f") is None
    assert read_tests([{"input": "1", "output": "1", "type": "function_call"}] * 5, "here") is None  # of no name
    monkeypatch.setattr(programs, "MAX_TESTS", 6)
    monkeypatch.setattr(programs, "MAX_TEST_CHARS", 9)
    kept = read_tests(few(*("x" * i for i in range(1, 20))), "here")
    assert kept is not None
    assert [len(test.input) for test in kept.tests] == [8, 7, 6, 5, 4, 3]


@pytest.mark.parametrize(
    "value",
    [
        "no JSON", None, 7, [], {}, {"inputs": ["1"], "outputs": []}, {"inputs": ["1"]}, [{"input": "1"}], ["1"],
        [{"input": "1", "output": "1", "type": "interactive"}],
    ],
)  # fmt: skip
def test_tests_of_another_form_are_refused_by_name(value: object) -> None:
    with pytest.raises(DataFormatError, match=r"rows\.jsonl, row 3: expected tests as a list .*'testtype' or 'type'"):
        read_tests(value, "rows.jsonl, row 3")


@needs_sandbox
def test_a_data_set_of_ones_own(tmp_path: Path) -> None:
    rows = [
        {"question": f"Add {i}.", "checks": {"inputs": ["1", "2", "3", "4", "5"], "outputs": [str(1 + i)] * 5}}
        for i in range(2)
    ]
    rows[0]["checks"] = {"inputs": [str(i) for i in range(5)], "outputs": [str(i) for i in range(5)]}
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    env = aipo_env.make("dataset", data=data, problem="question", answer="checks", answer_type="code")
    env.reset(seed=0, options={"task_index": 0})
    assert env.step("```python\nprint(input())\n```")[1] == 1.0
    with pytest.raises(ConfigurationError, match="programs cannot be mixed"):
        MixTasks(parts={"mine": (1, env.tasks), "rulebook": 1})


def test_a_large_set_comes_from_the_hub_row_by_row(tmp_path: Path) -> None:
    files = {
        "README.md": b"---\nconfigs:\n"
        + b"".join(
            b"- config_name: %s\n  data_files: %s.jsonl\n" % (name, name)
            for name in (b"primeintellect", b"taco", b"lcbv5")
        )
        + b"---\n",
        **{
            f"{name}.jsonl": (json.dumps(DEEPCODER | {"problem": f"Multiply, says {name}."}) + "\n").encode()
            for name in ("primeintellect", "taco", "lcbv5")
        },
    }
    code = (
        "import json; from aipo_env.registry import make_tasks; t = make_tasks('deepcoder'); "
        "print(json.dumps([t.task(i).problem.split('\\n')[0] for i in range(t.num_tasks)] + [t.provenance()]))"
    )
    with serving(FakeHub({"agentica-org/DeepCoder-Preview-Dataset": files})) as hub:
        result = run_with(hub, code, tmp_path)
    assert result.returncode == 0, result.stderr
    *problems, known = json.loads(result.stdout)
    assert problems == [f"Multiply, says {name}." for name in ("primeintellect", "taco", "lcbv5")]
    assert (known["revision"], known["rows"], known["rows_read"]) == (COMMIT, 3, 3)
