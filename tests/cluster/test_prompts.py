from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo_env.errors import ConfigurationError, DataFormatError
from aipo_env.registry import make_game
from algorithms.cluster import launch
from algorithms.cluster.launch import prepare
from algorithms.cluster.options import ClusterConfig
from algorithms.cluster.prompts import PromptLabel, evaluation_game, export_prompts, task_range, training_game
from algorithms.codec import TransformersCodec
from algorithms.policies.embedded_model import build_tokenizer
from algorithms.policies.loading import EMBEDDED
from tests.helpers import SumTasks

CONFIG = ClusterConfig(env="rulebook-consult", env_options={"prompt": "bare", "style": "terse"})
MODEL = ["--actor.model_name_or_path", str(EMBEDDED)]


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@given(task=st.integers(0, 2**40), evaluation=st.booleans())
def test_labels_come_back(task: int, evaluation: bool) -> None:
    label = PromptLabel(task, evaluation)
    assert PromptLabel.from_text(label.to_text()) == label


@pytest.mark.parametrize("text", ["", "42", "null", '{"task": 1}', '{"task": "1", "evaluation": true}', None, "[]"])
def test_foreign_labels_are_refused(text: object) -> None:
    with pytest.raises(DataFormatError, match="label"):
        PromptLabel.from_text(text)


def test_exported_prompts_are_those_of_the_episodes_and_hold_no_gold(tmp_path: Path) -> None:
    game = training_game(CONFIG)
    file = export_prompts(game, range(5), tmp_path)
    assert (file.num_prompts, file.num_too_long) == (5, 0)
    for index, row in enumerate(rows(file.path)):
        assert row["prompt"] == game.make_episode(index).transcript
        assert PromptLabel.from_text(row["label"]) == PromptLabel(index)
        assert game.tasks.task(index).gold not in json.dumps(row)


def test_equal_contents_are_one_file(tmp_path: Path) -> None:
    game = training_game(CONFIG)
    first = export_prompts(game, range(3), tmp_path).path
    assert export_prompts(game, range(3), tmp_path).path == first
    assert export_prompts(game, range(4), tmp_path).path != first
    assert export_prompts(game, range(3), tmp_path, evaluation=True).path != first
    assert not list(tmp_path.glob("*.part"))


def test_prompts_that_fill_the_context_are_left_out(tmp_path: Path) -> None:
    codec = TransformersCodec(build_tokenizer())
    game = make_game("rulebook-consult", tasks=SumTasks(), prompt="bare")
    lengths = [len(codec.encode_prompt(game.make_episode(i).transcript)) for i in range(20)]
    limit = max(lengths)
    file = export_prompts(game, range(20), tmp_path, codec=codec, max_length=limit)
    assert 0 < file.num_too_long == lengths.count(limit) < 20
    with pytest.raises(ConfigurationError, match="max_len 3"):
        export_prompts(game, range(20), tmp_path, codec=codec, max_length=3)


def test_an_endless_family_needs_a_number() -> None:
    game = training_game(CONFIG)
    assert task_range(game, 7, "--aipo.num_tasks") == range(7)
    with pytest.raises(ConfigurationError, match=r"--aipo\.num_tasks"):
        task_range(game, None, "--aipo.num_tasks")


def test_a_finite_family_has_no_more_than_it_has() -> None:
    game = make_game("rulebook-consult", tasks=SumTasks())
    assert task_range(game, None, "--aipo.num_tasks") == range(100)
    assert task_range(game, 3, "--aipo.num_tasks") == range(3)
    with pytest.raises(ConfigurationError, match="more tasks"):
        task_range(game, 101, "--aipo.num_tasks")


def test_evaluation_has_its_own_options() -> None:
    config = ClusterConfig(
        env="rulebook-consult", env_options={"prompt": "bare"}, eval_tasks=2, eval_options={"split": "test"}
    )
    prompts = [game.make_episode(0).transcript for game in (training_game(config), evaluation_game(config))]
    assert prompts[0] != prompts[1]


def test_repair_02_a_test_split_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    config = ClusterConfig(env="rulebook-consult", env_options={"split": "test"}, num_tasks=4, cache=tmp_path)
    with pytest.raises(ConfigurationError, match=r"its split 'train'.*allow_test_split"):
        prepare(config, MODEL)
    prepare(dataclasses.replace(config, allow_test_split=True), MODEL)


def test_evaluation_may_be_another_environment(tmp_path: Path) -> None:
    data = tmp_path / "test.jsonl"
    data.write_text(json.dumps({"problem": "What is $1+1$?", "answer": "2"}) + "\n")
    config = ClusterConfig(
        env="rulebook-consult", env_options={"prompt": "bare", "style": "terse"}, num_tasks=4, cache=tmp_path,
        eval_env="math500-consult", eval_tasks=1, eval_options={"data": str(data)},
    )  # fmt: skip
    values = dict(itertools.pairwise(prepare(config, MODEL)))
    assert rows(Path(values["--eval.dataset"]))[0]["prompt"] == "What is $1+1$?"
    assert ClusterConfig.from_json(config.to_json()) == config
    with pytest.raises(ConfigurationError, match="eval_tasks is 0"):
        dataclasses.replace(config, eval_options={}, eval_tasks=0)


def test_openrlhfs_flags_are_completed(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, num_tasks=4, eval_tasks=2, eval_options={"split": "test"}, cache=tmp_path)
    flags = [*MODEL, "--data.max_len", "100", "--algo.advantage.estimator", "rloo"]
    full = prepare(config, flags)
    values = dict(itertools.pairwise(full))
    assert values["--algo.advantage.estimator"] == "rloo"  # the user's comes last
    prepare(config, [*MODEL, "--ckpt.output_dir", str(tmp_path / "model")])
    noted = json.loads((tmp_path / "model" / "training_data.json").read_text())
    assert noted["trained_on"].items() >= {"env": config.env, "purpose": "train", "source": "generated"}.items()
    assert len(rows(Path(values["--data.prompt_dataset"]))) == 4
    assert len(rows(Path(values["--eval.dataset"]))) == 2
    assert values["--data.input_key"] == "prompt"
    assert values["--data.label_key"] == "label"
    assert values["--train.agent_func_path"].endswith("algorithms/cluster/agent_func.py")
    text = " ".join(full)
    assert " ".join(flags) in text


def test_without_evaluation_there_is_no_file_for_it(tmp_path: Path) -> None:
    config = ClusterConfig(env="rulebook-consult", num_tasks=4, cache=tmp_path)
    assert "--eval.dataset" not in prepare(config, MODEL)


@pytest.mark.parametrize(
    ("fields", "flags", "message"),
    [
        ({}, ["--rollout.n_samples_per_prompt", "2"], "1 is solo and 1 assisted"),
        ({}, ["--algo.advantage.estimator=reinforce"], "reinforce has no baseline"),
        (
            {"policy_baseline": "group", "agent_baseline": "solo"},
            ["--algo.advantage.estimator", "flash_reinforce"],
            "agent_baseline solo",
        ),
    ],
)
def test_baselines_with_nothing_to_compare_are_refused(
    fields: dict[str, str], flags: list[str], message: str, tmp_path: Path
) -> None:
    config = ClusterConfig(env="rulebook-consult", num_tasks=4, cache=tmp_path, **fields)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=message):
        prepare(config, [*MODEL, *flags])
    group = dataclasses.replace(config, policy_baseline="group", agent_baseline="group")
    prepare(group, [*MODEL, *flags])


@pytest.mark.parametrize(
    ("env", "solo_share"), [("rulebook", 0.5), ("rulebook-consult", 0.0), ("rulebook-consult", 1.0)]
)
def test_two_samples_of_one_mode_can_be_compared(env: str, solo_share: float, tmp_path: Path) -> None:
    config = ClusterConfig(env=env, num_tasks=4, cache=tmp_path, solo_share=solo_share)
    assert "--data.prompt_dataset" in prepare(config, [*MODEL, "--rollout.n_samples_per_prompt", "2"])


@pytest.mark.parametrize("flag", sorted(launch._OWNED))
def test_flags_of_the_learner_are_refused(flag: str, tmp_path: Path) -> None:
    config = ClusterConfig(env="rulebook-consult", num_tasks=4, cache=tmp_path)
    with pytest.raises(ConfigurationError, match=flag):
        prepare(config, [*MODEL, flag, "x"])


def test_a_model_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="model_name_or_path"):
        prepare(ClusterConfig(env="rulebook-consult", num_tasks=4, cache=tmp_path), [])


def test_solo_share_where_nobody_answers_is_refused(tmp_path: Path) -> None:
    config = ClusterConfig(env="rulebook", num_tasks=4, cache=tmp_path, solo_share=0.25)
    with pytest.raises(ConfigurationError, match="rulebook-consult"):
        prepare(config, MODEL)
    prepare(ClusterConfig(env="rulebook", num_tasks=4, cache=tmp_path), MODEL)


def test_options_that_have_flags_of_their_own_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="consult_timeout"):
        training_game(ClusterConfig(env="rulebook-consult", env_options={"consult_timeout": 3}))
