from __future__ import annotations

import asyncio
import importlib.util

import pytest

import aipo_env
from aipo_agents import VerifyAgent
from aipo_agents.verdicts import leading_verdict
from aipo_env.errors import ConfigurationError, MissingDependencyError
from aipo_env.protocol import ConsultRequest
from aipo_env.tasks.champ import ChampTasks, marked_solutions
from aipo_env.testing import check_taskset
from aipo_env.training_split import require_training_split

INSTALLED = importlib.util.find_spec("champ_dataset") is not None
needs_champ = pytest.mark.skipif(not INSTALLED, reason="needs the package champ-dataset")


@pytest.mark.skipif(INSTALLED, reason="is about machines without champ-dataset")
def test_without_the_package_the_message_says_what_to_install() -> None:
    with pytest.raises(MissingDependencyError, match="pip install champ-dataset"):
        aipo_env.make("champ-consult")
    with pytest.raises(MissingDependencyError, match="pip install champ-dataset"):
        ChampTasks()


@needs_champ
def test_problems_are_those_with_a_number_or_a_formula() -> None:
    tasks = ChampTasks()
    known = tasks.provenance()
    assert (known["source"], known["revision"], known["rows_read"]) == ("package", "1.0.0", 270)
    assert 140 <= tasks.num_tasks <= 200
    golds = {tasks.task(i).id: tasks.task(i).gold for i in range(tasks.num_tasks)}
    assert golds["champ/P_Combinatorics_1"] == "239"
    assert not {"No", "Yes", "At least 1 number", "Exactly one"} & set(golds.values())
    assert not any("i.e." in gold or "only possible" in gold or "equivalently" in gold for gold in golds.values())
    for index in range(tasks.num_tasks):
        assert tasks.grade(tasks.task(index), tasks.task(index).gold).correct
    check_taskset(tasks)
    with pytest.raises(ConfigurationError, match="no evaluation uses"):
        require_training_split(tasks, "champ")


@needs_champ
def test_knowledge_gives_concepts_and_reasoning_hints() -> None:
    env = aipo_env.make("champ-consult")
    tasks = env.tasks
    assert isinstance(tasks, ChampTasks)
    index = next(i for i in range(tasks.num_tasks) if tasks.task(i).id == "champ/P_Combinatorics_1")
    hints = tasks.task(index).hints
    assert (len(hints["knowledge"]), len(hints["reasoning"])) == (1, 3)
    env.reset(seed=0, options={"task_index": index})
    for agent in ("knowledge", "reasoning"):
        seen = env.step(f'<consult agent="{agent}">What helps?</consult>')[0]
        assert hints[agent][0] in str(seen)
    everything = [
        hint
        for i in range(tasks.num_tasks)
        for kind in ("knowledge", "reasoning")
        for hint in tasks.task(i).hints[kind]
    ]
    assert len(everything) > 300


@needs_champ
def test_verify_tells_wrong_solutions_from_right_ones_better_than_chance() -> None:
    """A checker of claims sees little of a whole solution in words, and takes some loose notation for a mistake."""
    marked = marked_solutions()
    assert len(marked) == 540
    assert sum(step is None for _, step in marked) == 96
    agent = VerifyAgent()

    async def verdicts() -> list[str | None]:
        requests = [
            ConsultRequest(query=text, transcript="", task_id=f"t/{i}", seed=0, deadline=None)
            for i, (text, _) in enumerate(marked)
        ]
        return [leading_verdict((await agent.respond(request)).text) for request in requests]

    found = asyncio.run(verdicts())
    wrong = [verdict == "incorrect" for verdict in found]
    false_alarms = sum(w for w, (_, step) in zip(wrong, marked, strict=True) if step is None)
    hits = sum(w for w, (_, step) in zip(wrong, marked, strict=True) if step is not None)
    print(f"hits {hits}/444, false alarms {false_alarms}/96, correct {sum(v == 'correct' for v in found)}")
    assert false_alarms / 96 < 0.2
    assert hits / 444 > false_alarms / 96
