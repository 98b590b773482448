from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import aipo_env
from aipo_env.errors import ConfigurationError
from aipo_env.grading import Grade
from aipo_env.tasks.base import Task
from aipo_env.tasks.mix import MixTasks
from aipo_env.testing import check_taskset
from tests.helpers import SumTasks
from tests.tasks.small_data import write_small_data


@pytest.fixture
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIPO_DATA", str(write_small_data(tmp_path)))


def drawn(tasks: MixTasks, count: int = 4000, seed: int = 0) -> Counter[str]:
    rng = np.random.default_rng(seed)
    return Counter(str(tasks.task(tasks.sample_index(rng)).metadata["part"]) for _ in range(count))


@pytest.mark.parametrize("weights", [(3, 1), (0.1, 0.3), (1, 1)])
def test_weights_are_shares_of_what_is_drawn_whatever_the_sizes(weights: tuple[float, float]) -> None:
    large, small = SumTasks(), SumTasks()
    small.num_tasks = 2
    tasks = MixTasks(parts={"large": (weights[0], large), "small": (weights[1], small)})
    share = weights[0] / sum(weights)
    count = 4000
    assert abs(drawn(tasks, count)["large"] - count * share) < 5 * np.sqrt(count * share * (1 - share))


def test_a_task_is_one_for_good_and_every_task_has_its_index() -> None:
    first, second = SumTasks(), SumTasks()
    first.num_tasks, second.num_tasks = 3, 2
    tasks = MixTasks(parts={"a": (1, first), "b": (9, second)})
    assert tasks.num_tasks == 5
    assert [tasks.task(i).id for i in range(5)] == ["a/sums/0", "a/sums/1", "a/sums/2", "b/sums/0", "b/sums/1"]
    assert {tasks.sample_index(np.random.default_rng(s)) for s in range(200)} == set(range(5))
    with pytest.raises(IndexError):
        tasks.task(5)


def test_endless_parts_take_turns_behind_the_finite_ones() -> None:
    sums = SumTasks()
    sums.num_tasks = 2
    tasks = MixTasks(parts={"rulebook": 1, "sums": (1, sums), "rulebook-consult": 2})
    assert tasks.num_tasks is None
    ids = [tasks.task(i).id for i in range(6)]
    assert ids == [
        "sums/sums/0", "sums/sums/1", "rulebook/rulebook/l2/train/0/0", "rulebook-consult/rulebook/l2/train/0/0",
        "rulebook/rulebook/l2/train/0/1", "rulebook-consult/rulebook/l2/train/0/1",
    ]  # fmt: skip
    shares = drawn(tasks)
    assert set(shares) == set(tasks.parts)
    assert abs(shares["rulebook-consult"] - 2000) < 5 * np.sqrt(1000)


def test_a_part_grades_its_own_tasks() -> None:
    class ById(SumTasks):
        def grade(self, task: Task, answer: str) -> Grade:
            assert task.id.startswith("sums/")
            return super().grade(task, answer)

    tasks = MixTasks(parts={"mine": (1, ById())})
    assert tasks.grade(tasks.task(3), "4").correct
    assert asyncio.run(tasks.grade_async(tasks.task(3), "4")).correct


def test_draws_are_a_function_of_the_generator_alone() -> None:
    one, two = (MixTasks(parts="rulebook:3,rulebook-consult:1") for _ in range(2))
    rngs = [np.random.default_rng(7) for _ in range(2)]
    assert [one.sample_index(rngs[0]) for _ in range(50)] == [two.sample_index(rngs[1]) for _ in range(50)]
    # A generator that goes on from a saved state goes on with the same tasks.
    state = rngs[0].bit_generator.state
    expected = [one.sample_index(rngs[0]) for _ in range(20)]
    resumed = np.random.default_rng()
    resumed.bit_generator.state = state
    assert [two.sample_index(resumed) for _ in range(20)] == expected


@pytest.mark.usefixtures("_data")
def test_a_mixture_is_graded_by_its_parts_and_says_what_it_is_of() -> None:
    env = aipo_env.make("mix-consult", parts={"math": 3, "gsm8k": 1, "rulebook": 1})
    tasks = env.tasks
    assert isinstance(tasks, MixTasks)
    for index in (0, 1, 2):
        task = tasks.task(index)
        assert tasks.grade(task, task.gold).correct
        assert asyncio.run(tasks.grade_async(task, task.gold)).correct
        assert not tasks.grade(task, "-98765").correct
    env.reset(options={"task_index": 1})
    assert env.step(r"\boxed{7}")[1] == 1.0
    parts = tasks.provenance()["parts"]
    assert isinstance(parts, dict)
    assert {name: part["weight"] for name, part in parts.items()} == {"math": 0.6, "gsm8k": 0.2, "rulebook": 0.2}
    assert parts["math"]["rows_read"] == 1
    assert parts["gsm8k"]["decontaminated_against"]
    assert all("part" in remark or "gold" in remark for remark in check_taskset(tasks))


@pytest.mark.usefixtures("_data")
def test_a_training_mixture_takes_no_test_set() -> None:
    with pytest.raises(ConfigurationError, match=r"own: for evaluation, and the mixture is for training"):
        MixTasks(parts={"rulebook": 1, "own": (1, aipo_env.make_tasks("math500"))})
    tasks = MixTasks("test", parts="math500:1,aime24:1")
    with pytest.raises(ConfigurationError, match="allow_test_split"):
        aipo_env.require_training_split(tasks, "mix-consult")


@pytest.mark.parametrize(
    "parts", ["math", "math:x", {}, {"rulebook": 0}, {"rulebook": -1.0}, {"rulebook": float("nan")}]
)
def test_parts_that_are_none(parts: object) -> None:
    with pytest.raises(ConfigurationError, match="parts"):
        MixTasks(parts=parts)  # type: ignore[arg-type]


@pytest.mark.usefixtures("_data")
def test_programs_are_not_mixed_with_values() -> None:
    with pytest.raises(ConfigurationError, match="programs cannot be mixed"):
        MixTasks("test", parts="math500:1,livecodebench:1")
