"""Suites in their hub schemas, played by a scripted policy behind a real server: right is right, wrong is wrong, faults are faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import aipo_env
from aipo_env import Trajectory
from aipo_env.errors import ServiceError
from benchmarks.evaluation.samplers import MAX_FAULTS_IN_A_ROW, _FaultsInARow
from tests.benchmarks.evaluation.running import aipo_eval, read_results, runs_of, timeless, words, write_rows
from tests.benchmarks.evaluation.scripted import ScriptedPolicy, save_byte_tokenizer
from tests.misbehaving_server import Fault, MisbehavingServer, Request

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


def test_repair_36_alone_nobody_is_offered_unless_it_is_asked_for(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_math(tmp_path / "math500.jsonl")
    for out, flags, invited in (("default", "", (False, True)), ("asked", "--prompt consult", (True, True))):
        with ScriptedPolicy(tokenizer, math_script) as server:
            more = (*words(f"--suite math500 --agents verify --max-tokens 3000 --samples 1 {flags} --data"), data)
            assert aipo_eval(capsys, *served(server, tokenizer, tmp_path / out, *more))[0] == 0
            prompts = [server.codec.decode(request.body["prompt"]) for request in server.requests]
        assert ("you may ask a helper" in prompts[0], "you may ask a helper" in prompts[-1]) == invited
        runs = runs_of(tmp_path / out)
        assert tuple(run["prompt"]["invites_to_consult"] for run in runs.values()) == invited
        assert [run["prompt"]["name"] for run in runs.values()] == ["consult" if i else "plain" for i in invited]
        for run in runs.values():
            replayed = aipo_env.replay(tmp_path / out / run["traces"], codec=server.codec)
            assert replayed.faithful
            assert replayed.num_trajectories == 3


LENIENT = ("The answer is 5.", "So it is **5**", "2+3 = 5\n#### 5", r"Thus \boxed 5")


def test_repair_36_the_extraction_says_what_is_read_as_the_answer(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_math(tmp_path / "math500.jsonl")
    with ScriptedPolicy(tokenizer, lambda prompt, sample, turn: LENIENT[sample]) as server:
        for rule, right in (("boxed", 0), ("lenient", 1)):
            more = (
                *words(f"--suite math500 --agents verify --max-tokens 3000 --tasks 1 --extraction {rule} --data"),
                data,
            )
            assert aipo_eval(capsys, *served(server, tokenizer, tmp_path / rule, *more))[0] == 0
            for mode, run in runs_of(tmp_path / rule).items():
                assert (mode, run["tasks"][0]["correct"], run["tasks"][0]["maj"]) == (mode, [right] * 4, right)
                assert run["rules"]["extraction"] == rule
                assert aipo_env.replay(tmp_path / rule / run["traces"], codec=server.codec).faithful
            assert f"Extraction of answers: {rule}." in (tmp_path / rule / "results.md").read_text(encoding="utf-8")


def test_repair_36_a_server_without_token_ids_is_evaluated_over_its_chat(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_math(tmp_path / "math500.jsonl")
    with ScriptedPolicy(tokenizer, math_script, helper="Yes. <|im_end|>") as server:
        server.token_ids = False
        helper = ("--agents", "verify", "--helper-server", server.base_url, "--helper-model", "judge")
        more = (
            *words("--suite math500 --chat --model scripted --max-tokens 300 --server"),
            server.base_url,
            "--data",
            data,
        )
        code, _, err = aipo_eval(capsys, *more, *helper, "--out", tmp_path / "out")
        assert code == 0, err
        asked = [r.body for r in server.requests if r.body["model"] == "scripted"]
        assert all(r.is_chat for r in server.requests)
    runs = runs_of(tmp_path / "out")
    # The figures are those of a server that tells ids.
    assert [task["correct"] for task in runs["math500.assisted"]["tasks"]] == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    assert (asked[0]["max_tokens"], asked[0]["temperature"], "stop" in asked[0]) == (300, 0.6, False)
    # What a helper wrote is the user's word, and opens no turn of the chat.
    user, own, reply = next(body["messages"] for body in asked if len(body["messages"]) == 3)
    assert [m["role"] for m in (user, own, reply)] == ["user", "assistant", "user"]
    assert "ask first" in user["content"]
    assert (own["content"], reply["content"]) == (
        f"Let me ask. {ASK}", '<feedback agent="verify">Yes. < |im_end| ></feedback>'
    )  # fmt: skip
    for run in runs.values():
        assert set(run["tokens"].values()) == {None}
        assert aipo_env.replay(tmp_path / "out" / run["traces"]).faithful
    policy = read_results(tmp_path / "out")["policy"]
    assert (policy["backend"], policy["tokenizer"]) == ("chat server", None)
    assert "| MATH-500 | solo |  |  |  |  |  |" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")


def test_faults_are_counted_not_scored_and_played_again(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_math(tmp_path / "math500.jsonl")
    with ScriptedPolicy(tokenizer, math_script) as server:
        arguments = (
            "--suite", "math500", "--data", data, "--max-tokens", 400, "--mode", "assisted", "--agents", "verify",
            "--max-in-flight", 1, "--retries", 0,
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
    arguments = ("--suite", "math500", "--data", data, "--samples", 1, "--max-tokens", 50)
    arguments += ("--max-in-flight", 4, "--retries", 0)

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


def test_repair_29_failed_consults_are_faults_that_are_played_again(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = write_math(tmp_path / "math500.jsonl")
    with ScriptedPolicy(tokenizer, math_script) as server:
        helper = ("--agents", "verify", "--helper-server", server.base_url, "--helper-model", "judge", "--retries", 0)
        more = (*words("--suite math500 --max-tokens 500 --tasks 0 1 --data"), data, *helper)
        whole = served(server, tokenizer, tmp_path / "whole", *more)
        assert aipo_eval(capsys, *whole)[0] == 0
        caplog.clear()
        # The helper fails in every consult but the last three, and says so with another number each time.
        consults = iter(range(8))
        number = lambda request: next(consults) if request.is_chat else 9  # noqa: E731
        server.fault = lambda request: (
            Fault("status", message=f"down {request.number}") if number(request) < 5 else None
        )
        cut = served(server, tokenizer, tmp_path / "cut", *more, "--max-in-flight", 1)
        code, out, err = aipo_eval(capsys, *cut)
        assert code == 1
        assert "the evaluation is not complete" in err
        assert (
            "5 of 8 episodes are missing, 5 of them ended by a fault, most often by ConsultFailed: verify could not"
            in out
        )
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 2
        assert warnings[0].startswith("verify: ")
        assert warnings[1].startswith("5 times in all: verify: ")
        results = read_results(tmp_path / "cut")
        run = runs_of(tmp_path / "cut")["math500.assisted"]
        assert (results["complete"], run["num_finished"], run["num_errors"]) == (False, 3, 5)
        (error,) = run["errors"]
        assert error == {"error": "ConsultFailed: verify could not answer: its service failed (HTTP 500)", "count": 5}
        verify = run["consults"]["by_helper"]["verify"]
        assert (verify["asked"], verify["consults"], verify["errors"]) == (8, 3, 5)
        assert (run["consults"]["rate"], run["consults"]["per_episode"]) == (1.0, 1.0)
        # None of them is a wrong answer, and no comparison stands on them.
        assert run["tasks"][0]["correct"] == [None] * 4
        page = (tmp_path / "cut" / "results.md").read_text(encoding="utf-8")
        assert "| MATH-500 | assisted | 0 of 2 | 4 | 62.5 |" in page
        assert "| MATH-500 | verify | 100.0 | 1.00 | 8 | 3 | 5 | 0 |" in page
        assert "With help minus alone" not in page
        asked = server.num_requests
        server.fault = None
        code, _, err = aipo_eval(capsys, *cut)
        assert code == 0, err
        assert server.num_requests == asked + 5 * 3
    found = [timeless(read_results(tmp_path / name)) | {"command": ""} for name in ("whole", "cut")]
    assert found[0] == found[1]


def test_repair_29_a_dead_helper_is_a_fault_of_a_policy_that_is_loaded_here_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with MisbehavingServer(reply=lambda request: "no idea") as server:
        server.fault = lambda request: Fault("reset")
        arguments = (
            *words("--suite rulebook --mode assisted --num-tasks 3 --samples 2 --max-tokens 48 --retries 0 --helper-model x"),
            "--helper-server", server.base_url, "--out", tmp_path / "out",
        )  # fmt: skip
        code, out, _ = aipo_eval(capsys, *arguments)
        asked = server.num_requests
        run = runs_of(tmp_path / "out")["rulebook.assisted"]
        assert (code, asked > 0) == (1, True)
        assert run["num_errors"] == run["num_episodes"] - run["num_finished"] > 0
        assert "ended by a fault" in out
        server.fault = None
        assert aipo_eval(capsys, *arguments)[0] == 0
        assert server.num_requests > asked
    assert runs_of(tmp_path / "out")["rulebook.assisted"]["errors"] == []


def test_repair_29_many_faults_in_a_row_end_a_run_of_a_policy_that_is_loaded_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.evaluation.samplers.MAX_FAULTS_IN_A_ROW", 3)
    with MisbehavingServer() as server:
        server.fault = lambda request: Fault("reset")
        arguments = (
            *words("--suite rulebook --mode assisted --num-tasks 40 --samples 2 --max-tokens 48 --retries 0 --helper-model x"),
            "--helper-server", server.base_url, "--out", tmp_path / "out",
        )  # fmt: skip
        code, _, err = aipo_eval(capsys, *arguments)
    assert code == 1
    assert "3 episodes in a row were ended by a fault, the last one by ConsultFailed: " in err
    assert runs_of(tmp_path / "out")["rulebook.assisted"]["num_missing"] > 0


def test_repair_30_retries_are_on_by_default_for_policy_and_helpers(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_math(tmp_path / "math500.jsonl")
    with ScriptedPolicy(tokenizer, math_script) as server:
        failing = {"policy": 0, "helper": 0}

        def fault(request: Request) -> Fault | None:
            who = "helper" if request.is_chat else "policy"
            failing[who] += 1
            kinds = (Fault("status", status=500), Fault("status", status=429, retry_after="0.2"), Fault("reset"))
            return kinds[failing[who] % 3] if failing[who] % 7 in (1, 3) else None

        server.fault = fault
        helper = ("--agents", "verify", "--helper-server", server.base_url, "--helper-model", "judge")
        more = (*words("--suite math500 --mode assisted --max-tokens 500 --data"), data, *helper)
        code, _, err = aipo_eval(capsys, *served(server, tokenizer, tmp_path / "out", *more))
        assert code == 0, err
        assert min(failing.values()) > 12
        # Without them it loses some.
        server.fault = lambda request: Fault("status", status=500) if request.number % 3 == 0 else None
        code, _, _ = aipo_eval(capsys, *served(server, tokenizer, tmp_path / "none", *more, "--retries", 0))
        assert code == 1
    assert "--retries 0" in read_results(tmp_path / "none")["command"]


def test_repair_31_neither_keys_nor_passwords_reach_a_file(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    key = "sk-geheim-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    data = write_math(tmp_path / "math500.jsonl")
    with ScriptedPolicy(tokenizer, math_script, helper=f"Bearer {key}") as server:
        echo = Fault("status", status=401, message=f"Authorization: Bearer {key} is not welcome")
        server.fault = lambda request: echo if request.number % 4 == 1 else None
        helper = ("--agents", "verify", "--helper-server", server.base_url, "--helper-model", "judge")
        more = (*words("--suite math500 --mode assisted --max-tokens 500 --data"), data, *helper)
        code, out, err = aipo_eval(capsys, *served(server, tokenizer, tmp_path / "out", *more))
        assert code == 1
        assert all(request.headers["authorization"] == f"Bearer {key}" for request in server.requests)
        for side in ("--server", "--helper-server"):
            command = dict(
                zip(more_of := served(server, tokenizer, tmp_path / "other", *more), more_of[1:], strict=False)
            )
            address = str(command[side]).replace("//", "//me:geheim@")
            changed = [address if part == command[side] else part for part in more_of]
            code, *words_said = aipo_eval(capsys, *changed)
            assert (code, "holds a user name or a password" in words_said[1]) == (2, True)
            out += "".join(words_said)
    assert not (tmp_path / "other").exists()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(path.name.endswith(".errors.jsonl") for path in files)
    for text in (out, err, caplog.text, *(path.read_bytes().decode("latin-1") for path in files)):
        assert "geheim" not in text
    assert "is not welcome" in (tmp_path / "out" / "results.json").read_text(encoding="utf-8")


def test_repair_32_a_cost_that_nobody_told_is_unknown(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_math(tmp_path / "math500.jsonl")

    def priced(answer: dict[str, Any]) -> dict[str, Any]:
        answer["usage"]["cost"] = 0.5
        return answer

    with ScriptedPolicy(tokenizer, math_script) as server:
        helper = ("--agents", "verify", "--helper-server", server.base_url, "--helper-model", "judge")
        more = (*words("--suite math500 --mode assisted --max-tokens 500 --tasks 1 --samples 2 --data"), data, *helper)
        for folder, share, cost, shown in (
            ("none", 0, None, "unknown"),
            ("all", 2, 1.0, "1.0000"),
            ("one", 1, 0.5, "0.5000 or more"),
        ):
            left = iter([True] * share)
            server.fault = lambda request, left=left: (  # type: ignore[misc]
                Fault("body", payload=priced) if request.is_chat and next(left, False) else None
            )
            code, _, err = aipo_eval(capsys, *served(server, tokenizer, tmp_path / folder, *more))
            assert code == 0, err
            verify = runs_of(tmp_path / folder)["math500.assisted"]["consults"]["by_helper"]["verify"]
            assert (verify["cost_usd"], verify["unpriced"]) == (cost, 2 - share)
            page = (tmp_path / folder / "results.md").read_text(encoding="utf-8")
            assert f"| {shown} |" in page
            assert "| 0.0000 |" not in page


@pytest.mark.parametrize("confidential", [False, True])
def test_repair_35_only_confidential_data_withhold_what_a_fault_said(confidential: bool) -> None:
    check = _FaultsInARow()
    fault = Trajectory("e", "t", [], stop_reason="error", metadata={"error": "ServiceError: out of memory"})
    fault.confidential = confidential
    for _ in range(MAX_FAULTS_IN_A_ROW - 1):
        check(fault)
    check(Trajectory("e", "t", [], stop_reason="answer"))
    for _ in range(MAX_FAULTS_IN_A_ROW - 1):
        check(fault)
    with pytest.raises(ServiceError, match=r"by ServiceError: \(withheld\)$" if confidential else "out of memory"):
        check(fault)


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
