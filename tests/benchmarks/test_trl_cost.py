from __future__ import annotations

import pytest

from benchmarks.trl_cost import WAYS, Settings, measure

pytest.importorskip("trl", reason="the extra 'trl' is not installed")


@pytest.mark.filterwarnings("ignore")  # of the libraries about each other
@pytest.mark.parametrize("way", WAYS)
def test_each_way_trains(way: str) -> None:
    found = measure(way, 2)
    assert set(found) == {"tokens a second", "seconds a step", "memory"}
    assert found["tokens a second"] > 0
    # 256 rollouts of a prompt of 8 tokens and at least one more.
    assert found["tokens a second"] * found["seconds a step"] >= 256 * 9


def test_one_step_has_nothing_to_time() -> None:
    with pytest.raises(ValueError, match="steps is at least 2"):
        Settings(steps=1)
