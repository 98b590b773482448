"""What a run says on standard error."""

from __future__ import annotations

import pytest

from algorithms.progress import TrainingDisplay


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("seconds", [0.5, 100.0, 3600.0])
def test_repair_27_the_time_left_is_known_after_one_step_however_slow(seconds: float) -> None:
    clock = Clock()
    display = TrainingDisplay(10, shown=False, clock=clock)
    task = display._progress.tasks[0]
    clock.now += 50.0  # the evaluation before the first step
    display.step({"step": 0.0})
    assert task.time_remaining is None
    for step in (1, 2, 3, 4):
        clock.now += seconds
        display.step({"step": float(step)})
        assert task.time_remaining == pytest.approx(seconds * (10 - step), abs=1)


def test_repair_27_a_resumed_run_does_not_count_what_was_there(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    display = TrainingDisplay(100, shown=False, clock=clock)
    for step in (51, 52, 53):
        clock.now += 40.0
        display.step({"step": float(step)})
    assert display._progress.tasks[0].time_remaining == pytest.approx(40 * 47)


def test_repair_34_a_long_evaluation_is_told_of_without_bars(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with TrainingDisplay(1, shown=False, clock=clock) as display:
        for _ in range(2):
            display.evaluation(0, 1600)
            for done in range(1, 1601):
                clock.now += 1 / 128
                display.evaluation(done, 1600)
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split(" of ")[0] for line in said.err.splitlines()] == ["aipo: evaluating: 1280"] * 2


def test_repair_34_a_short_evaluation_is_silent_without_bars(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with TrainingDisplay(1, shown=False, clock=clock) as display:
        clock.now += 3600.0
        for done in range(9):
            clock.now += 1.0
            display.evaluation(done, 8)
    assert capsys.readouterr() == ("", "")


def test_problems_are_said_with_and_without_bars(capsys: pytest.CaptureFixture[str]) -> None:
    for shown in (True, False):
        with TrainingDisplay(1, shown=shown) as display:
            display.say("step 3: every rollout [was] cut.")
        out, err = capsys.readouterr()
        assert out == ""
        assert "aipo: step 3: every rollout [was] cut." in err
