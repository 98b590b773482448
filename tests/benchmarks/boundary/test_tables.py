from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.boundary import tables
from benchmarks.boundary.design import RunSpec
from benchmarks.boundary.runs import RunResult
from benchmarks.boundary.start_policies import Start
from benchmarks.boundary.write_up import write_up


def result(
    method: str,
    seed: int,
    correct: list[int],
    solo: list[float],
    *,
    table: str = "methods",
    name: str = "",
    **fields: object,
) -> RunResult:
    """A run of 4 samples a problem, whose solo accuracy was watched every five steps, at 100 tokens a step."""
    steps = 5 * (len(solo) - 1)
    spec = RunSpec(table, name or method, method=method, seed=seed, eval_samples=4, steps=steps, **fields)  # type: ignore[arg-type]
    curve = [
        {
            "step": 5 * i,
            "rollouts": 1280 * i,
            "trained_tokens": 1000 * i,
            "consults": 5 * i,
            "helper_tokens": 2000 * i,
            "cpu_seconds": 7.0 * i,
            "solo": value,
        }
        for i, value in enumerate(solo)
    ]
    row = json.loads(json.dumps(dataclasses.asdict(spec)))
    return RunResult(spec.id, row, correct, {"0.6": 0.8, "0": 0.95}, 0.9, {"known": 0.25}, curve, 1800.0, "cpu")


RESULTS = [
    result("aipo", 0, [4, 4, 2, 0], [0.0, 0.25, 0.75]),
    result("aipo", 1, [4, 2, 2, 0], [0.0, 0.0, 0.6]),
    result("mask", 0, [0, 0, 0, 1], [0.0, 0.0, 0.0]),
    result("rft", 0, [4, 4, 4, 0], [0.0, 0.5, 1.0]),
    result("aipo", 0, [2, 2, 2, 2], [0.0, 0.2, 0.6], name="aipo 60%", noise=0.6),
    result("clone", 100, [1, 0, 0, 0], [0.0, 0.0, 0.1], table="tuning", name="a", objective={"agent_weight": 0.5}),
    result("clone", 100, [4, 0, 0, 0], [0.0, 0.0, 0.4], table="tuning", name="b", train={"learning_rate": 6e-4}),
    result("aipo", 0, [1, 0, 0, 0], [0.0, 0.0, 0.1], table="parts", name="c_min 0.1", objective={"c_min": 0.1}),
    result("aipo", 0, [4, 4, 4, 4], [0.0, 0.5, 0.9], table="cells", name="x", architecture="qwen3", algorithm="grpo"),
]  # fmt: skip


def cell(table: str, method: str, noise: float = 0.0) -> tables.Cell:
    return next(c for c in tables.cells(RESULTS) if (c.table, c.method, c.noise) == (table, method, noise))


def test_seeds_are_grouped_and_averaged() -> None:
    aipo = cell("methods", "aipo")
    assert [r.spec["seed"] for r in aipo.runs] == [0, 1]
    assert aipo.solo_by_seed() == [10 / 16, 8 / 16]
    assert aipo.solo().estimate == pytest.approx(18 / 32)
    # Of two samples at least one: 1, 1, 5/6, 0 and 1, 5/6, 5/6, 0.
    assert aipo.solo(2).estimate == pytest.approx((17 / 6 + 16 / 6) / 8)
    assert aipo.solo().low < 18 / 32 < aipo.solo().high


def test_the_transition() -> None:
    aipo = cell("methods", "aipo")
    assert aipo.until_half("step") == pytest.approx([7.5, 5 + 5 * 5 / 6])
    assert aipo.until_half("trained_tokens") == pytest.approx([1500.0, 1000 + 1000 * 5 / 6])
    assert cell("methods", "mask").until_half("step") == [None]


def test_rows_for_machines() -> None:
    row = tables.machine_rows(RESULTS)[0]
    assert row["solo_pass_at_k"] == {"1": 0.625, "4": 0.75}
    assert row["until_solo_half"] == {
        "step": 7.5, "trained_tokens": 1500.0, "helper_tokens": 3000.0, "consults": 7.5, "cpu_seconds": 10.5,
    }  # fmt: skip
    assert row["curve"]["solo"] == [0.0, 0.25, 0.75]  # type: ignore[index]
    assert tables.results_of(json.loads(json.dumps(tables.machine_rows(RESULTS)))) == RESULTS


def test_the_summary_takes_medians_and_says_of_how_many_seeds() -> None:
    lines = tables.summary_table([c for c in tables.cells(RESULTS) if c.table == "methods"]).splitlines()
    assert lines[0].count("always right") == lines[0].count("wrong in 60%") == 1
    assert lines[2] == "| helpers, replies masked |  |  |  |  | 0.062 | 0.950 | never | 1 |"
    assert lines[3] == "| **AIPO** | 0.500 | 0.950 | 8.8 | 1 | 0.562 | 0.950 | 8.3 | 2 |"
    shown = [result("sft", 0, [4, 4, 4, 4], [0.0, 1.0, 1.0]), result("rft", 0, [4] * 4, [0.0] * 3, noise=0.6, name="x")]
    rft = tables.cells(shown)
    # Of a teacher who is always right the grader refuses nothing: one row stands for both.
    assert (
        tables.summary_table(rft)
        .splitlines()[3]
        .endswith("| 1.000 | 0.950 | never | 1 | 1.000 | 0.950 | 2.5 | 1, SFT's |")
    )


def test_tables_show_what_was_measured() -> None:
    found = tables.cells(RESULTS)
    lines = tables.methods_table([c for c in found if c.table == "methods" and not c.noise]).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| helpers, replies masked",
        "| **AIPO**",
        "| *RFT, full solutions that the grader calls right*",
    ]
    assert "| **AIPO** | 0.0003, 2 | 0.625 0.500 · **0.562** | [" in lines[3]
    assert "| 0.800 0.800 | 0.950 0.950 | 0.900 0.900 | 7.5 9.2 | 2 2 | 3 4 | 10 13 |" in lines[3]
    assert "never | never | never | never |" in lines[2]
    assert lines[1].count("---") == lines[0].count("|") - 1
    tuned = tables.tuning_table([c for c in found if c.table == "tuning"])
    assert "| helpers, replies cloned | 0.0003, 0.5 | 0.062 | never |" in tuned
    assert "| helpers, replies cloned | 0.0006, 0.5 | **0.250** | never |" in tuned
    plain = tables.plain_table([cell("parts", "aipo")], "setting")
    assert "| c_min 0.1 | gpt_neox | 0.062 · **0.062** | 0.800 | 0.950 | 0.900 | never |" in plain


def test_the_write_up_of_a_study(tmp_path: Path) -> None:
    study, out = tmp_path / "study", tmp_path / "results"
    (study / "start").mkdir(parents=True)
    start = Start("operator", "llama", 287_616, 80, 2, [0, 1, 2, 3], 0.77)
    (study / "start" / "llama.4x256.json").write_text(json.dumps(dataclasses.asdict(start)))
    (study / "rows.jsonl").write_text("".join(json.dumps(dataclasses.asdict(r)) + "\n" for r in RESULTS))
    written = write_up(study, out)
    page = (out / "boundary.md").read_text()
    assert "| operator | llama | 287,616 | 2 of 80 | 4 | 0.770 |" in page
    assert f"from {len(RESULTS)} runs of {len(RESULTS) / 2:.1f} hours" in page
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Methods, medians",
        "## Methods, helper or teacher wrong in 0%",
        "## Methods, helper or teacher wrong in 60%",
        "## One setting of AIPO changed at a time, wrong in 60 %",
        "## Architectures and RLVR algorithms, wrong in 60 %",
        "## Beside the task",
        "## What the methods' settings were chosen by, wrong in 60 %",
    ]
    assert "| aipo | 0.250 |" in page
    for path in written:
        assert path.exists()
        assert path.suffix != ".png" or f"({path.name})" in page
    data = json.loads((out / "boundary.json").read_text())
    assert [r["id"] for r in data["runs"]] == [r.id for r in RESULTS]
    assert data["starts"][0]["indices"] == [0, 1, 2, 3]
    write_up(study, out, {RESULTS[0].id})
    assert "from 1 runs" in (out / "boundary.md").read_text()
