from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import env_speed, report
from benchmarks.env_speed import Case, Sample, Settings


def test_the_smallest_run_without_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    assert env_speed.main(["--episodes", "8", "--repeats", "2", "--no-peers", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert result.keys() == {"machine", "settings", "samples", "summary", "target", "notes"}
    assert result["summary"].keys() == {"AIPO gsm8k", "AIPO consult turn"}
    assert [s["episodes"] for s in result["samples"]["AIPO gsm8k"]] == [8, 8]
    step = result["summary"]["AIPO gsm8k"]["microseconds_per_step"]
    assert 0 < step["low"] <= step["median"] <= step["high"]
    assert result["target"] == {"microseconds_per_step": 50.0, "met": step["median"] <= 50.0}
    out = capsys.readouterr().out
    assert "Target of our step: at most 50.0 us" in out


def test_a_peer_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Case:
        raise ImportError("No module named 'peer'")

    monkeypatch.setattr(env_speed, "skyrl_case", missing)
    monkeypatch.setattr(env_speed, "gem_case", missing)
    cases, notes = env_speed.peer_cases(env_speed.problems())
    assert cases == []
    assert [note.split(" did")[0] for note in notes] == ["skyrl-gym gsm8k", "skyrl-gym aime", "gem MathEnv"]
    assert "No module named 'peer'" in notes[0]


def test_the_problems_are_distinct_and_right() -> None:
    rows = env_speed.problems()
    assert len(rows) == 52
    assert len({row.gold for row in rows}) == len({row.question for row in rows}) == 52
    assert rows[0] == env_speed.Problem("A shelf holds 10 books and gets 7 more. How many books are on it?", 17)


def test_every_fourth_answer_is_wrong() -> None:
    rows = env_speed.problems()
    case = Case("x", lambda index, text: (0.0, 0.0), env_speed.boxed, share=0.5)
    plays = env_speed.schedule(case, rows, "So. ", 16)
    assert [owed for _, _, owed in plays] == [1.0, 1.0, 1.0, 0.0] * 2
    assert plays[0][1] == f"So. The answer is \\boxed{{{rows[0].gold}}}."
    assert plays[3][1] == f"So. The answer is \\boxed{{{rows[3].gold + 1}}}."


def test_an_environment_that_rewards_wrongly_is_not_timed() -> None:
    generous = Case("generous", lambda index, text: (1.0, 0.0), env_speed.boxed)
    with pytest.raises(ValueError, match=r"generous gave 1\.0"):
        env_speed.check(generous, env_speed.schedule(generous, env_speed.problems(), "", 4))


def test_the_ratios_come_from_the_samples() -> None:
    samples = {
        "AIPO gsm8k": [Sample(10, 1.0, 20e-6), Sample(10, 2.0, 40e-6)],
        "AIPO consult turn": [Sample(10, 5.0, 1.0)] * 2,
        "peer": [Sample(10, 2.0, 100e-6), Sample(10, 0.5, 20e-6)],
    }
    summary = env_speed.summarise(samples, "AIPO gsm8k")
    assert summary["AIPO gsm8k"]["episodes_per_second"] == report.Spread(7.5, 5.0, 10.0, 2)
    assert summary["AIPO gsm8k"]["microseconds_per_step"].median == pytest.approx(30.0)
    assert summary["peer"]["ratio"] == report.Spread(1.125, 0.25, 2.0, 2)
    assert summary["peer"]["step_ratio"].median == pytest.approx(2.75)
    assert "ratio" not in summary["AIPO consult turn"]


def test_settings_that_cannot_be_timed_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Settings(episodes=0)


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (env_speed.boxed, "x The answer is \\boxed{-7}."),
        (env_speed.hashes, "x #### -7"),
        (env_speed.labelled, "x Answer: -7"),
    ],
)
def test_each_environment_gets_the_answer_in_its_form(write: object, text: str) -> None:
    assert write("x ", -7) == text  # type: ignore[operator]
