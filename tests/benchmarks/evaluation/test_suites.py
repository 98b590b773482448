from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from aipo_env.errors import ConfigurationError, UnknownIdError
from aipo_env.registry import make_tasks
from aipo_env.tasks.curriculum import Curriculum
from benchmarks.evaluation import EvaluationConfig, evaluate_policy
from benchmarks.evaluation.suites import SUITES, Suite, find_suite


def test_the_defaults_are_those_that_the_sources_say() -> None:
    sampled = {name: (s.num_samples, s.temperature, s.top_p, s.max_tokens) for name, s in SUITES.items()}
    assert sampled == {
        "math500": (4, 0.6, 0.95, 32768),
        "aime24": (32, 0.6, 0.95, 32768),
        "aime25": (32, 0.6, 0.95, 32768),
        "aime26": (32, 0.6, 0.95, 32768),
        "hmmt-feb26": (32, 0.6, 0.95, 32768),
        "beyondaime": (32, 0.6, 0.95, 32768),
        "amc23": (32, 0.6, 0.95, 32768),
        "olympiadbench": (1, 0.6, 0.95, 32768),
        "minerva": (1, 0.6, 0.95, 32768),
        "gpqa-diamond": (8, 0.6, 0.95, 32768),
        "livecodebench": (16, 0.6, 0.95, 32768),
        "gsm8k": (1, 0.0, 1.0, 1024),
        "rulebook": (16, 1.0, 1.0, 256),
    }
    for suite in SUITES.values():
        assert suite.source
        assert suite.env_id.endswith("-consult")
        # Whoever reads the defaults in the table finds the number of samples in the words beside it.
        if suite.num_samples > 1 and suite.name != "rulebook":
            assert str(suite.num_samples) in suite.source


def test_unknown_suites_name_the_nearest() -> None:
    with pytest.raises(UnknownIdError, match="Did you mean 'aime24'"):
        find_suite("aime2024")


def test_pass_rates_of_training_sets_are_measured_and_a_curriculum_reads_them(tmp_path: Path) -> None:
    suite = find_suite("dapo-math")
    assert (suite.env_id, suite.num_samples, suite.temperature) == ("dapo-math-consult", 8, 1.0)
    assert suite.env_options == {"split": "train"}
    with pytest.raises(UnknownIdError):
        find_suite("dapo-math-consult")
    options = {"split": "train", "level": 1}
    evaluate_policy(
        EvaluationConfig(
            "rulebook", mode="both", num_tasks=3, samples=2, max_tokens=32, out=str(tmp_path), env_options=dict(options)
        )
    )
    curriculum = Curriculum("hard", make_tasks("rulebook", style="terse", **options), rates=tmp_path)
    assert curriculum.metrics()["curriculum/known"] == 3
    assert None not in map(curriculum.solo_rate, range(3))


def test_a_greedy_suite_takes_one_sample() -> None:
    with pytest.raises(ConfigurationError, match=r"temperature 0 is greedy, so 4 samples .* would be the same"):
        dataclasses.replace(SUITES["math500"], temperature=0.0)
    assert isinstance(dataclasses.replace(SUITES["math500"], temperature=0.0, num_samples=1), Suite)
