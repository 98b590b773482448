"""Suites in their hub schemas, played by a scripted policy behind a real server: right is right, wrong is wrong, faults are faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.evaluation.running import aipo_eval, read_results, runs_of, timeless, words, write_rows
from tests.benchmarks.evaluation.scripted import ScriptedPolicy, save_byte_tokenizer
from tests.misbehaving_server import Fault

ASK = '<consult agent="verify">is it so?</consult>'


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def served(server: ScriptedPolicy, tokenizer: Path, out: Path, *arguments: object) -> tuple[object, ...]:
    return ("--server", server.base_url, "--model", "scripted", "--policy", tokenizer, "--out", out, *arguments)


MATH = [
    ("half of one", "\\frac{1}{2}", "Algebra", 1),
    ("two and three", "5", "Algebra", 3),
    ("all real x below 3", "(-\\infty,3)", "Precalculus", 5),
]
MATH_ANSWERS = {
    # Two ways to write the half, and 3 twice: a tie.
    "half of one": ("0.5", "\\tfrac12", "3", "3.0"),
    "two and three": ("5", "5.", "7", "hello"),
    "all real x below 3": ("x<3", None, None, "(-\\infty,3]"),
}


def math_script(prompt: str, sample: int, turn: int) -> str:
    (answers,) = [answers for problem, answers in MATH_ANSWERS.items() if problem in prompt]
    if "ask first" in prompt and turn == 0:
        return f"Let me ask. {ASK} and more"
    answer = answers[sample]
    return "I cannot say." if answer is None else f"So it is \\boxed{{{answer}}}."


def write_math(path: Path) -> Path:
    return write_rows(
        path,
        [
            {
                "problem": f"ask first: {problem}", "solution": "", "answer": answer, "subject": subject, "level": level,
                "unique_id": f"test/{i}.json",
            }
            for i, (problem, answer, subject, level) in enumerate(MATH)
        ],
    )  # fmt: skip


def test_math500(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_math(tmp_path / "math500.jsonl")
    with ScriptedPolicy(tokenizer, math_script, helper="Yes.") as server:
        helper = ("--agents", "verify", "--helper-server", server.base_url, "--helper-model", "judge")
        more = (*words("--suite math500 --max-tokens 3000 --data"), data, *helper)
        code, out, err = aipo_eval(capsys, *served(server, tokenizer, tmp_path / "out", *more))
        assert code == 0, err
    runs = runs_of(tmp_path / "out")
    assert list(runs) == ["math500.solo", "math500.assisted"]
    # Alone, asking is a turn that ends without an answer.
    solo = runs["math500.solo"]
    assert (solo["metrics"]["avg_at_n"]["estimate"], solo["rates"]["no_answer"]) == (0.0, 1.0)
    run = runs["math500.assisted"]
    assert [task["correct"] for task in run["tasks"]] == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    # Equivalent answers vote together: 0.5 and 1/2 against 3 and 3.0 is a tie; 5 and 5. win; x<3 ties with (-inf, 3].
    assert [task["maj"] for task in run["tasks"]] == [0.5, 1.0, 0.5]
    scores = run["metrics"]
    assert scores["avg_at_n"]["estimate"] == pytest.approx(5 / 12)
    assert {row["k"]: row["estimate"] for row in scores["pass_at_k"]} == pytest.approx(
        {1: 5 / 12, 2: (2 * (1 - 1 / 6) + 1 / 2) / 3, 4: 1.0}
    )
    assert {row["n"]: row["estimate"] for row in scores["maj_at_n"]}[4] == pytest.approx(2 / 3)
    assert scores["avg_at_n"]["sample_low"] < 5 / 12 < scores["avg_at_n"]["sample_high"]
    rows = run["breakdowns"]["subject"]
    assert [(row["value"], row["num_tasks"], row["avg"], row["pass_at_n"]) for row in rows] == [
        ("Algebra", 2, 0.5, 1.0), ("Precalculus", 1, 0.25, 1.0),
    ]  # fmt: skip
    assert [(row["value"], row["avg"]) for row in run["breakdowns"]["level"]] == [(1, 0.5), (3, 0.5), (5, 0.25)]
    assert [task["metadata"] for task in run["tasks"]][2] == {"subject": "Precalculus", "level": 5}
    assert run["rates"]["no_answer"] == pytest.approx(2 / 12)
    assert run["verdicts"] == {"": 2, "correct": 5, "wrong": 5}
    verify = run["consults"]["by_helper"]["verify"]
    assert (verify["consults"], verify["errors"], verify["unmetered"]) == (12, 0, 0)
    assert verify["completion_tokens"] == 12 * len("Yes.") + 12
    assert verify["prompt_tokens"] > 0
    assert run["helpers"]["verify"]["model"] == "judge"
    assert run["sampling"]["temperature"] == 0.6
    assert run["prompt"]["invites_to_consult"] is True
    assert run["data"]["files"].keys() == {"math500.jsonl"}
    assert "MATH-500, assisted: avg@4 0.417" in out
    assert read_results(tmp_path / "out")["policy"]["backend"] == "server"


def test_faults_are_counted_not_scored_and_played_again(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_math(tmp_path / "math500.jsonl")
    with ScriptedPolicy(tokenizer, math_script) as server:
        arguments = (
            "--suite", "math500", "--data", data, "--max-tokens", 400, "--mode", "assisted", "--agents", "verify",
            "--max-in-flight", 1,
        )  # fmt: skip
        whole = served(server, tokenizer, tmp_path / "whole", *arguments)
        assert aipo_eval(capsys, *whole)[0] == 0
        cut = served(server, tokenizer, tmp_path / "cut", *arguments)
        # The first two samples of the first task meet a dying server; the requests of all others are answered.
        server.script(Fault("status", status=500, message="boom"), Fault("reset"))
        code, out, err = aipo_eval(capsys, *cut)
        assert code == 1
        assert "the evaluation is not complete. The same command goes on" in err
        results = read_results(tmp_path / "cut")
        assert results["complete"] is False
        (run,) = results["runs"]
        assert (run["num_finished"], run["num_errors"], run["num_missing"], run["complete"]) == (10, 2, 0, False)
        assert sum(row["count"] for row in run["errors"]) == 2
        assert all(row["error"].startswith("ServiceError: ") for row in run["errors"])
        # Scores are of the tasks all of whose samples are there; the lost ones are not wrong answers.
        assert run["num_tasks_scored"] == 2
        assert run["tasks"][0]["correct"] == [None, None, 0, 0]
        assert (run["tasks"][0]["num_samples"], run["tasks"][0]["maj"]) == (2, None)
        assert run["metrics"]["avg_at_n"]["estimate"] == pytest.approx(3 / 8)
        assert "2 of 12 episodes are missing, 2 of them ended by a fault" in out
        asked = server.num_requests
        code, _, err = aipo_eval(capsys, *cut)
        assert code == 0, err
        assert server.num_requests == asked + 4
    found = [timeless(read_results(tmp_path / name)) | {"command": ""} for name in ("whole", "cut")]
    assert found[0] == found[1]


def test_a_dead_server_ends_the_evaluation_early_with_a_valid_state(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"problem": f"{i} plus 1", "answer": str(i + 1)} for i in range(200)]
    data = write_rows(tmp_path / "math500.jsonl", [dict(row) for row in rows])
    arguments = ("--suite", "math500", "--data", data, "--samples", 1, "--max-tokens", 50, "--max-in-flight", 4)

    def script(prompt: str, sample: int, turn: int) -> str:
        return f"\\boxed{{{int(prompt.split(' plus 1')[0].split()[-1]) + 1}}}"

    with ScriptedPolicy(tokenizer, script, tasks=200) as server:
        server.fault = lambda request: Fault("status", status=503) if request.number >= 20 else None
        command = served(server, tokenizer, tmp_path / "out", *arguments)
        code, _, err = aipo_eval(capsys, *command)
        assert code == 1
        assert "math500.solo: 64 episodes in a row were ended by a fault, the last one by ServiceError" in err
        # It did not go through all tasks, nor through the other mode.
        assert server.num_requests < 20 + 64 + 2 * 4
        runs = runs_of(tmp_path / "out")
        assert runs["math500.solo"]["num_finished"] == 20
        assert runs["math500.assisted"]["num_missing"] == 200
        assert runs["math500.assisted"]["metrics"] is None
        server.fault = None
        code, _, err = aipo_eval(capsys, *command)
        assert code == 0, err
    for run in runs_of(tmp_path / "out").values():
        assert (run["metrics"]["avg_at_n"]["estimate"], run["num_tasks_scored"], run["errors"]) == (1.0, 200, [])


def test_a_helper_that_fails_is_counted_and_ends_no_episode(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_math(tmp_path / "math500.jsonl")
    with ScriptedPolicy(tokenizer, math_script) as server:
        server.fault = lambda request: Fault("status", status=500) if request.is_chat else None
        helper = ("--agents", "verify", "--helper-server", server.base_url, "--helper-model", "judge")
        more = (*words("--suite math500 --mode assisted --max-tokens 500 --tasks 1 --data"), data, *helper)
        code, _, err = aipo_eval(capsys, *served(server, tokenizer, tmp_path / "out", *more))
        assert code == 0, err
    (run,) = read_results(tmp_path / "out")["runs"]
    verify = run["consults"]["by_helper"]["verify"]
    assert (verify["consults"], verify["errors"], run["consults"]["rate"]) == (0, 4, 0.0)
    assert [task["correct"] for task in run["tasks"]] == [[1, 1, 0, 0]]
    assert run["tasks"][0]["index"] == 1


def test_the_context_of_the_model_limits_a_turn(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_math(tmp_path / "math500.jsonl")
    with ScriptedPolicy(tokenizer, math_script) as server:
        more = (*words("--suite math500 --mode solo --prompt bare --context 40 --tasks 1 --data"), data)
        code, _, err = aipo_eval(capsys, *served(server, tokenizer, tmp_path / "out", *more))
        assert code == 0, err
    (run,) = read_results(tmp_path / "out")["runs"]
    assert run["rates"]["truncated"] == 1.0
    lines = (tmp_path / "out" / run["traces"]).read_text(encoding="utf-8").splitlines()
    assert {sum(len(s["token_ids"]) for s in json.loads(line)["segments"]) for line in lines} == {40}


def test_aime_answers_are_integers_however_they_are_written(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: dict[str, list[dict[str, Any]]] = {
        "aime24": [
            {"id": 60, "problem": "first problem", "solution": "", "answer": "025", "url": "https://x", "year": "2024"}
        ],
        "aime25": [{"id": "0", "problem": "second problem", "answer": "70"}],
    }
    for name, content in rows.items():
        write_rows(tmp_path / "data" / name / "test.jsonl", content)
    answers = {"first problem": ("25", "025", "26", "25.0"), "second problem": ("70", "7", "070", "70^{1}")}

    def script(prompt: str, sample: int, turn: int) -> str:
        (given,) = [texts for problem, texts in answers.items() if problem in prompt]
        return f"\\boxed{{{given[sample]}}}"

    with ScriptedPolicy(tokenizer, script) as server:
        more = (*words("--suite aime24,aime25 --mode solo --samples 4 --max-tokens 99 --data"), tmp_path / "data")
        code, _, err = aipo_eval(capsys, *served(server, tokenizer, tmp_path / "out", *more))
        assert code == 0, err
    runs = runs_of(tmp_path / "out")
    assert runs["aime24.solo"]["tasks"][0]["correct"][:3] == [1, 1, 0]
    assert runs["aime25.solo"]["tasks"][0]["correct"][:3] == [1, 0, 1]
    assert runs["aime24.solo"]["metrics"]["maj_at_n"][-1]["estimate"] == 1.0
    assert runs["aime24.solo"]["tasks"][0]["metadata"]["year"] == 2024
