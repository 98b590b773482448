from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import env_speed, report
from benchmarks.env_speed import BOXED, HASHES, LABELLED, Case, Settings


def test_the_smallest_run_without_peers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env_speed, "peers", lambda rows: {})
    path = tmp_path / "report.json"
    arguments = ["--episodes", "8", "--repeats", "2", "--json", str(path)]
    assert report.run(Settings, env_speed.benchmark, env_speed.PACKAGES, arguments) == 0
    result = json.loads(path.read_text())
    assert result.keys() == {"machine", "settings", "samples", "summary"}
    assert result["summary"].keys() == {"AIPO gsm8k"}
    assert [s["episodes"] for s in result["samples"]["AIPO gsm8k"]] == [8, 8]
    step = result["summary"]["AIPO gsm8k"]["microseconds_per_step"]
    assert 0 < step["low"] <= step["median"] <= step["high"]
    assert "Environment speed" in capsys.readouterr().out


def test_a_peer_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Case:
        raise ImportError("No module named 'peer'")

    monkeypatch.setattr(env_speed, "skyrl_case", missing)
    monkeypatch.setattr(env_speed, "gem_case", missing)
    cases, notes = report.installed(env_speed.peers(env_speed.problems()))
    assert cases == []
    assert [note.split(" did")[0] for note in notes] == ["skyrl-gym gsm8k", "skyrl-gym aime", "gem MathEnv"]
    assert "No module named 'peer'" in notes[0]


def test_the_problems_are_distinct_and_right() -> None:
    rows = env_speed.problems()
    assert len(rows) == 52
    assert len({row.gold for row in rows}) == len({row.question for row in rows}) == 52
    assert rows[0] == env_speed.Problem("A shelf holds 10 books and gets 7 more. How many books are on it?", 17)


class Scripted:
    """An environment that gives the same reward for every text, and remembers what it was given."""

    def __init__(self, reward: float = 0.0) -> None:
        self.reward, self.seen = reward, list[object]()

    def reset(self, index: int) -> Scripted:
        self.seen.append(index)
        return self

    def step(self, text: str, /) -> float:
        self.seen.append(text)
        return self.reward

    def case(self, *, share: float = 1.0) -> Case:
        return Case("scripted", self.reset, float, BOXED, share)


def test_every_fourth_answer_is_wrong() -> None:
    rows = env_speed.problems()
    plays = env_speed.schedule(Scripted().case(share=0.5), rows, "So. ", 16)
    assert [owed for _, _, owed in plays] == [1.0, 1.0, 1.0, 0.0] * 2
    assert plays[0][1] == f"So. The answer is \\boxed{{{rows[0].gold}}}."
    assert plays[3][1] == f"So. The answer is \\boxed{{{rows[3].gold + 1}}}."


def test_a_step_is_timed_behind_the_reset() -> None:
    env = Scripted(0.5)
    reward, seconds = env.case().play(3, "42")
    assert (env.seen, reward) == ([3, "42"], 0.5)
    assert seconds > 0


def test_an_environment_that_rewards_wrongly_is_not_timed() -> None:
    generous = Scripted(1.0).case()
    with pytest.raises(ValueError, match=r"scripted gave 1\.0"):
        env_speed.check(generous, env_speed.schedule(generous, env_speed.problems(), "", 4))


def test_the_ratios_come_from_the_samples() -> None:
    def sample(per_second: float, microseconds: float) -> dict[str, float]:
        return {"episodes": 10, "episodes_per_second": per_second, "microseconds_per_step": microseconds}

    samples = {
        "AIPO gsm8k": [sample(10.0, 20.0), sample(5.0, 40.0)],
        "peer": [sample(5.0, 100.0), sample(20.0, 20.0)],
    }
    summary = env_speed.summarise(samples)
    assert summary["AIPO gsm8k"]["episodes_per_second"] == report.Spread(7.5, 5.0, 10.0, 2)
    assert summary["AIPO gsm8k"]["microseconds_per_step"].median == pytest.approx(30.0)
    assert summary["peer"]["ratio"] == report.Spread(1.125, 0.25, 2.0, 2)
    assert summary["peer"]["step_ratio"].median == pytest.approx(2.75)
    assert "ratio" not in summary["AIPO gsm8k"]


def test_settings_that_cannot_be_timed_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Settings(episodes=0)


@pytest.mark.parametrize(
    ("form", "text"), [(BOXED, "The answer is \\boxed{-7}."), (HASHES, "#### -7"), (LABELLED, "Answer: -7")]
)
def test_each_environment_gets_the_answer_in_its_form(form: str, text: str) -> None:
    assert form % -7 == text
