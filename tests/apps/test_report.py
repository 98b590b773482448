"""What the report reads, computes and writes."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from aipo_env import Segment, Source, Trajectory, write_traces
from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from algorithms.apps.html_pages import escape
from algorithms.apps.report import (
    build_page,
    config_differences,
    final_values,
    find_runs,
    read_run,
    to_json,
    to_markdown,
)
from algorithms.apps.report.charts import make_charts, make_histograms, thin, throughput
from algorithms.apps.report.svg import nice_ticks
from algorithms.report_command import report
from tests.apps.viewer.hostile import PAYLOADS, hostile_trajectories


def write_run(folder: Path, steps: int = 20, **config: object) -> Path:
    """A run whose solo accuracy at step s is s / 20."""
    folder.mkdir(parents=True)
    rows = []
    for step in range(1, steps + 1):
        row = {
            "step": step, "rollouts": 8 * step, "seconds": 2.0 * step, "reward": 0.5, "train/solo_accuracy": step / 20,
            "train/consult_rate": 0.5, "train/consult_rate_verify": 0.25, "train/consult_rate_knowledge": 0.375,
            "tokens/policy": 60, "tokens/agent": 30, "tokens/template": 10, "tokens/prompt": 1000,
            "seconds/rollout": 1.5, "seconds/update": 0.5, "policy/entropy": 1.0,
            "agent/coefficient_from/0": 0.25, "agent/coefficient_from/1": 0.75,
        }  # fmt: skip
        rows.append(row | ({"eval/solo_pass1": step / 40} if step % 10 == 0 else {}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = {"out": str(folder), "seed": 0, "objective": {"agent_loss": "aipo", "c_max": 2.0}, "agents": [], **config}
    (folder / "config.json").write_text(json.dumps(whole))
    (folder / "versions.jsonl").write_text('{"step": 0, "torch": "2.9"}\n{"step": 10, "torch": "2.10"}\n')
    return folder


def episode(step: int, sample: int = 0, **values: object) -> Trajectory:
    segments = [Segment(Source.PROMPT, "2+2=", (1,)), Segment(Source.POLICY, f"text {step}", (2, 3), (-0.5, -1.5))]
    return Trajectory("env", f"task {step}", segments, sample=sample, metadata={"step": step}, **values)  # type: ignore[arg-type]


def test_final_values(tmp_path: Path) -> None:
    run = read_run("a", write_run(tmp_path / "a"))
    final = final_values(run)
    assert final["steps"] == 20
    assert final["rollouts"] == 160
    assert final["test accuracy, solo"] == 0.5
    assert final["test accuracy, assisted"] is None
    assert final["rollout accuracy, solo"] == pytest.approx((16 + 17 + 18 + 19 + 20) / 100)
    assert final["tokens per second"] == pytest.approx(100 / 2)
    assert final["minutes"] == pytest.approx(40 / 60)
    assert throughput(run)[0] == (1, 50)


def test_charts_have_the_runs_curves(tmp_path: Path) -> None:
    runs = [read_run(name, write_run(tmp_path / name)) for name in ("a", "b")]
    charts = {chart.title: chart for chart in make_charts(runs)}
    consults = charts["Consult rate"].lines
    assert [(line.run, line.label) for line in consults] == [
        (run, name) for run in (0, 1) for name in ("any", "knowledge", "verify")
    ]
    assert [line.points[0] for line in consults[:3]] == [(1, 0.5), (1, 0.375), (1, 0.25)]
    assert charts["Accuracy on the test tasks"].lines[0].points == [(10, 0.25), (20, 0.5)]
    assert "Gradient norm" not in charts
    (first, second) = make_histograms(runs)
    assert (first.run, second.run) == (0, 1)
    assert first.edges == [0, 1]
    assert first.shares == [[0.25, 0.75]] * 20


def test_what_was_evaluated_before_the_first_step_stands_beside_the_end(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    assert final_values(read_run("a", folder))["test accuracy, solo, at the start"] is None
    metrics = folder / "metrics.jsonl"
    metrics.write_text('{"step": 0, "rollouts": 0, "eval/solo_pass1": 0.125}\n' + metrics.read_text())
    final = final_values(read_run("a", folder))
    assert (final["test accuracy, solo, at the start"], final["test accuracy, solo"]) == (0.125, 0.5)


def test_no_chart_has_more_than_six_curves(tmp_path: Path) -> None:
    runs = [read_run(name, write_run(tmp_path / name)) for name in "abc"]
    charts = {chart.title: chart for chart in make_charts(runs)}
    assert [len(charts[f"Consult rate: {name}"].lines) for name in ("any", "knowledge", "verify")] == [3, 3, 3]
    assert "Consult rate" not in charts
    assert [line.points[0] for line in charts["Consult rate: verify"].lines] == [(1, 0.25)] * 3
    assert len(charts["Accuracy on the test tasks"].lines) == 3
    assert len({chart.title: chart for chart in make_charts(runs[:2])}["Consult rate"].lines) == 6


def test_masked_replies_have_no_coefficients(tmp_path: Path) -> None:
    run = read_run("a", write_run(tmp_path / "a", objective={"agent_loss": "mask"}))
    assert make_histograms([run]) == []
    assert 'id="coefficients"' not in build_page([run])
    assert "#coefficients" not in build_page([run])


def test_long_curves_are_averaged() -> None:
    points = [(float(step), float(step % 2)) for step in range(1000)]
    thinned = thin(points, 100)
    assert len(thinned) == 100
    assert thinned[0] == (4.5, 0.5)
    assert thin(points[:7], 100) == points[:7]
    assert len(thin(points[:101], 100)) == 51


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 0.0), (-3.0, 7.0), (0.0, 1234.5), (0.0, 3e-5), (5.0, 5.0)])
def test_ticks_span_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high * (1 - 1e-9)
    assert 3 <= len(ticks) <= 7


def test_differences_leave_the_folder_out(tmp_path: Path) -> None:
    other = write_run(tmp_path / "b", objective={"agent_loss": "luffy"}, seed=1)
    runs = [read_run("a", write_run(tmp_path / "a")), read_run("b", other)]
    assert config_differences(runs) == {
        "objective.agent_loss": ["aipo", "luffy"],
        "objective.c_max": ["2.0", "-"],
        "seed": ["0", "1"],
    }
    assert "What differs" in build_page(runs)
    assert "| objective.agent\\_loss | aipo | luffy |" in to_markdown(runs)
    assert "resumed after step 10" in build_page(runs)
    assert "Changed meanwhile: torch" in build_page(runs)


def test_transcripts_of_the_first_and_of_the_last_traced_step(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    wrong = [episode(1, sample) for sample in range(3)]
    write_traces(folder / "traces.jsonl", [*wrong, episode(1, 3, verdict="correct"), episode(5), episode(20)])
    run = read_run("a", folder, num_samples=2)
    assert [(t.verdict, t.sample) for t in run.early] == [("correct", 3), ("", 0)]
    assert [t.task_id for t in run.late] == ["task 20"]
    assert read_run("a", folder, num_samples=0).early == []


def test_entropy_of_an_older_run_comes_from_its_traces(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", steps=0)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "policy/entropy": 0.5}\n')
    write_traces(folder / "traces.jsonl", [episode(1), episode(3)])
    assert read_run("a", folder).curve("policy/entropy") == [(1, 1.0), (3, 0.5)]


def test_a_run_that_goes_on_and_one_that_has_not_begun(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", steps=2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    assert [row["step"] for row in read_run("a", folder).rows] == [1, 2]
    (folder / "metrics.jsonl").write_text("")
    run = read_run("a", folder)
    assert "No step is finished yet" in build_page([run])
    assert final_values(run)["steps"] == 0
    assert to_markdown([run])


def test_values_that_are_no_numbers_make_no_point_and_valid_json(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", steps=1)
    (folder / "metrics.jsonl").write_text('{"step": 1, "reward": NaN}\n{"step": 2, "reward": 1}\n')
    run = read_run("a", folder)
    assert run.curve("reward") == [(2, 1)]
    json.dumps(to_json([run]), allow_nan=False)


def test_folders_of_runs_and_names(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "demo" / "a"), write_run(tmp_path / "demo" / "b")
    assert find_runs([tmp_path / "demo", a]) == {"a": a, "b": b}
    other = write_run(tmp_path / "other" / "a")
    assert find_runs([a, other]) == {str(a): a, str(other): other}
    with pytest.raises(DataNotFoundError, match=r"gone is not a folder"):
        find_runs([tmp_path / "gone"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFoundError, match=r"empty holds no metrics\.jsonl.*aipo view"):
        find_runs([tmp_path / "empty"])
    with pytest.raises(ConfigurationError, match="name at least one run"):
        find_runs([])


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("metrics.jsonl", '{"step": 1}\n{"reward": 1}\n', "line 2 needs an object of numbers with a 'step'"),
        ("metrics.jsonl", '{"step": 1, "reward": "high"}\n', "line 1 needs"),
        ("metrics.jsonl", '{"step": NaN}\n', "line 1 needs"),
        ("config.json", "[]", "must hold names and values in JSON"),
        ("versions.jsonl", "no JSON\n", "is not a list of versions"),
        ("traces.jsonl", '{"env_id": "e", "task_id": "t", "segments": []}\n', "line 1 needs the training step"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str, expected: str) -> None:
    folder = write_run(tmp_path / "a")
    (folder / name).write_text(text)
    with pytest.raises(DataFormatError, match=rf"{name}.*{expected}"):
        read_run("a", folder)


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, list[dict[str, str | None]]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.setdefault(tag, []).append(dict(attrs))


def hostile_run(folder: Path) -> Path:
    """A run whose every text tries to break out of the page: traces, names of helpers, options, versions."""
    write_run(folder, **{bad: bad for bad in PAYLOADS})
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {f"train/consult_rate_{bad}": 0.1 for bad in PAYLOADS}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "versions.jsonl").write_text(json.dumps({bad: bad for bad in PAYLOADS}) + "\n")
    trajectories = hostile_trajectories()
    for trajectory in trajectories:
        trajectory.metadata["step"] = 1 + trajectory.sample % 2
    write_traces(folder / "traces.jsonl", sorted(trajectories, key=lambda t: int(str(t.metadata["step"]))))
    return folder


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    run = read_run(PAYLOADS[1], hostile_run(tmp_path / "a"), num_samples=len(PAYLOADS))
    page = build_page([run, run])
    tags = Tags(page).found
    assert not tags.keys() & {"script", "img", "iframe", "base", "object", "embed", "link", "form"}
    assert len(tags["style"]) == 1
    assert {a.get("http-equiv") for a in tags["meta"]} == {None, "Content-Security-Policy"}
    assert all(a["href"] in {"#final", "#curves", "#coefficients", "#config", "#samples"} for a in tags["a"])
    assert not [
        name for found in tags.values() for a in found for name in a if name.startswith("on") or name == "style"
    ]
    page.encode()
    assert len(page.split("policy &lt;script&gt;window.owned = 1")) == 3
    to_markdown([run]).encode()
    assert "<script" not in to_markdown([run]).replace("\\<script", "")


def test_where_trackers_show_the_run(tmp_path: Path) -> None:
    where = {
        "wandb": 'https://wandb.ai/me/aipo/runs/1?"><script>', "mine": "javascript:alert(1)", "tensorboard": "tensorboard --logdir a&b",
    }  # fmt: skip
    (write_run(tmp_path / "a") / "trackers.json").write_text(json.dumps(where))
    page = build_page([read_run("a", tmp_path / "a")])
    assert [a["href"] for a in Tags(page).found["a"] if not a["href"].startswith("#")] == [where["wandb"]]
    assert "mine: <code>javascript:alert(1)</code>" in page
    assert "tensorboard: <code>tensorboard --logdir a&amp;b</code>" in page
    assert "script" not in Tags(page).found


def test_escape_keeps_what_can_be_read() -> None:
    assert escape("a<b>\n\t\"'&") == "a&lt;b&gt;\n\t&quot;&#x27;&amp;"
    assert escape("\x00\ud800\x85\rz") == "\ufffd\ufffd\ufffd\ufffdz"


def test_confidential_transcripts_have_no_text(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    secret = episode(1, confidential=True)
    (folder / "traces.jsonl").write_text(json.dumps(secret.to_json()) + "\n")  # as no writer of ours would
    page = build_page([read_run("a", folder)])
    assert "text 1" not in page
    assert "2+2=" not in page
    assert "(withheld: 2 tokens)" in page


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "a")
    assert report((folder,)) == 0
    assert capsys.readouterr().out.startswith(f"{folder / 'report.html'}: 1 run, ")
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert report((folder,), json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["runs"][0]["final"]["steps"] == 20
    assert printed["runs"][0]["curves"]["policy/entropy"][0] == [1, 1.0]
    assert report((folder,), format="markdown") == 0
    assert "| steps | 20 |" in capsys.readouterr().out
    assert report((folder,), format="markdown", out=tmp_path / "x" / "r.md") == 0
    assert (tmp_path / "x" / "r.md").read_text().startswith("# Training report")
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["r.md"]
    for wrong in ({"json": True, "out": tmp_path / "y"}, {"json": True, "open_browser": True}, {"samples": -1}):
        with pytest.raises(ConfigurationError, match=r"--json|--open|--samples"):
            report((folder,), **wrong)  # type: ignore[arg-type]


def test_no_torch_is_imported() -> None:
    code = "import sys, algorithms.report_command, algorithms.trackers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
