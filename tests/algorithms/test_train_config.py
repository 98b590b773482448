"""Which settings of a run are taken, and what is said about the others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aipo_env.errors import ConfigurationError
from aipo_env.groups import num_solo
from algorithms.cluster.executor import is_solo
from algorithms.config import ObjectiveConfig
from algorithms.train_config import TrainConfig

SLIPS = {
    "TrainConfig(steps='10')": r"steps must be of the type int, got '10' \(str\). Write steps=10\.",
    "TrainConfig(steps=1.5)": r"steps must be of the type int, got 1.5 \(float\)",
    "TrainConfig(steps=True)": "steps must be of the type int, got True",
    "TrainConfig(learning_rate='1e-4')": "learning_rate must be of the type float . None, got '1e-4'",
    "TrainConfig(objective='grpo')": "objective must be of the type ObjectiveConfig, got 'grpo'.*objective=ObjectiveConfig",
    "TrainConfig(sampling={'max_tokens': 9})": r"sampling must be.*Write sampling=SamplingConfig\(\.\.\.\)",
    "TrainConfig(agents='knowledge')": r"agents must be of the type tuple.*Write agents=\('knowledge',\)",
    "TrainConfig(agents=[1])": r"agents must be of the type tuple\[str, ...\], got \[1\]",
    "TrainConfig(out=3)": "out must be of the type Path, got 3",
    "TrainConfig(env_options=[('level', 2)])": "env_options is a table of options, got",
    "TrainConfig(betas=(0.9,))": "betas must be of the type tuple",
    "TrainConfig(betas=(0.9, 1.0))": "betas must be at least 0 and below 1",
    "TrainConfig(weight_decay=-1.0)": "weight_decay",
    "TrainConfig(learning_rate=math.nan)": "above 0",
    "TrainConfig(learning_rate=math.inf)": "above 0",
    "TrainConfig(device=None)": "device must be of the type str, got None",
    "SamplingConfig(max_tokens='9')": "max_tokens must be of the type int, got '9'",
    "SamplingConfig(temperature=math.nan)": "temperature",
    "ObjectiveConfig(c_max='2')": "c_max must be of the type float, got '2'",
    "ObjectiveConfig(policy_baseline='mod')": "policy_baseline must be one of mode, group, but it is 'mod'; did you mean 'mode'",
    "ObjectiveConfig(advantage='meen')": "advantage must be one of mean, .*did you mean 'mean'",
    "ObjectiveConfig(algorithm=3)": "algorithm must be of the type Algorithm, got 3",
}
PLAIN = {
    "TrainConfig(out='runs/x').out": repr(Path("runs/x")),
    "TrainConfig(agents=['knowledge']).agents": "('knowledge',)",
    "TrainConfig(betas=[0.8, 0.9]).betas": "(0.8, 0.9)",
    "TrainConfig(steps=np.int64(7)).steps": "7",
    "TrainConfig(learning_rate=1).learning_rate": "1",
    "TrainConfig(learning_rate=np.float32(0.5)).learning_rate": "0.5",
    "TrainConfig(learning_rate=None, final_solo_share=None).final_solo_share": "None",
    "ObjectiveConfig(c_max=math.inf, rollout_clip=[0.5, 2]).rollout_clip": "(0.5, 2)",
}
READ = """
import json, math, sys
import numpy as np
from aipo_env.errors import ConfigurationError
from algorithms.config import ObjectiveConfig
from algorithms.train_config import SamplingConfig, TrainConfig
said = {}
for expression in json.loads(sys.argv[1]):
    try:
        said[expression] = repr(eval(expression))
    except ConfigurationError as error:
        said[expression] = f"refused: {error}"
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """What comes of each expression in a process of its own: the run-time type checks of the tests would come first here."""
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps([*SLIPS, *PLAIN])], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("expression", SLIPS)
def test_repair_26_slips_in_the_settings_are_told_in_words(said: dict[str, str], expression: str) -> None:
    assert re.match(f"(?s)refused: .*{SLIPS[expression]}", said[expression]), said[expression]


@pytest.mark.parametrize("expression", PLAIN)
def test_repair_26_what_has_a_plain_meaning_is_taken(said: dict[str, str], expression: str) -> None:
    assert said[expression] == PLAIN[expression]


@pytest.mark.parametrize(
    ("samples", "share", "solo"), [(2, 0.5, 1), (3, 0.5, 2), (4, 0.25, 1), (8, 0.125, 1), (8, 0.9, 7), (3, 0.4, 1)]
)
def test_repair_12_modes_with_one_rollout_are_refused(samples: int, share: float, solo: int) -> None:
    with pytest.raises(
        ConfigurationError, match=f"samples_per_prompt {samples} samples {solo} is solo and {samples - solo} assisted"
    ):
        TrainConfig(samples_per_prompt=samples, solo_share=share)
    with pytest.raises(
        ConfigurationError, match=f"samples_per_prompt {samples} samples {solo} is solo and {samples - solo} assisted"
    ):
        TrainConfig(samples_per_prompt=samples, solo_share=1.0, final_solo_share=share)
    TrainConfig(samples_per_prompt=samples, solo_share=share, objective=ObjectiveConfig(policy_baseline="group"))


@pytest.mark.parametrize(("samples", "share"), [(2, 0.0), (2, 1.0), (4, 0.5), (5, 0.5), (8, 0.25)])
def test_repair_12_modes_that_can_be_compared_are_taken(samples: int, share: float) -> None:
    assert TrainConfig(samples_per_prompt=samples, solo_share=share).num_solo(0) == num_solo(share, samples)


@pytest.mark.parametrize("samples", [2, 3, 4, 8, 16])
def test_repair_12_no_step_of_a_schedule_leaves_a_mode_alone(samples: int) -> None:
    config = TrainConfig(samples_per_prompt=samples, solo_share=0.0, final_solo_share=1.0, steps=101)
    counts = [config.num_solo(step) for step in range(101)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, samples)
    assert set(counts) == set(range(samples + 1)) - {1, samples - 1}
    group = TrainConfig(
        samples_per_prompt=samples, solo_share=0.0, final_solo_share=1.0, steps=101,
        objective=ObjectiveConfig(policy_baseline="group"),
    )  # fmt: skip
    assert {group.num_solo(step) for step in range(101)} == set(range(samples + 1))


@pytest.mark.parametrize("samples", [5, 6, 7, 8, 10, 16])
@pytest.mark.parametrize("share", [0.0, 0.35, 0.5, 1.0])
def test_repair_12_both_trainers_round_the_share_alike(samples: int, share: float) -> None:
    """Five samples were 2 solo ones here, and 3 on the cluster."""
    single = TrainConfig(samples_per_prompt=samples, solo_share=share).num_solo(0)
    assert single == sum(is_solo(sample, share) for sample in range(samples))
    assert num_solo(0.5, 5) == 3
