"""Checks of what others write: helpers, task families, environments, dialects. Like Gymnasium's `check_env`, without pytest.

    from aipo_env.testing import check_agent, check_consult_env, check_dialect, check_taskset

    check_agent("my_package:Librarian")
    check_taskset(MyTasks)
    check_consult_env("my-tasks-consult")
    check_dialect(MyDialect, codec)

Each raises `ConformanceError`, whose message lists everything that is wrong, and returns remarks on what is allowed but
rarely meant.
"""

from __future__ import annotations

from aipo_env.testing.agents import check_agent
from aipo_env.testing.dialects import check_dialect
from aipo_env.testing.environments import check_consult_env
from aipo_env.testing.report import ConformanceError
from aipo_env.testing.tasksets import check_taskset

__all__ = ["ConformanceError", "check_agent", "check_consult_env", "check_dialect", "check_taskset"]
