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
    """A run of 4 samples a problem, whose solo accuracy was watched every ten steps, at 100 tokens a step."""
    spec = RunSpec(
        table, name or method, method=method, seed=seed, eval_samples=4, steps=10 * (len(solo) - 1), **fields
    )  # type: ignore[arg-type]
    curve = [
        {
            "step": 10 * i,
            "rollouts": 2560 * i,
            "trained_tokens": 1000 * i,
            "consults": 5 * i,
            "solo": value,
            "assisted": 0.9,
        }
        for i, value in enumerate(solo)
    ]
    return RunResult(spec.id, json.loads(json.dumps(dataclasses.asdict(spec))), correct, curve, 12.5, "cpu")


RESULTS = [
    result("aipo", 0, [4, 4, 2, 0], [0.0, 0.25, 0.75]),
    result("aipo", 1, [4, 2, 2, 0], [0.0, 0.0, 0.6]),
    result("mask", 0, [0, 0, 0, 1], [0.0, 0.0, 0.0]),
    result("aipo", 0, [2, 2, 2, 2], [0.0, 0.2, 0.6], table="noise", name="aipo 30%", noise=0.3),
    result("aipo", 0, [4, 4, 4, 0], [0.0, 0.5, 0.7], table="unchanged", name="unchanged"),
    result("aipo", 0, [1, 0, 0, 0], [0.0, 0.0, 0.1], table="c_min", name="c_min 0.1", objective={"c_min": 0.1}),
    result("aipo", 0, [4, 4, 4, 4], [0.0, 0.5, 0.9], table="cells", architecture="qwen3", algorithm="grpo"),
    result("mask", 0, [0, 0, 0, 0], [0.0, 0.0, 0.0], table="cells", architecture="qwen3", algorithm="grpo"),
    result("sft", 0, [4, 4, 4, 4], [0.0, 0.0, 1.0], table="teachers", architecture="qwen3"),
    result("aipo", 0, [4, 4, 4, 2], [0.0, 0.5, 0.9], table="teachers", architecture="qwen3"),
]  # fmt: skip


def cell(table: str, method: str) -> tables.Cell:
    return next(c for c in tables.cells(RESULTS) if (c.table, c.method) == (table, method))


def test_seeds_are_grouped_and_averaged() -> None:
    aipo = cell("methods", "aipo")
    assert [r.spec["seed"] for r in aipo.runs] == [0, 1]
    assert aipo.solo_by_seed() == [10 / 16, 8 / 16]
    assert aipo.solo(1).estimate == pytest.approx(18 / 32)
    # Of two samples at least one: 1, 1, 5/6, 0 and 1, 5/6, 5/6, 0.
    assert aipo.solo(2).estimate == pytest.approx((17 / 6 + 16 / 6) / 8)
    assert aipo.solo(1).low < 18 / 32 < aipo.solo(1).high


def test_the_transition_and_equal_budgets() -> None:
    aipo = cell("methods", "aipo")
    assert aipo.until_half("step") == pytest.approx([15.0, 10 + 10 * 5 / 6])
    assert aipo.until_half("trained_tokens") == pytest.approx([1500.0, 1000 + 1000 * 5 / 6])
    assert cell("methods", "mask").until_half("step") == [None]
    assert aipo.solo_at("trained_tokens", 1500) == pytest.approx([0.5, 0.3])
    assert aipo.solo_at("trained_tokens", 2001) == [None, None]


def test_rows_for_machines() -> None:
    row = tables.machine_rows(RESULTS)[0]
    assert (row["method"], row["algorithm"], row["model"], row["seed"]) == ("aipo", "group_mean", "llama", 0)
    assert row["budget"] == {"steps": 20, "rollouts": 5120, "trained_tokens": 2000, "consults": 10}
    assert row["solo_pass_at_k"] == {"1": 0.625, "2": round(17 / 24, 4), "4": 0.75}
    assert row["until_solo_half"] == {"step": 15.0, "trained_tokens": 1500.0, "consults": 7.5}


def test_tables_show_what_was_measured() -> None:
    found = tables.cells(RESULTS)
    methods = tables.methods_table([c for c in found if c.table == "methods"])
    lines = {line.split(" | ")[0].strip("| "): line for line in methods.splitlines()}
    assert "0.562 [" in lines["**AIPO**"]
    assert "0.625 0.500" in lines["**AIPO**"]
    assert "15 18" in lines["**AIPO**"]
    assert "never" in lines["helpers, replies masked"]
    assert methods.splitlines()[1].count("---") == methods.splitlines()[0].count("|") - 1
    noise = tables.noise_table([c for c in found if c.table == "noise"])
    assert "| AIPO |  | 0.500 · **0.500** |  |  | 18 |  |" in noise
    crossed = tables.cells_table([c for c in found if c.table == "cells"])
    assert "| qwen3 | grpo | 1.000 · **1.000** | 10 | 0.000 |  |" in crossed
    shown = tables.teachers_table([c for c in found if c.table == "teachers"]).splitlines()
    assert shown[2] == "| qwen3 | **AIPO** | 0.875 · **0.875** | 0.900 | 10 | 1 |"
    assert shown[3] == "| qwen3 | SFT, full solutions | 1.000 · **1.000** | 0.900 | 15 | 2 |"
    changed = tables.ablation_table([cell("c_min", "aipo")], cell("unchanged", "aipo"))
    assert changed.splitlines()[2].startswith("| **unchanged** | 0.750 · **0.750** | 10 |")
    assert "| c_min 0.1 | 0.062 · **0.062** | never |" in changed


def test_the_write_up_of_a_study(tmp_path: Path) -> None:
    study, out = tmp_path / "study", tmp_path / "results"
    (study / "start").mkdir(parents=True)
    start = Start("llama", 287_616, 80, 2, [0, 1, 2, 3], 0.77)
    (study / "start" / "llama.4x256.json").write_text(json.dumps(dataclasses.asdict(start)))
    (study / "rows.jsonl").write_text("".join(json.dumps(dataclasses.asdict(r)) + "\n" for r in RESULTS))
    written = write_up(study, out)
    page = (out / "boundary.md").read_text()
    assert "| llama | 287,616 | 2 of 80 | 4 | 0.770 |" in page
    for path in written:
        assert path.exists()
        assert path.suffix != ".png" or f"({path.name})" in page
    assert len(json.loads((out / "boundary.json").read_text())["runs"]) == len(RESULTS)
    only = write_up(study, out, {RESULTS[0].id})
    assert [p.name for p in only] == ["boundary.md", "boundary.json", "boundary_curves.png", "boundary_pass_at_k.png"]
