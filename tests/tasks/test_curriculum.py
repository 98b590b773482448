from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from aipo_env.registry import make_tasks
from aipo_env.tasks.curriculum import BUFFER_SHARE, Curriculum, CurriculumName
from aipo_env.tasks.mix import MixTasks
from tests.helpers import SumTasks


def draws(curriculum: Curriculum, batches: int = 50, count: int = 8, seed: int = 0) -> list[int]:
    rng = np.random.default_rng(seed)
    return [index for _ in range(batches) for index in curriculum.draw(rng, count)]


def evaluated(path: Path, *tasks: tuple[str, int, dict[str, tuple[int, int]]]) -> Path:
    """What `aipo eval` writes, as far as it is read: id, index, correct and finished episodes by mode."""
    runs = [
        {
            "mode": mode,
            "tasks": [
                {"id": task_id, "index": index, "num_correct": counts[mode][0], "num_samples": counts[mode][1]}
                for task_id, index, counts in tasks
                if mode in counts
            ],
        }
        for mode in ("solo", "assisted")
    ]
    path.write_text(json.dumps({"runs": runs}))
    return path


def test_uniform_draws_as_the_family_does_and_leaves_the_generator_to_others() -> None:
    curriculum = Curriculum("uniform", SumTasks())
    curriculum.observe(3, [False] * 4, [True] * 4)
    ours, plain = np.random.default_rng(7), np.random.default_rng(7)
    drawn = [(index, int(ours.integers(2**31))) for index in curriculum.draw(ours, 20)]
    assert drawn == [(SumTasks().sample_index(plain), int(plain.integers(2**31))) for _ in range(20)]
    assert curriculum.metrics() == {}


def test_hard_leaves_out_what_the_policy_solves_alone() -> None:
    curriculum = Curriculum("hard", SumTasks(), max_solo_rate=0.25)
    for index in range(50):
        curriculum.observe(index, [index % 2 == 0] * 3 + [False], [True] * 4)  # 3 of 4, or none
    curriculum.observe(99, [True, False, False, False], [])  # at the bound
    found = Counter(draws(curriculum, batches=400))
    assert not any(index in found for index in range(0, 50, 2))
    assert {index for index in range(50) if index % 2} | set(range(50, 100)) == found.keys()
    # Alike among those that are left: 3,200 draws of 75 tasks.
    assert max(found.values()) < 2 * min(found.values()) + 20
    assert curriculum.metrics() == {"curriculum/known": 51.0, "curriculum/hard": 26.0, "curriculum/frontier": 25.0}


def test_hard_takes_the_hardest_where_nothing_is_hard() -> None:
    curriculum = Curriculum("hard", SumTasks())
    for index in range(100):
        curriculum.observe(index, [True] * (2 if index == 42 else 4) + [False], [])
    assert Counter(draws(curriculum)).most_common(1)[0][0] == 42


def test_the_frontier_is_what_fails_alone_and_is_solved_with_help() -> None:
    curriculum = Curriculum("frontier", SumTasks())
    curriculum.observe(1, [False] * 4, [True, False, False, False])
    curriculum.observe(2, [False] * 4, [False] * 4)  # help does not help
    curriculum.observe(3, [True] * 4, [True] * 4)  # it can
    curriculum.observe(4, [False] * 4, [])  # nothing is known with help
    curriculum.observe(5, [], [True] * 4)  # nor alone
    curriculum.observe(6, [False] * 4, [True] * 4)
    assert curriculum.buffer() == [1, 6]
    # Half of a batch at most, each task once.
    rng = np.random.default_rng(0)
    batch = list(curriculum.draw(rng, 8))
    assert sorted(batch[:2]) == [1, 6]
    assert len(batch) == 8
    for index in range(10, 30):
        curriculum.observe(index, [False] * 4, [True] * 4)
    found = Counter(draws(curriculum, batches=500))
    inside = sum(found[index] for index in curriculum.buffer())
    expected = 500 * 8 * (BUFFER_SHARE + (1 - BUFFER_SHARE) * 22 / 100)
    assert abs(inside - expected) < 120  # four standard deviations
    assert found.keys() >= set(range(100)) - {0}  # and the rest finds new ones
    batch = list(curriculum.draw(rng, 8))
    assert len(set(batch[:4])) == 4


def test_what_is_learnt_leaves_the_frontier_and_comes_back_when_it_is_forgotten() -> None:
    curriculum = Curriculum("frontier", SumTasks())
    curriculum.observe(1, [False] * 4, [True] * 4)
    curriculum.observe(1, [True] * 4, [])
    assert curriculum.buffer() == []
    assert curriculum.solo_rate(1) == pytest.approx(4 / 6)  # the earlier four count half
    curriculum.observe(1, [False] * 4, [])
    curriculum.observe(1, [False] * 4, [])
    assert curriculum.buffer() == [1]  # what is known of help has stayed
    for _ in range(3):
        curriculum.observe(1, [False] * 4, [False] * 4)
    assert curriculum.buffer() == []  # help does not help any more


@pytest.mark.parametrize("name", ["hard", "frontier"])
def test_a_curriculum_goes_on_from_its_state_to_the_bit(name: CurriculumName) -> None:
    whole = Curriculum(name, SumTasks())
    rng = np.random.default_rng(3)

    def play(curriculum: Curriculum, rng: np.random.Generator) -> list[int]:
        batch = list(curriculum.draw(rng, 6))
        for index in batch:
            curriculum.observe(index, [index % 3 == 0] * 3, [index % 2 == 0] * 3)
        return batch

    for _ in range(10):
        play(whole, rng)
    later = Curriculum(name, SumTasks())
    later.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    other = np.random.default_rng()
    other.bit_generator.state = rng.bit_generator.state
    assert [play(whole, rng) for _ in range(20)] == [play(later, other) for _ in range(20)]
    assert whole.state_dict() == later.state_dict()
    fresh = Curriculum(name, SumTasks())
    other.bit_generator.state = rng.bit_generator.state
    assert [play(whole, rng) for _ in range(5)] != [play(fresh, other) for _ in range(5)]


def test_an_evaluation_says_what_is_known_before_the_first_step(tmp_path: Path) -> None:
    rates = evaluated(
        tmp_path / "results.json",
        ("sums/7", 0, {"solo": (0, 8), "assisted": (5, 8)}),  # the id counts, whatever the place was
        ("sums/8", 8, {"solo": (8, 8)}),
        ("others/1", 1, {"solo": (8, 8)}),
    )
    curriculum = Curriculum("frontier", SumTasks(), rates=tmp_path)
    assert curriculum.buffer() == [7]
    assert 8 not in draws(Curriculum("hard", SumTasks(), rates=rates))
    rulebook = make_tasks("rulebook", split="train")
    rates = evaluated(tmp_path / "results.json", (rulebook.task(12345).id, 12345, {"solo": (3, 4)}))
    assert Curriculum("hard", rulebook, rates=rates).solo_rate(12345) == 0.75
    with pytest.raises(ConfigurationError, match="measured none of these tasks of sums"):
        Curriculum("hard", SumTasks(), rates=rates)
    with pytest.raises(DataNotFoundError, match="results"):
        Curriculum("hard", SumTasks(), rates=tmp_path / "nothing")
    rates.write_text('{"runs": [{}]}')
    with pytest.raises(DataFormatError, match="is no results"):
        Curriculum("hard", SumTasks(), rates=rates)


def test_endless_tasks_and_mixtures_have_a_frontier_too() -> None:
    mix = MixTasks(parts={"rulebook": 1, "sums": (1, SumTasks())})
    curriculum = Curriculum("frontier", mix)
    index = mix.sample_index(np.random.default_rng(0))
    curriculum.observe(index, [False] * 4, [True] * 4)
    assert next(curriculum.draw(np.random.default_rng(1), 4)) == index


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aipo_env.tasks.curriculum.MAX_KNOWN", 3)
    curriculum = Curriculum("frontier", SumTasks())
    for index in (1, 2, 3, 1, 4):
        curriculum.observe(index, [False], [True])
    assert curriculum.buffer() == [3, 1, 4]
