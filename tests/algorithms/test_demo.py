from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from algorithms.demo import METHODS, demo_config, run_demo
from algorithms.train_config import TrainConfig


def test_the_demo_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real demo, with two steps instead of all and few test problems."""
    path = run_demo(tmp_path, seed=3, steps=2, test_tasks=4)
    summary = json.loads(path.read_text())
    assert set(summary) == {"start", "grpo", "mask", "aipo", "seed", "steps", "rollouts", "seconds"}
    for method in ("start", "grpo", "mask", "aipo"):
        assert {"solo_pass1", "solo_pass8", "assisted_pass1"} <= summary[method].keys()
        assert summary[method]["assisted_pass1"] > 0.3
        assert summary[method]["solo_pass8"] == 0.0
    assert (summary["seed"], summary["steps"]) == (3, 2)
    for method in ("grpo", "mask", "aipo"):
        rows = [json.loads(line) for line in (tmp_path / method / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1]["rollouts"] == summary["rollouts"]
    assert (tmp_path / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "AIPO" in out
    assert "solo pass@1" in out
    # What the policy wrote stands there whole, however narrow the terminal is.
    transcripts = (tmp_path / "transcripts.txt").read_text()
    early = re.sub(r"[\s│]+", "", transcripts.split("\n\n")[1].split("\n", 1)[1])
    assert early in re.sub(r"[\s│]+", "", "".join(line[: len(line) // 2] for line in out.splitlines() if "│" in line))
    assert f"aipo view {tmp_path / 'aipo'}" in re.sub(r"\n", "", out)


def test_methods_differ_in_what_they_claim_to_and_nothing_else(tmp_path: Path) -> None:
    configs = {method: demo_config(method, tmp_path) for method in METHODS}
    assert {m for m, c in configs.items() if c.solo_share == 1.0} == {"grpo"}
    assert {m: c.objective.agent_loss for m, c in configs.items()} == {
        "aipo": "aipo", "mask": "mask", "grpo": "mask", "clone": "clone", "luffy": "luffy",
    }  # fmt: skip

    def rest(config: TrainConfig) -> dict[str, object]:
        return {k: v for k, v in vars(config).items() if k not in ("out", "solo_share", "objective")}

    assert all(rest(c) == rest(configs["aipo"]) for c in configs.values())
