"""The environment ids that this package brings."""

from __future__ import annotations

from aipo_env import EnvSpec

_TASKS = "aipo_example_units.tasks:UnitTasks"

UNITS = EnvSpec(
    "units", _TASKS, assisted=False, description="unit conversions, solo", options={"agents": ["converter"]}
)
UNITS_CONSULT = EnvSpec(
    "units-consult",
    _TASKS,
    assisted=True,
    description="unit conversions, with helpers",
    options={"agents": ["converter"], "max_turns": 4},
)
