"""What README and the pages say of the study is what its rows say."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import aipo_env
from aipo_env import Source
from benchmarks.boundary import tables
from benchmarks.boundary.design import METHODS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BOUNDARY = (ROOT / "docs" / "boundary.md").read_text(encoding="utf-8")
OBJECTIVE = (ROOT / "docs" / "objective.md").read_text(encoding="utf-8")
DATA = json.loads((ROOT / "docs" / "results" / "boundary.json").read_text(encoding="utf-8"))
CELLS = tables.cells(tables.results_of(DATA["runs"]))
COMPARED = [cell for cell in CELLS if cell.table == "methods"]
FLAT = {name: " ".join(text.split()) for name, text in {"README": README, "boundary": BOUNDARY}.items()}


def cell(method: str, noise: float) -> tables.Cell:
    return next(c for c in COMPARED if (c.method, c.noise) == (method, noise))


def test_repair_03_the_readmes_table_is_rows_of_the_studys_and_has_the_rivals() -> None:
    rows = tables.summary_table(COMPARED).splitlines()
    shown = [line for line in README.splitlines() if line in rows[2:]]
    assert [line for line in README.splitlines() if line in rows[:1]]
    labels = {line.split(" | ")[0].strip("|* ") for line in shown}
    assert labels == {
        METHODS[name].label for name in ("grpo", "mask", "echo", "luffy", "clone", "former", "aipo", "sft", "rft")
    }


def test_repair_03_the_strongest_rival_stands_in_the_sentence_with_our_number() -> None:
    for noise in (0.6, 0.0):
        rivals = {c.method: c.median for c in COMPARED if c.noise == noise and c.method != "aipo"}
        best = max(rivals, key=lambda name: rivals[name])
        assert best in ("rft", "sft")
        for text in FLAT.values():
            ours, theirs = f"{cell('aipo', noise).median:.3f}", f"{rivals[best]:.3f}"
            assert re.search(rf"{ours}[^.]*(?:\.\d[^.]*)*{theirs}", text), (noise, ours, theirs)


def test_repair_03_seeds_are_said() -> None:
    counts = {len(c.runs) for c in COMPARED}
    words = {1: "one", 2: "two", 3: "three"}
    assert f"{words[min(counts)]} to {words[max(counts)]} seeds" in FLAT["README"]


def test_three_helpers_are_as_far_apart_as_the_pages_say() -> None:
    found = {c.name: c for c in CELLS if c.table == "helpers"}
    every = "verify, knowledge, reasoning"
    pair = max((name for name in found if name.count(",") == 1), key=lambda name: found[name].median)
    for name in (every, pair, "knowledge"):
        assert f"{found[name].median:.2f}" in FLAT["README"], name
    for name, one in found.items():
        assert " ".join(f"{value:.3f}" for value in one.solo_by_seed()) in FLAT["boundary"], name


def test_what_is_forgotten_is_told() -> None:
    start = statistics.median(r.beyond["known at the start"] for c in COMPARED for r in c.runs)
    end = statistics.median(r.beyond["known"] for r in cell("aipo", 0.0).runs)
    assert f"{start:.3f} to {end:.2f}" in FLAT["boundary"]
    assert all(r.beyond[name] == 0 for c in COMPARED for r in c.runs for name in ("digits 2", "digits 4"))
    assert "no operand of another length" in FLAT["boundary"]


def test_the_coefficient_is_idle_at_the_defaults_as_it_is_said() -> None:
    same = {c.name: c.runs for c in CELLS if c.table == "baselines" and c.name in ("aipo, none", "clone, none")}
    ours, cloned = same["aipo, none"], same["clone, none"]
    assert [r.num_correct for r in ours] == [r.num_correct for r in cloned]
    assert "the same to the bit" in FLAT["boundary"]
    assert "idle at the defaults" in OBJECTIVE


def test_repair_04_concepts_says_whose_the_tags_of_a_reply_are() -> None:
    env = aipo_env.make("rulebook-consult")
    env.reset(seed=0)
    env.step('<consult agent="verify">17+25=42</consult>')
    tagged = [s for s in env.unwrapped.episode.segments[1:] if "<feedback" in s.text]
    assert {segment.source for segment in tagged} == {Source.AGENT}
    concepts = " ".join((ROOT / "docs" / "concepts.md").read_text(encoding="utf-8").split())
    assert "AGENT (a helper's reply with the tags around it" in concepts
    assert "TEMPLATE (notices" in concepts
