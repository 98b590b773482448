"""The whole path with the embedded policy: what the results say is what the traces hold."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from aipo_env.errors import ConfigurationError
from aipo_env.registry import make_tasks
from tests.benchmarks.evaluation.running import aipo_eval, read_results, runs_of

TASKS, SAMPLES = 6, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from benchmarks.evaluation import EvaluationConfig, evaluate_policy

    out = tmp_path_factory.mktemp("rulebook")
    config = EvaluationConfig(
        "rulebook", num_tasks=TASKS, samples=SAMPLES, max_tokens=48, max_in_flight=7, seed=5, out=out
    )
    assert evaluate_policy(config).complete
    return out


def traces(folder: Path, run: dict[str, Any]) -> list[dict[str, Any]]:
    """As plain JSON: nothing of this project reads them here."""
    lines = (folder / run["traces"]).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def said(trace: dict[str, Any]) -> str:
    """What the policy wrote, which it alone is graded for."""
    return "".join(s["text"] for s in trace["segments"] if s["source"] == "policy")


@pytest.mark.parametrize("mode", ["solo", "assisted"])
def test_scores_are_those_of_the_traces(folder: Path, mode: str) -> None:
    run = runs_of(folder)[f"rulebook.{mode}"]
    rows = traces(folder, run)
    assert sorted((t["task_index"], t["sample"]) for t in rows) == list(itertools.product(range(TASKS), range(SAMPLES)))
    tasks = make_tasks("rulebook-consult", split="test", level=2, style="terse")
    right: dict[int, list[bool]] = {index: [False] * SAMPLES for index in range(TASKS)}
    for trace in rows:
        task = tasks.task(trace["task_index"])
        assert (trace["task_id"], trace["segments"][0]["text"], trace["assisted"]) == (
            task.id,
            task.problem,
            mode == "assisted",
        )
        right[trace["task_index"]][trace["sample"]] = said(trace).endswith(f"\\boxed{{{task.gold}}}")
    assert [task["correct"] for task in run["tasks"]] == [[int(r) for r in right[i]] for i in range(TASKS)]
    assert [(task["id"], task["index"]) for task in run["tasks"]] == [(tasks.task(i).id, i) for i in range(TASKS)]
    solved = [sum(right[i]) for i in range(TASKS)]
    scores = run["metrics"]
    assert scores["avg_at_n"]["n"] == SAMPLES
    assert scores["avg_at_n"]["estimate"] == pytest.approx(sum(solved) / (TASKS * SAMPLES))
    assert scores["avg_at_n"]["low"] <= scores["avg_at_n"]["estimate"] <= scores["avg_at_n"]["high"]
    # pass@k by going through all subsets.
    for row in scores["pass_at_k"]:
        subsets = [any(s) for r in right.values() for s in itertools.combinations(r, row["k"])]
        assert row["estimate"] == pytest.approx(sum(subsets) / len(subsets))
    assert [row["k"] for row in scores["pass_at_k"]] == [1, 2, 4, 5]
    # maj@n of all samples: the votes of texts, as the answers are digit strings.
    expected = []
    for index in range(TASKS):
        votes: dict[str, int] = {}
        for trace in rows:
            if trace["task_index"] == index and trace["stop_reason"] == "answer":
                answer = said(trace).rsplit("\\boxed{", 1)[1].split("}")[0]
                votes[answer] = votes.get(answer, 0) + 1
        winners = [answer for answer in votes if votes[answer] == max(votes.values())]
        expected.append(winners.count(tasks.task(index).gold) / len(winners) if winners else 0.0)
    assert [task["maj"] for task in run["tasks"]] == pytest.approx(expected)
    assert scores["maj_at_n"][-1]["estimate"] == pytest.approx(sum(expected) / TASKS)
    assert run["complete"] is True
    assert (run["num_finished"], run["num_errors"], run["num_missing"]) == (TASKS * SAMPLES, 0, 0)


def test_help_helps_the_embedded_policy_and_is_counted(folder: Path) -> None:
    runs = runs_of(folder)
    solo, assisted = runs["rulebook.solo"], runs["rulebook.assisted"]
    assert solo["consults"] is None
    assert all(s["source"] != "agent" for t in traces(folder, solo) for s in t["segments"])
    rows = traces(folder, assisted)
    asked = [[s["agent"] for s in t["segments"] if s["source"] == "agent"] for t in rows]
    assert sum(map(len, asked)) > 0
    consults = assisted["consults"]
    assert consults["rate"] == pytest.approx(sum(map(bool, asked)) / len(rows))
    assert consults["per_episode"] == pytest.approx(sum(map(len, asked)) / len(rows))
    for helper, counted in consults["by_helper"].items():
        assert counted["consults"] == sum(names.count(helper) for names in asked)
        assert counted["rate"] == pytest.approx(sum(helper in names for names in asked) / len(rows))
        # The embedded helpers take no tokens, and say nothing of what they took.
        assert (counted["unmetered"], counted["cost_usd"]) == (counted["consults"] + counted["errors"], 0)
    assert assisted["metrics"]["avg_at_n"]["estimate"] > solo["metrics"]["avg_at_n"]["estimate"]


@pytest.mark.parametrize("mode", ["solo", "assisted"])
def test_tokens_rates_and_reasons_are_counted(folder: Path, mode: str) -> None:
    run = runs_of(folder)[f"rulebook.{mode}"]
    rows = traces(folder, run)
    for source in ("prompt", "policy", "agent", "template"):
        count = sum(len(s.get("token_ids", [])) for t in rows for s in t["segments"] if s["source"] == source)
        assert run["tokens"][source] == count
    assert run["tokens"]["policy_per_episode"] == pytest.approx(run["tokens"]["policy"] / len(rows))
    reasons = [t["stop_reason"] for t in rows]
    assert run["stop_reasons"] == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    assert run["rates"]["truncated"] == pytest.approx(sum(r in ("length", "max_chars") for r in reasons) / len(rows))
    assert run["rates"]["no_answer"] == pytest.approx(sum(r in ("no_answer", "max_turns") for r in reasons) / len(rows))
    assert run["rates"]["correct"] == pytest.approx(sum(t["verdict"] == "correct" for t in rows) / len(rows))


def test_the_results_say_what_is_needed_to_repeat_them(folder: Path) -> None:
    results = read_results(folder)
    assert (results["format"], results["kind"], results["complete"], results["seed"]) == (1, "aipo-evaluation", True, 5)
    assert results["policy"]["backend"] == "transformers"
    assert results["policy"]["weights"].startswith("parameters:")
    assert {"python", "aipo-rl", "torch", "transformers"} <= results["versions"].keys()
    assert results["command"] == (
        f"aipo eval --suite rulebook --out {folder} --samples 5 --max-tokens 48 --seed 5 --num-tasks 6 --max-in-flight 7"
    )
    for run in results["runs"]:
        assert run["sampling"] == {
            "temperature": 1.0, "top_p": 1.0, "max_tokens": 48, "context": 512, "greedy": False,
        }  # fmt: skip
        # The embedded policy reads bare problems; the prompt that was used is named.
        assert run["prompt"] == {"name": "bare", "invites_to_consult": False, "template": "{problem}"}
        assert run["env_options"] == {"split": "test", "level": 2, "style": "terse", "prompt": "bare"}
        assert run["helpers"]["verify"]["agent"] == "aipo_agents.verify:VerifyAgent"
        assert run["defaults"]["samples"] == 16
    assert (folder / "results.md").read_text(encoding="utf-8").count("Rulebook") >= 1
    assert list(folder.glob("*.png"))


def test_the_traces_can_be_played_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from aipo_env.cli import main

    assert main(["replay", str(folder / "traces" / "rulebook.assisted.jsonl")]) == 0
    assert f"{TASKS * SAMPLES} episodes, all as recorded" in capsys.readouterr().out


def test_another_seed_and_another_prompt_change_what_is_sampled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--suite", "rulebook", "--num-tasks", 4, "--samples", 4, "--max-tokens", 40, "--mode", "assisted")
    texts = {}
    for name, more in {
        "same": (), "again": (), "seed": ("--seed", 1), "batch": ("--max-in-flight", 5), "hot": ("--temperature", 2.0),
        "top": ("--top-p", 0.8), "prompt": ("--prompt", "plain"), "context": ("--context", 14),
        "options": ("--env-options", "rulebook.level", 3), "tasks": ("--env-options", "split", "train"),
    }.items():  # fmt: skip
        code, _, err = aipo_eval(capsys, *common, *more, "--out", tmp_path / name)
        assert code == 0, err
        (run,) = read_results(tmp_path / name)["runs"]
        found = sorted(traces(tmp_path / name, run), key=lambda t: (t["task_index"], t["sample"]))
        texts[name] = [t["segments"] for t in found]
        if name == "prompt":
            assert run["prompt"]["name"] == "plain"
            assert "Solve the problem" in texts[name][0][0]["text"]
        if name == "context":
            # 9 tokens of prompt leave 5.
            assert run["rates"]["truncated"] == 1.0
            assert max(sum(len(s["token_ids"]) for s in t) for t in texts[name]) == 14
    # What runs at the same time changes nothing.
    assert texts["same"] == texts["again"] == texts["batch"]
    different = [json.dumps(t) for name, t in texts.items() if name not in ("again", "batch")]
    assert len(set(different)) == len(different)


def test_a_policy_and_helpers_that_are_in_memory(tmp_path: Path) -> None:
    from benchmarks.evaluation import EvaluationConfig, evaluate_policy
    from tests.algorithms.tiny import tiny_policy

    config = EvaluationConfig(
        "rulebook", num_tasks=3, samples=2, max_tokens=12, prompt="{problem}{agents}", out=tmp_path / "out"
    )
    evaluation = evaluate_policy(config, policy=tiny_policy(), agents={"shout": str.upper})
    assert evaluation.complete
    assert evaluation.folder == tmp_path / "out"
    runs: Any = evaluation.results["runs"]
    assert runs == read_results(tmp_path / "out")["runs"]
    assert list(runs[0]["helpers"]) == ["shout"]
    assert (runs[0]["prompt"]["name"], runs[0]["prompt"]["invites_to_consult"]) == ("custom", True)
    assert '<consult agent="shout">' in traces(tmp_path / "out", runs[0])[0]["segments"][0]["text"]
    served = EvaluationConfig("rulebook", server="http://localhost:1/v1", model="m", out=tmp_path / "other")
    with pytest.raises(ConfigurationError, match="leave out --server"):
        evaluate_policy(served, policy=tiny_policy())
