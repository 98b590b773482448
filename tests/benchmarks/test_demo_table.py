from __future__ import annotations

import pytest

from aipo_env.errors import DataFormatError
from benchmarks.demo_table import demo_table


def summary(seed: int, solo: float) -> dict[str, object]:
    methods = {
        m: {"solo_pass1": solo * (m == "aipo"), "solo_pass8": 0.0, "assisted_pass1": 0.8, "seconds": 9.0}
        for m in ("start", "grpo", "mask", "aipo")
    }
    return {**methods, "seed": seed, "steps": 5, "rollouts": 80, "seconds": 10.0 + seed}


def test_every_seed_and_the_median_are_shown() -> None:
    page = demo_table([summary(0, 0.5), summary(1, 0.9), summary(2, 0.7)])
    assert "| AIPO | 0.500 0.900 0.700 · **0.700** |" in page
    assert "| GRPO, no helpers | 0.000 0.000 0.000 · **0.000** |" in page
    assert "5 steps, 80 rollouts for each method; seeds 0, 1, 2; 10 to 12 s" in page
    assert "LUFFY" not in page


def test_runs_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(DataFormatError, match="one budget"):
        demo_table([summary(0, 0.5), summary(1, 0.9) | {"steps": 6}])
    with pytest.raises(DataFormatError, match="lacks"):
        demo_table([{"seed": 1}])
