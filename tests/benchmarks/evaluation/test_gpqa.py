"""GPQA-Diamond's schema through the whole harness: choices are graded right, and no text of a question is in any file."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest

from aipo_env.registry import make_tasks
from tests.benchmarks.evaluation.running import aipo_eval, runs_of
from tests.benchmarks.evaluation.scripted import ScriptedPolicy, save_byte_tokenizer
from tests.misbehaving_server import Fault

QUESTIONS = [
    {
        "Record ID": f"recAAAAAAAAAAAA{i:02d}",
        "Question": f"Whichever zyxquestion{i} has the zyxproperty, name it",
        "Correct Answer": f"zyxright{i}",
        **{f"Incorrect Answer {j}": f"zyxwrong{i}{j}" for j in (1, 2, 3)},
        "High-level domain": ("Physics", "Chemistry")[i % 2],
        "Subdomain": "Optics",
    }
    for i in range(3)
]
SECRET = "zyx"
LETTERS = "ABCD"


def letter(prompt: str, choice: str) -> str:
    """The letter before a choice in the prompt."""
    (found,) = [line[0] for line in prompt.splitlines() if line.endswith(f") {choice}")]
    return found


def script(prompt: str, sample: int, turn: int) -> str:
    """Quotes the question wherever it can; sample 0 and 1 are right, 2 is wrong, 3 names two letters."""
    (number,) = [i for i, row in enumerate(QUESTIONS) if str(row["Question"]) in prompt]
    if turn == 0:
        return (
            f'What is zyxquestion{number}? <consult agent="verify">Has zyxquestion{number} the zyxproperty?</consult>'
        )
    right = letter(prompt, f"zyxright{number}")
    wrong = letter(prompt, f"zyxwrong{number}{sample % 3 + 1}")
    answers = (right, f"({right.lower()})", f"{wrong}", f"{right} or {wrong}")
    return f"It is zyxright{number}: \\boxed{{{answers[sample]}}}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "private" / "gpqa_diamond.csv"
    path.parent.mkdir()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(QUESTIONS[0]))
        writer.writeheader()
        writer.writerows(QUESTIONS)
    return path


def arguments(server: ScriptedPolicy, tokenizer: Path, data: Path, out: Path, *more: object) -> tuple[object, ...]:
    return (
        "--suite", "gpqa-diamond", "--data", f"gpqa-diamond={data}", "--samples", 4, "--max-tokens", 900, "--out", out,
        "--server", server.base_url, "--model", "scripted", "--policy", tokenizer, "--agents", "verify",
        "--helper-server", server.base_url, "--helper-model", "judge", *more,
    )  # fmt: skip


def test_choices_are_graded_and_nothing_of_a_question_is_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tokenizer, out = save_byte_tokenizer(tmp_path / "tokenizer"), tmp_path / "out"
    with ScriptedPolicy(tokenizer, script, helper="zyxhelper says zyxquestion is fine") as server:
        command = arguments(server, tokenizer, data, out, "--mode", "assisted", "--max-in-flight", 1)

        # What a server says of a failed request may quote the request: of the policy's, and of a helper's.
        def fault(request: object) -> Fault | None:
            number = request.number  # type: ignore[attr-defined]
            return Fault("status", status=400, message="cannot serve zyxquestion0") if number in (0, 2) else None

        server.fault = fault
        code, first, errors = aipo_eval(capsys, *command)
        assert code == 1
        (run,) = runs_of(out).values()
        assert (run["num_errors"], run["consults"]["by_helper"]["verify"]["errors"]) == (2, 1)
        written = first + errors + "\n".join(record.getMessage() for record in caplog.records)
        server.fault = None
        code, second, errors = aipo_eval(capsys, *command)
        assert code == 0, errors
        written += second + errors + "\n".join(record.getMessage() for record in caplog.records)
    (run,) = runs_of(out).values()
    assert run["confidential"] is True
    assert [task["correct"] for task in run["tasks"]] == [[1, 1, 0, 0]] * 3
    assert [task["maj"] for task in run["tasks"]] == [1.0] * 3
    assert run["metrics"]["avg_at_n"]["estimate"] == 0.5
    assert [(row["value"], row["num_tasks"]) for row in run["breakdowns"]["domain"]] == [
        ("Chemistry", 1),
        ("Physics", 2),
    ]
    assert run["tasks"][0]["id"] == "gpqa-diamond/recAAAAAAAAAAAA00"
    assert run["data"]["choice_seed"] == 0
    # Every right letter is that of the order that the family made.
    tasks = make_tasks("gpqa-diamond-consult", data=str(data))
    assert {letter(tasks.task(i).problem, f"zyxright{i}") == tasks.task(i).gold for i in range(3)} == {True}
    # The texts were there, and went to the policy and the helper alone.
    assert any(
        SECRET in server.codec.decode(request.body["prompt"]) for request in server.requests if not request.is_chat
    )
    assert run["tokens"]["policy"] > 300
    assert SECRET not in written
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) >= 6
    for path in files:
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
        # Nor as the ids of a byte-level tokenizer.
        ids = ",".join(str(i) for i in server.codec.encode(SECRET)).encode()
        assert ids not in content.replace(b" ", b""), path


def test_texts_are_kept_where_the_user_says_so(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer, out = save_byte_tokenizer(tmp_path / "tokenizer"), tmp_path / "out"
    with ScriptedPolicy(tokenizer, script) as server:
        more = ("--mode", "assisted", "--env-options", "gpqa-diamond.keep_texts", 1)
        code, _, err = aipo_eval(capsys, *arguments(server, tokenizer, data, out, *more))
        assert code == 0, err
    (run,) = runs_of(out).values()
    assert run["confidential"] is False
    assert [task["correct"] for task in run["tasks"]] == [[1, 1, 0, 0]] * 3
    assert (out / run["traces"]).read_text(encoding="utf-8").count("zyxquestion0") >= 4
