"""What every plug-in should test: its parts keep their contracts, and work together."""

from __future__ import annotations

import gymnasium
from aipo_example_units.factors import convert
from aipo_example_units.tasks import UnitTasks

import aipo_env
from aipo_env.testing import check_agent, check_consult_env, check_taskset


def test_the_parts_keep_their_contracts() -> None:
    """Everything that is wrong with a part is in the message."""
    check_agent("converter")
    check_taskset(UnitTasks)
    check_taskset(lambda: UnitTasks("test", seed=7, largest=2))
    check_consult_env("units")
    check_consult_env("units-consult")


def test_the_ids_are_known() -> None:
    """Through the entry points alone."""
    assert {"units", "units-consult"} <= set(aipo_env.list_envs())
    assert "converter" in aipo_env.list_agents()
    ours, theirs = aipo_env.make("units-consult"), gymnasium.make("aipo/units-consult-v0")
    assert ours.reset(seed=1)[0]["prompt"] == theirs.reset(seed=1)[0]["prompt"]


def test_the_helper_solves_every_task() -> None:
    """So that learning from it can pay."""
    env = aipo_env.make("units-consult")
    for index in range(50):
        env.reset(options={"task_index": index})
        problem = env.episode.task.problem
        observation, *_ = env.step(aipo_env.Consult("converter", problem))
        reply = str(observation["prompt"]).rsplit('<feedback agent="converter">', 1)[1]
        answer = reply.removesuffix("</feedback>").rsplit(" = ", 1)[1]
        _, reward, terminated, _, _ = env.step(aipo_env.Answer(answer))
        assert (reward, terminated) == (1.0, True), (problem, reply)


def test_factors() -> None:
    """By value."""
    assert convert(3, "furlong", "yard") == 660
    assert convert(1, "inch", "mile") is None
    assert convert(1, "inch", "pint") is None
