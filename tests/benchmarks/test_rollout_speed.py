"""The rollout benchmark: it plays what it says, counts what it played, and refuses a wrong game."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import report, rollout_speed
from benchmarks.rollout_speed import Case, Settings


def test_every_case_of_ours_plays_the_same_game() -> None:
    makers = (rollout_speed.state_machine, rollout_speed.aec, rollout_speed.gymnasium_face)
    for case in [make() for make in makers] + [rollout_speed.rollout(4)]:
        assert case.play(3) == 3.0, case.name


def test_a_game_that_is_not_won_is_not_timed() -> None:
    with pytest.raises(ValueError, match="0 of 5"):
        rollout_speed.timed(Case("wrong", lambda episodes: 0.0), 5)


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "installed", lambda makers: ([], []))
    path = tmp_path / "speed.json"
    arguments = ["--episodes", "8", "--repeats", "2", "--in-flight", "4", "--helper-seconds", "0.002"]
    run = report.run(Settings, rollout_speed.benchmark, rollout_speed.PACKAGES, [*arguments, "--json", str(path)])
    assert run == 0
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["ideal_seconds"] == pytest.approx(2 * 3 * 0.002)
    assert found["over_ideal"]["AIPO rollout"]["low"] >= 1
    faces = {"AIPO state machine", "AIPO AEC", "AIPO AEC with last()", "AIPO Gymnasium", "AIPO rollout"}
    assert set(found["samples"]["turns"]) == faces
    assert all(len(own) == 2 for own in found["samples"]["turns"].values())
    assert "by the state machine's" in capsys.readouterr().out


def test_settings_that_cannot_be_timed_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Settings(in_flight=0)
