from __future__ import annotations

from typing import Any

import pytest

from aipo_env.errors import ConfigurationError
from aipo_env.registry import make_tasks
from benchmarks.evaluation import EvaluationConfig
from benchmarks.evaluation.plan import RunPlan, plan_run
from benchmarks.evaluation.suites import find_suite
from tests.helpers import SumTasks


def plan(own_context: int | None = None, tasks: object = None, **options: Any) -> RunPlan:
    config = EvaluationConfig("rulebook", **options)
    family = tasks or make_tasks("rulebook-consult")
    return plan_run(config, find_suite("rulebook"), family, assisted=True, own_context=own_context)  # type: ignore[arg-type]


def test_defaults_are_the_suites_and_what_is_given_wins() -> None:
    default = plan()
    assert (default.num_samples, default.temperature, default.max_tokens, len(default.tasks)) == (16, 1.0, 256, 256)
    assert default.name == "rulebook.assisted"
    given = plan(samples=2, temperature=0.3, top_p=0.5, max_tokens=7, num_tasks=3, seed=4, context=20)
    assert given.sampling() == {
        "temperature": 0.3, "top_p": 0.5, "max_tokens": 7, "context": 20, "greedy": False,
    }  # fmt: skip
    assert list(given.episodes()) == [(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1), (2, 2, 0), (2, 2, 1)]


def test_tasks_are_the_first_or_those_that_are_named() -> None:
    assert plan(tasks=SumTasks(), num_tasks=1000).tasks == tuple(range(100))
    with pytest.raises(ConfigurationError, match="names a task twice"):
        plan_run(
            EvaluationConfig("rulebook", tasks=(1, 1)),
            find_suite("rulebook"),
            SumTasks(),
            assisted=False,
            own_context=None,
        )
    with pytest.raises(ConfigurationError, match=r"--tasks 100: rulebook has the tasks 0 to 99"):
        plan_run(
            EvaluationConfig("rulebook", tasks=(3, 100)),
            find_suite("rulebook"),
            SumTasks(),
            assisted=False,
            own_context=None,
        )
    config = EvaluationConfig("rulebook", tasks=(9, 3))
    chosen = plan_run(config, find_suite("rulebook"), SumTasks(), assisted=False, own_context=None)
    assert (chosen.tasks, chosen.mode) == ((9, 3), "solo")


def test_the_context_is_the_models_unless_less_is_asked_for() -> None:
    assert plan(own_context=512).context == 512
    assert plan(own_context=512, context=100).context == 100
    assert plan(context=100).context == 100
    with pytest.raises(ConfigurationError, match=r"--context 600 is more than the 512 tokens that embedded takes"):
        plan(own_context=512, context=600)
