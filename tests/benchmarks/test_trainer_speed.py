from __future__ import annotations

import json
from pathlib import Path

import pytest

from aipo_env.tasks.rulebook import RulebookTasks
from algorithms.policies import load_policy
from benchmarks import report, trainer_speed
from benchmarks.trainer_speed import InOrder, Run, Settings

SMALLEST = ["--steps", "1", "--warmup", "0", "--repeats", "1", "--prompts", "1", "--samples", "4", "--micro-batch", "4"]


def run_benchmark(arguments: list[str]) -> int:
    return report.run(Settings, trainer_speed.benchmark, trainer_speed.PACKAGES, arguments)


@pytest.fixture
def no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_speed, "peer_missing", lambda: "TRL did not take part: not wanted here")


@pytest.mark.usefixtures("no_peer")
def test_the_smallest_run_without_the_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    assert run_benchmark([*SMALLEST, "--max-tokens", "6", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert result.keys() == {"machine", "settings", "runs"}
    assert result["runs"]["TRL GRPOTrainer"] == []
    (run,) = result["runs"]["AIPO"]
    assert run["rollouts"] == 4
    assert 4 <= run["tokens"] <= 24
    assert run["trained_tokens"] in (0, run["tokens"])
    assert run["seconds"] > 0 < run["cpu_seconds"]
    out = capsys.readouterr().out
    assert "TRL did not take part" in out
    assert "AIPO / TRL" not in out
    assert "threads: 1" in out


@pytest.mark.usefixtures("no_peer")
def test_the_random_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_benchmark([*SMALLEST, "--start", "random", "--max-tokens", "4"]) == 0
    assert "start random" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"steps": 0}, "at least 1"), ({"warmup": -1}, "at least 0"), ({"prompts": 1, "samples": 3}, "multiple of 64")],
)
def test_settings_that_cannot_be_timed_are_refused(options: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Settings(**options)  # type: ignore[arg-type]


def test_speeds_and_ratios_come_from_the_samples() -> None:
    ours = [Run(100, 80, 10, 2.0, 1.0), Run(300, 300, 10, 2.0, 1.0)]
    theirs = [Run(100, 100, 10, 5.0, 4.0), Run(100, 100, 10, 1.0, 0.5)]
    summary = report.spreads([run.figures() for run in ours])
    assert summary["tokens_per_second"] == report.Spread(95.0, 40.0, 150.0, 2)
    assert summary["tokens_per_cpu_second"] == report.Spread(190.0, 80.0, 300.0, 2)
    assert summary["mean_length"] == report.Spread(20.0, 10.0, 30.0, 2)
    assert summary["trained_share"].low == 0.8
    ratio = trainer_speed.compare(ours, theirs)
    assert ratio["tokens_per_second"] == report.Spread(1.75, 1.5, 2.0, 2)
    assert ratio["tokens_per_cpu_second"] == report.Spread(2.35, 1.5, 3.2, 2)
    assert ratio["mean_length"] == report.Spread(2.0, 1.0, 3.0, 2)


def test_the_table_shows_the_ratio() -> None:
    runs = {"AIPO": [Run(100, 100, 10, 2.0, 2.0)], "TRL GRPOTrainer": [Run(100, 100, 10, 5.0, 5.0)]}
    assert [row[:2] for row in trainer_speed.speed_table(runs, []).rows] == [
        ["AIPO", "50 (50 .. 50)"],
        ["TRL GRPOTrainer", "20 (20 .. 20)"],
        ["AIPO / TRL", "2.50 (2.50 .. 2.50)"],
    ]


@pytest.mark.parametrize(("rewards", "trained"), [([1, 1, 0, 1], 11), ([1, 1, 0, 0], 0)])
def test_only_groups_whose_rewards_differ_are_trained_on(rewards: list[float], trained: int) -> None:
    run = Run()
    run.count(rewards, [3, 4, 5, 6], group=2)
    assert run == Run(tokens=18, trained_tokens=trained, rollouts=4)


def test_both_sides_see_the_same_prompts() -> None:
    settings = Settings(steps=1, warmup=0, prompts=2, samples=2, micro_batch=2, max_tokens=2)
    trajectories = trainer_speed.make_ours(settings, seed=0).collect()
    family = RulebookTasks(level=2, operators="@", style="terse")
    assert [t.task_id for t in trajectories] == [family.task(i).id for i in (0, 0, 1, 1)]
    assert {t.assisted for t in trajectories} == {False}
    tokenizer = load_policy("embedded").tokenizer
    for trajectory, index in zip(trajectories, (0, 0, 1, 1), strict=True):
        prompt = f"{tokenizer.bos_token}{family.task(index).problem}"
        assert trajectory.segments[0].token_ids == tuple(tokenizer(text=[prompt])["input_ids"][0])
        own = trajectory.segments[1]
        assert trajectory.reward == trainer_speed.coin_reward(own.token_ids)


def test_tasks_in_order() -> None:
    import numpy as np

    tasks = InOrder(level=2)
    rng = np.random.default_rng(0)
    assert [tasks.sample_index(rng) for _ in range(3)] == [0, 1, 2]
    task = tasks.task(0)
    assert tasks.grade(task, task.gold).correct


def test_the_two_start_policies_are_equal() -> None:
    for start in ("embedded", "random"):
        first, second = (trainer_speed.make_policy(Settings(start=start), seed=3) for _ in range(2))
        pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
        assert all(a.equal(b) for a, b in pairs)
