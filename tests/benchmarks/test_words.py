from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from aipo_agents.knowledge import KnowledgeAgent
from aipo_agents.reasoning import ReasoningAgent
from aipo_agents.verify import VerifyAgent
from aipo_env.errors import ConfigurationError, DataFormatError
from benchmarks.words import START, Settings, kind_of_reply, main, split_rows, write_up
from tests.agents.asking import ask
from tests.algorithms.tiny import tiny_policy

ROWS = [
    {"input": f"Ana has {n} apples and eats {n % 7}. How many are left?", "target": float(n - n % 7)} for n in range(60)
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    # The same problems, set otherwise; and one with a fraction for an answer.
    again = [{"input": row["input"].replace(". How", " .  how"), "target": row["target"]} for row in ROWS]  # type: ignore[attr-defined]
    (folder / "b.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*again, {"input": "A half?", "target": 0.5}])
    )
    return folder


def test_the_split_keeps_equal_problems_together(data: Path) -> None:
    rows = split_rows(data)
    assert sorted(row["problem"] for part in rows.values() for row in part) == sorted(
        [str(r["input"]) for r in ROWS] + ["A half?"]
    )
    assert 5 <= len(rows["test"]) <= 20
    assert {"problem": ROWS[9]["input"], "answer": "7"} in rows["train"] + rows["test"]
    assert {"problem": "A half?", "answer": "0.5"} in rows["train"] + rows["test"]
    assert rows == split_rows(data)


@pytest.mark.parametrize("line", ["{}", '{"input": "x", "target": "many"}', '{"input": 3, "target": 3}', "[", "3"])
def test_other_rows_are_refused_by_place(tmp_path: Path, line: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"input": "x", "target": 3}\n' + line + "\n")
    with pytest.raises(DataFormatError, match="line 2"):
        split_rows(tmp_path)


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"no \.jsonl file"):
        split_rows(tmp_path)


def test_replies_of_the_embedded_helpers_are_told_apart() -> None:
    verify, knowledge, reasoning = VerifyAgent(timeout=20), KnowledgeAgent(), ReasoningAgent()
    assert kind_of_reply(ask(verify, "2+2=5")) == "incorrect"
    assert kind_of_reply(ask(verify, "2+2=4")) == "correct"
    assert kind_of_reply(ask(verify, "how?")) == "cannot tell"
    assert kind_of_reply(ask(knowledge, "zzz qqq")) == "nothing to say"
    assert kind_of_reply(ask(knowledge, "area of a rectangle")) == "told"
    assert kind_of_reply(ask(reasoning, "how?")) == "nothing to say"
    assert kind_of_reply(ask(reasoning, "2+3*4")) == "told"


def test_it_runs_goes_on_and_keeps_to_its_settings(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tiny_policy()
    policy.model.config.max_position_embeddings = 4096
    policy.save(tmp_path / "policy")
    settings = Settings(
        data=data, out=tmp_path / "out", policy=str(tmp_path / "policy"), methods=("aipo", "grpo"), seeds=(3,), warmup_steps=1,
        steps=1, prompts_per_step=1, samples_per_prompt=4, max_tokens=8, problems=2, samples=2, processes=1, minutes=0.0,
    )  # fmt: skip
    assert main(settings) == 0
    assert "start: trained" in (said := capsys.readouterr().out)
    assert "not finished: start, aipo-3, grpo-3; the same command goes on" in said
    assert main(dataclasses.replace(settings, minutes=None)) == 0
    said = capsys.readouterr().out
    assert "aipo-3: finished" in said
    assert "not finished" not in said
    found = json.loads((settings.out / "words.json").read_text())["measured"]
    assert list(found) == [START, "aipo-3", "grpo-3"]
    assert {name: len(counts) for name, counts in found["grpo-3"]["counts"].items()} == dict.fromkeys(
        ("solo greedy", "solo sampled", "assisted greedy", "assisted sampled"), 2
    )
    assert [point["step"] for point in found["aipo-3"]["curve"]] == [1]
    assert "train/assisted_accuracy" in found["aipo-3"]["curve"][0]
    assert "train/assisted_accuracy" not in found["grpo-3"]["curve"][0]
    assert found["aipo-3"]["cpu"] > 0
    before = (settings.out / "aipo-3" / "measured.json").read_bytes()
    assert main(dataclasses.replace(settings, minutes=None)) == 0
    assert "aipo-3: was finished" in capsys.readouterr().out
    assert (settings.out / "aipo-3" / "measured.json").read_bytes() == before
    with pytest.raises(ConfigurationError, match="steps was 1 and is 2"):
        main(dataclasses.replace(settings, steps=2))


def test_the_page_has_changes_problem_by_problem(tmp_path: Path) -> None:
    def measured(right: int) -> dict[str, Any]:
        sampled = [[4, right], [4, 0], [4, 4]]
        counts = {"solo sampled": sampled, "assisted sampled": sampled, "solo greedy": [[1, 1], [1, 0], [1, 0]]}
        counts["assisted greedy"] = [[1, 1]] * 3
        curve = [{"step": 1, "train/solo_accuracy": 0.25}]
        return {"counts": counts, "asked": {"verify: correct": 2}, "cpu": 5400.0, "wall": 3600.0, "curve": curve}

    start = {name: value for name, value in measured(1).items() if name != "curve"}
    pages = write_up({START: start, "mask-7": measured(4)}, tmp_path, Settings(data=tmp_path, samples=4))
    text = pages[0].read_text()
    assert {path.name for path in pages} == {"words.md", "words.json", "words.png"}
    assert "| warmed up | 0.333 [" in text
    row = next(line for line in text.splitlines() if line.startswith("| helpers, replies masked, seed 7"))
    assert row.split(" | ")[1].startswith("0.333 [")
    assert "| 0.667 [0.134, 0.982] | +0.250 [" in row
    assert json.loads(pages[1].read_text())["measured"]["mask-7"]["asked"] == {"verify: correct": 2}
    assert "| 1.50 | 1.00 |" in row
    assert "pass@4" in text
    assert "- warmed up: verify: correct 2" in text


def test_settings_that_cannot_be_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="aipo, mask, grpo"):
        Settings(data=tmp_path, methods=("ppo",))
    with pytest.raises(ValueError, match="problems is at least 1"):
        Settings(data=tmp_path, problems=0)
