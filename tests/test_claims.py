"""What README and the pages say of the study is what its rows say."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import aipo_env
from aipo_env import Source

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BOUNDARY = (ROOT / "docs" / "boundary.md").read_text(encoding="utf-8")
OBJECTIVE = (ROOT / "docs" / "objective.md").read_text(encoding="utf-8")
RUNS = json.loads((ROOT / "docs" / "results" / "boundary.json").read_text(encoding="utf-8"))["runs"]


def noisy(method: str, noise: float) -> list[dict[str, object]]:
    return sorted(
        (r for r in RUNS if (r["table"], r["method"], r["noise"]) == ("noise", method, noise)), key=lambda r: r["seed"]
    )


def median(method: str, noise: float) -> str:
    solo = [sum(r["num_correct"]) / (r["num_problems"] * r["num_samples"]) for r in noisy(method, noise)]  # type: ignore[call-overload, operator]
    return f"{statistics.median(solo):.3f}"


def test_repair_03_the_noise_table_holds_every_method_that_was_run() -> None:
    (table,) = re.findall(r"\| \| never wrong \|.*?\n\n", BOUNDARY, flags=re.DOTALL)
    rows = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:6]] for line in table.strip().splitlines()[2:]
    }
    labels = {"AIPO": "aipo", "replies cloned": "clone", "LUFFY's shaping": "luffy", "SFT": "sft"}
    for label, method in labels.items():
        (cells,) = [cells for name, cells in rows.items() if name.startswith(label)]
        assert cells[:3] == [median(method, noise) for noise in (0.0, 0.3, 0.6)], label
        steps = [r["until_solo_half"]["step"] for r in noisy(method, 0.6)]  # type: ignore[index]
        assert cells[3] == " ".join("never" if step is None else f"{step:.0f}" for step in steps), label


def test_repair_03_the_readme_names_the_strongest_rival_under_noise() -> None:
    (claim,) = re.findall(r"- \*\*Wrong helpers cost little\*\*.*?(?=\n- )", README, flags=re.DOTALL)
    for method in ("aipo", "clone", "luffy"):
        assert median(method, 0.6) in claim, method
        assert median(method, 0.0) in claim, method
    assert "RFT" in claim


def test_repair_03_no_page_says_what_the_measurements_refute() -> None:
    for text in (README, BOUNDARY, OBJECTIVE):
        flat = " ".join(text.split())
        assert "imitation of a given text cannot" not in flat
        assert "falls to 0.055" not in flat
        assert "and not in the coefficient" not in flat
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
