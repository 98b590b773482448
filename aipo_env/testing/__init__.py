"""Checks of parts that others write: helpers, task families, environments. Like Gymnasium's `check_env`, and without pytest.

    from aipo_env.testing import check_agent, check_consult_env, check_taskset

    check_agent("my_package:Librarian")
    check_taskset(MyTasks)
    check_consult_env("my-tasks-consult")

Each raises `ConformanceError`, whose message lists everything that is wrong, and returns remarks on what is allowed but
rarely meant.
"""

from __future__ import annotations

from aipo_env.testing.agents import check_agent
from aipo_env.testing.environments import check_consult_env
from aipo_env.testing.report import ConformanceError
from aipo_env.testing.tasksets import check_taskset

__all__ = ["ConformanceError", "check_agent", "check_consult_env", "check_taskset"]
