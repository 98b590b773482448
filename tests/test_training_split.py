from __future__ import annotations

from pathlib import Path

import pytest

import aipo_env
from aipo_env.errors import ConfigurationError
from aipo_env.registry import env_spec
from aipo_env.tasks.base import is_for_evaluation
from aipo_env.tasks.mix import MixTasks
from aipo_env.training_split import evaluation_env, training_sets
from tests.helpers import SumTasks
from tests.tasks.small_data import for_this_machine, write_small_data

FAMILIES = [i for i in aipo_env.list_envs() if "/" not in i]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIPO_DATA", str(write_small_data(tmp_path)))
    return tmp_path


@pytest.mark.parametrize("env_id", for_this_machine(FAMILIES))
def test_repair_02_every_family_knows_what_its_splits_are_for(env_id: str, data: Path) -> None:
    splits = env_spec(env_id).splits
    assert splits in (("test",), ("train",), ("train", "test"))
    for split in splits:
        tasks = aipo_env.make_tasks(env_id, split=split)
        assert tasks.split == split  # type: ignore[attr-defined]
        assert is_for_evaluation(tasks) == (split == "test")


def test_repair_02_the_hubs_name_of_a_split_does_not_decide(data: Path) -> None:
    tasks = aipo_env.make_tasks("aime24", split="train")
    assert is_for_evaluation(tasks)


def test_repair_02_a_test_split_is_refused_and_training_sets_are_named(data: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'test' of math500-consult.*gsm8k.*rulebook.*allow_test_split"):
        aipo_env.require_training_split(aipo_env.make_tasks("math500-consult"), "math500-consult")
    with pytest.raises(ConfigurationError, match=r"its split 'train' \(the option `split train`\)"):
        aipo_env.require_training_split(aipo_env.make_tasks("gsm8k"), "gsm8k")
    aipo_env.require_training_split(aipo_env.make_tasks("math500"), "math500", allow_test_split=True)
    aipo_env.require_training_split(aipo_env.make_tasks("gsm8k", split="train"), "gsm8k")


@pytest.mark.parametrize("split", ["Test", "test[:50]", "train+test", "dev", "test_easy", "eval-2", "heldout"])
def test_repair_02_a_split_of_another_name_is_for_evaluation_too(split: str) -> None:
    tasks = SumTasks()
    tasks.split = split  # type: ignore[attr-defined]
    assert is_for_evaluation(tasks)


@pytest.mark.parametrize("split", ["train", "train[:50%]", "sft_v2", "latest", "contest", None])
def test_other_splits_may_be_trained_on(split: str | None) -> None:
    tasks = SumTasks()
    tasks.split = split  # type: ignore[attr-defined]
    assert not is_for_evaluation(tasks)


@pytest.mark.parametrize("split", ["train", "extra"])
def test_repair_02_no_mixture_hides_a_test_set(split: str) -> None:
    tasks = SumTasks()
    tasks.split = "test"  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="own: for evaluation"):
        MixTasks(split=split, parts={"own": (1, tasks)})


def test_a_family_without_splits_may_be_trained_on() -> None:
    tasks = SumTasks()
    aipo_env.require_training_split(tasks, "rulebook")
    tasks.split = "test"  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="no evaluation uses"):
        aipo_env.require_training_split(tasks, "rulebook")


def test_training_sets_have_a_training_split() -> None:
    assert {"gsm8k", "rulebook"} <= set(training_sets())
    assert not {"math500", "aime24", "aime25", "gpqa-diamond", "livecodebench"} & set(training_sets())


def test_an_evaluation_elsewhere_keeps_the_rules_and_not_the_choice_of_tasks() -> None:
    options = {"split": "train", "data": "rows.jsonl", "prompt": "plain", "max_consults": 2}
    assert evaluation_env("gsm8k-consult", options, None, {"split": "test"}) == (
        "gsm8k-consult",
        options | {"split": "test"},
    )
    elsewhere = evaluation_env("gsm8k-consult", options, "math500-consult", {"max_consults": 1})
    assert elsewhere == ("math500-consult", {"prompt": "plain", "max_consults": 1})
    # Where nobody is asked, rules about helpers are left out.
    assert evaluation_env("gsm8k-consult", options, "math500", {}) == ("math500", {"prompt": "plain"})
