"""Logs of Inspect: read back by its own reader, their numbers are those of results.json and their texts those of the traces."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import statistics
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from aipo_env.errors import MissingDependencyError
from aipo_env.trajectory import Source, Trajectory, read_traces
from algorithms.train_config import TrainConfig
from benchmarks.evaluation import EvaluationConfig, evaluate_policy
from tests.benchmarks.evaluation.running import aipo_eval, runs_of, timeless, write_rows
from tests.benchmarks.evaluation.scripted import ScriptedPolicy, save_byte_tokenizer
from tests.benchmarks.evaluation.test_gpqa import LETTERS, QUESTIONS, SECRET, arguments, script
from tests.misbehaving_server import Fault

needs_inspect = pytest.mark.skipif(
    importlib.util.find_spec("inspect_ai") is None, reason="inspect-ai is not installed: pip install -e '.[inspect]'"
)
TASKS, SAMPLES = 6, 4


def config_of(folder: Path, **more: Any) -> EvaluationConfig:
    options: dict[str, Any] = {
        "num_tasks": TASKS,
        "samples": SAMPLES,
        "max_tokens": 48,
        "seed": 5,
        "out": folder / "out",
    }
    return EvaluationConfig("rulebook", **options | more)


def read(folder: Path, name: str) -> Any:
    from inspect_ai.log import read_eval_log

    return read_eval_log(folder / "logs" / f"{name}.eval")


def episodes(folder: Path, name: str) -> dict[tuple[str, int], Trajectory]:
    """The traces by what Inspect calls id and epoch."""
    return {(t.task_id, t.sample + 1): t for t in read_traces(folder / "out" / "traces" / f"{name}.jsonl")}


def check_numbers(log: Any, run: dict[str, Any]) -> None:
    """Inspect's aggregates are ours; its standard error is that of the mean over tasks."""
    found = {score.reducer: {name: m.value for name, m in score.metrics.items()} for score in log.results.scores}
    metrics = run["metrics"]
    ours = {f"pass_at_{row['k']}": row["estimate"] for row in metrics["pass_at_k"] if row["k"] > 1}
    ours["mean"] = metrics["avg_at_n"]["estimate"]
    # Of one sample a task Inspect names no reducer.
    found = {reducer or "mean": values for reducer, values in found.items()}
    assert {reducer: values["accuracy"] for reducer, values in found.items()} == pytest.approx(ours)
    rates = [t["num_correct"] / t["num_samples"] for t in run["tasks"] if t["num_samples"] == run["num_samples"]]
    if len(rates) > 1:
        assert found["mean"]["stderr"] == pytest.approx(statistics.stdev(rates) / math.sqrt(len(rates)))
    assert log.results.total_samples == run["num_episodes"]
    assert log.results.completed_samples == run["num_finished"]
    verdicts = {(sample.id, sample.epoch): sample.scores["verdict"].value for sample in log.samples if sample.scores}
    assert verdicts == {
        (task["id"], epoch): "IC"[right]
        for task in run["tasks"]
        for epoch, right in enumerate(task["correct"], start=1)
        if right is not None
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that was finished before anybody asked for logs."""
    folder = tmp_path_factory.mktemp("inspect")
    done = evaluate_policy(config_of(folder))
    traces = {path.name: path.read_bytes() for path in (folder / "out" / "traces").glob("*.jsonl")}
    again = evaluate_policy(config_of(folder, inspect=folder / "logs"))
    assert traces == {path.name: path.read_bytes() for path in (folder / "out" / "traces").glob("*.jsonl")}
    first, second = timeless(done.results), timeless(again.results)
    assert "--inspect" in second.pop("command")
    assert "--inspect" not in first.pop("command")
    assert first == second
    return folder


@needs_inspect
@pytest.mark.parametrize("mode", ["solo", "assisted"])
def test_numbers_and_texts_are_ours(folder: Path, mode: str) -> None:
    log, run = read(folder, f"rulebook.{mode}"), runs_of(folder / "out")[f"rulebook.{mode}"]
    assert sorted(path.name for path in (folder / "logs").iterdir()) == ["rulebook.assisted.eval", "rulebook.solo.eval"]
    assert (log.status, log.eval.task, log.eval.model, log.eval.tags) == ("success", "rulebook", "embedded", [mode])
    assert log.eval.model_generate_config.temperature == run["sampling"]["temperature"]
    assert set(log.eval.model_roles) == ({"verify", "knowledge", "reasoning"} if mode == "assisted" else set())
    check_numbers(log, run)
    total = log.stats.model_usage["embedded"]
    assert (total.output_tokens, total.total_tokens) == (
        run["tokens"]["policy"],
        sum(run["tokens"][source] for source in ("prompt", "policy", "agent", "template")),
    )
    assert total.input_tokens == total.total_tokens - total.output_tokens
    played, rows = episodes(folder, f"rulebook.{mode}"), {task["id"]: task for task in run["tasks"]}
    asked = 0
    for sample in log.samples:
        trace = played.pop((sample.id, sample.epoch))
        assert sample.input == sample.messages[0].content == trace.segments[0].text
        assert sample.target == trace.metadata["expression"] or sample.target.isdigit()
        wrote = [m.content for m in sample.messages if m.role == "assistant"]
        assert wrote == [s.text for s in trace.segments if s.source is Source.POLICY]
        assert sample.output.completion == wrote[-1]
        calls = [call for m in sample.messages if m.role == "assistant" for call in m.tool_calls or ()]
        assert [f'<consult agent="{c.function}">{c.arguments["query"]}</consult>' for c in calls] == [
            text for text in wrote if mode == "assisted" and text.startswith("<consult")
        ]
        tools = [m for m in sample.messages if m.role == "tool"]
        assert [f'<feedback agent="{m.function}">{m.content}</feedback>' for m in tools] == [
            s.text for s in trace.segments if s.source is Source.AGENT
        ]
        assert [m.tool_call_id for m in tools] == [call.id for call in calls]
        asked += len(calls)
        kinds = [event.event for event in sample.events]
        assert kinds == ["model", *["tool", "info", "model"] * len(calls), "score"]
        info = [event.data for event in sample.events if event.event == "info"]
        assert [(i["agent"], i["tokens"], i["mu_known"]) for i in info] == [
            (s.agent, len(s.token_ids), False) for s in trace.segments if s.source is Source.AGENT
        ]
        assert sample.scores["verdict"].answer == trace.metadata["evaluation"]["answer"]  # type: ignore[index]
        keys = ("doc_id", "prompt_hash")
        assert {key: sample.metadata[key] for key in keys} == {key: rows[sample.id][key] for key in keys}
    assert played == {}
    assert (asked > 0) == (mode == "assisted")


@needs_inspect
def test_what_the_policy_writes_in_a_helpers_place_is_told_from_a_reply(tmp_path: Path) -> None:
    evaluate_policy(config_of(tmp_path, mode="self-help", samples=2, inspect=tmp_path / "logs"))
    log = read(tmp_path, "rulebook.self-help")
    check_numbers(log, runs_of(tmp_path / "out")["rulebook.self-help"])
    sources = [event.data["source"] for sample in log.samples for event in sample.events if event.event == "info"]
    assert sources
    assert set(sources) == {"policy"}
    assert not any("feedback" in m.content for s in log.samples for m in s.messages if m.role == "tool")


@needs_inspect
def test_coefficients_of_the_run_that_made_the_policy(tmp_path: Path) -> None:
    from algorithms.policies import load_policy

    load_policy("embedded").save(tmp_path / "run" / "policy")
    training = dataclasses.asdict(TrainConfig(env="rulebook-consult"))
    (tmp_path / "run" / "config.json").write_text(json.dumps(training, default=str))
    noted = {"trained_on": {"env": "rulebook-consult"}, "before": None}
    (tmp_path / "run" / "policy" / "training_data.json").write_text(json.dumps(noted))
    options = {"env_options": {"prompt": "bare", "style": "terse"}, "policy": str(tmp_path / "run" / "policy")}
    evaluate_policy(config_of(tmp_path, mode="assisted", **options))
    # One reply of a helper that told its own probabilities.
    path = tmp_path / "out" / "traces" / "rulebook.assisted.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    known = next(s for line in lines for s in line["segments"] if s["source"] == "agent")
    known |= {"mu_known": True, "logprobs": [-0.5] * len(known["token_ids"])}
    write_rows(path, lines)
    evaluate_policy(config_of(tmp_path, mode="assisted", inspect=tmp_path / "logs", **options))
    log = read(tmp_path, "rulebook.assisted")
    assert log.eval.metadata["trained_on"] == noted
    found = [(s.scores["verdict"].value, e.data) for s in log.samples for e in s.events if e.event == "info"]
    told = {(value, data["mu_known"]): data for value, data in found}
    # mu = 1: the floor holds a right reply's weight at 1, a wrong one's is the policy's own probability.
    assert told["C", False]["coefficient"] == {"low": 1.0, "high": 1.0, "advantage": 1.0}
    if ("I", False) in told:
        assert told["I", False]["coefficient"] == {"low": 0.0, "high": 1.0, "advantage": -1.0}
    (measured,) = [data for _, data in found if data["mu_known"]]
    assert measured["mean_log_mu"] == -0.5
    assert measured["coefficient"]["high"] == pytest.approx(math.exp(0.5))


@needs_inspect
def test_a_confidential_log_holds_no_text_and_a_fault_is_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "private" / "gpqa_diamond.jsonl", QUESTIONS)  # type: ignore[arg-type]
    tokenizer, logs = save_byte_tokenizer(tmp_path / "tokenizer"), tmp_path / "logs"
    with ScriptedPolicy(tokenizer, script, helper="zyxhelper says zyxquestion is fine") as server:
        server.fault = lambda request: (
            Fault("status", status=400, message="cannot serve zyxquestion0") if request.number in (0, 2) else None
        )
        command = arguments(server, tokenizer, data, tmp_path / "out", "--mode", "assisted", "--max-in-flight", 1)
        code, *_ = aipo_eval(capsys, *command, "--inspect", logs)
        assert code == 1
        log, run = read(tmp_path, "gpqa-diamond.assisted"), runs_of(tmp_path / "out")["gpqa-diamond.assisted"]
        faulted = [sample for sample in log.samples if sample.error]
        assert (log.status, len(faulted), [sample.scores for sample in faulted]) == ("cancelled", 2, [{}, {}])
        assert (log.results.completed_samples, log.results.total_samples, len(log.samples)) == (10, 12, 12)
        check_numbers(log, run)
        server.fault = None
        code, *_ = aipo_eval(capsys, *command, "--inspect", logs)
        assert code == 0
    log, run = read(tmp_path, "gpqa-diamond.assisted"), runs_of(tmp_path / "out")["gpqa-diamond.assisted"]
    assert (log.status, [sample.error for sample in log.samples]) == ("success", [None] * 12)
    check_numbers(log, run)
    with zipfile.ZipFile(logs / "gpqa-diamond.assisted.eval") as archive:
        assert not [name for name in archive.namelist() if SECRET.encode() in archive.read(name)]
    sample = log.samples[0]
    assert sample.input.startswith("(withheld")
    assert sample.target.startswith("(withheld")
    assert sample.scores["verdict"].answer in LETTERS
    assert [(m.role, m.content.startswith("(withheld: ")) for m in sample.messages] == [
        ("user", True), ("assistant", True), ("tool", True), ("assistant", True),
    ]  # fmt: skip
    assert [(c.function, c.arguments) for c in sample.messages[1].tool_calls] == [("verify", {})]
    assert log.stats.role_usage["verify"].total_tokens > 0


@needs_inspect
def test_what_has_no_utf8_form_is_written_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_rows(tmp_path / "math500.jsonl", [{"problem": "1 + 1?", "answer": "2"}])
    with ScriptedPolicy(save_byte_tokenizer(tmp_path / "tokenizer"), lambda *_: "\ud800 \\boxed{2}") as server:
        code, _, errors = aipo_eval(
            capsys, "--suite", "math500", "--data", data, "--mode", "solo", "--samples", 1, "--out", tmp_path / "out",
            "--server", server.base_url, "--model", "scripted", "--chat", "--inspect", tmp_path / "logs",
        )  # fmt: skip
    assert code == 0, errors
    log = read(tmp_path, "math500.solo")
    check_numbers(log, runs_of(tmp_path / "out")["math500.solo"])
    assert log.samples[0].messages[-1].content == "\\ud800 \\boxed{2}"
    assert (log.samples[0].model_usage, log.stats.model_usage) == ({}, {})  # a chat counts no tokens


def test_without_the_package_nothing_is_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    with pytest.raises(MissingDependencyError, match=r"--inspect needs the package inspect-ai.*\[inspect\]"):
        evaluate_policy(config_of(tmp_path, inspect=tmp_path / "logs"))
    assert list(tmp_path.iterdir()) == []
