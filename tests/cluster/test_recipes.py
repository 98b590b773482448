"""The recipes of examples/cluster start what docs/cluster.md says, with flags that exist."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from aipo_env.parsing import parse
from aipo_env.registry import env_spec, make_agent, make_game
from algorithms.cluster.launch import _OWNED
from algorithms.cluster.options import parse_options, split_arguments
from algorithms.cluster.plan import Plan, RunShape, plan
from algorithms.commands import warmup
from algorithms.train_config import TrainConfig
from benchmarks.evaluation.config import EvaluationConfig
from tests.cluster.recipes import FOLDER, SCRIPTS, aipo_commands, learner_flags, started_by


def value(flags: list[str], name: str) -> int:
    return int(flags[flags.index(name) + 1])


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_recipe_starts_the_learner(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = split_arguments(learner_flags(script, tmp_path))
    config = parse_options(ours)
    assert config.env == "math-consult"
    assert env_spec(config.env).splits == ("train",)
    assert (config.eval_env, config.eval_tasks) == ("math500-consult", 500)
    assert not set(theirs) & set(_OWNED)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("AIPO_HELPER_URL", "http://127.0.0.1:8100/v1")
    monkeypatch.setenv("AIPO_HELPER_MODEL", "embedded")  # its tokenizer is at hand
    for agent in config.agents:
        name, _, path = agent.partition("=")
        assert make_agent(path, name).name == name
    sys.modules.pop("served_helpers", None)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_sizes_fit_together(script: str, tmp_path: Path) -> None:
    flags = learner_flags(script, tmp_path)
    ranks = value(flags, "--actor.num_nodes") * value(flags, "--actor.num_gpus_per_node")
    episodes = value(flags, "--rollout.batch_size") * value(flags, "--rollout.n_samples_per_prompt")
    # One optimizer step a batch, split evenly: then the AGENT term needs no pass of an older policy.
    assert value(flags, "--train.batch_size") == episodes
    assert episodes % ranks == 0
    if "--train.colocate_all" in flags:
        assert value(flags, "--vllm.num_engines") == ranks
        assert value(flags, "--ref.num_nodes") == value(flags, "--actor.num_nodes")


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_plan_in_its_head_fits(script: str, tmp_path: Path) -> None:
    lines = (FOLDER / script).read_text(encoding="utf-8").splitlines()
    head = next(line for line in lines if "aipo plan" in line)
    run = parse(RunShape, shlex.split(head.partition("aipo plan")[2], comments=True), "aipo plan")()
    flags = learner_flags(script, tmp_path)
    assert run.prompts_per_step == value(flags, "--rollout.batch_size")
    assert run.group_size == value(flags, "--rollout.n_samples_per_prompt")
    assert run.context == value(flags, "--data.max_len")
    assert run.training_gpus == value(flags, "--actor.num_nodes") * value(flags, "--actor.num_gpus_per_node")
    assert run.rollout_gpus == value(flags, "--vllm.num_engines") * value(flags, "--vllm.tensor_parallel_size")
    assert plan(run).problems == []


def planned(script: str) -> Plan:
    lines = (FOLDER / script).read_text(encoding="utf-8").splitlines()
    head = next(line for line in lines if "aipo plan" in line)
    return plan(parse(RunShape, shlex.split(head.partition("aipo plan")[2], comments=True), "aipo plan")())


def test_the_table_in_the_docs_is_what_the_plan_says() -> None:
    text = (FOLDER.parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")
    plans = [planned(script) for script in ("one_node_colocated.sh", "one_node_async.sh", "slurm.sh")]
    rows = {
        "a GPU that trains, GiB": [f"{sum(p.training_gib.values()):.1f}" for p in plans],
        "of it logits, GiB": [f"{p.training_gib['logits']:.1f}" for p in plans],
        "rollout, s": [f"{p.seconds['rollout']:.1f}" for p in plans],
        "training, s": [f"{p.seconds['training']:.1f}" for p in plans],
        "a step, s": [f"{p.step_seconds:.0f}" for p in plans],
        "helpers: asked / can answer, per s": [
            f"{p.helper_requests_per_second:.1f} / {p.helper_capacity:.1f}" for p in plans
        ],
    }
    for name, values in rows.items():
        assert f"| {name} | {' | '.join(values)} |" in text, name


@pytest.mark.parametrize("script", [*SCRIPTS, "../single_machine.sh"])
def test_the_commands_around_the_training_parse(script: str, tmp_path: Path) -> None:
    commands = aipo_commands(script, tmp_path)
    evaluation = parse(EvaluationConfig, commands["eval"], "aipo eval")()
    assert {"math500", "aime24", "aime25", "gpqa-diamond"} <= set(evaluation.suites)
    assert (evaluation.modes, set(commands) <= {"eval", "warmup", "train"}) == ((False,), True)
    start: list[object] = []
    if "warmup" in commands:
        options = parse(warmup, commands["warmup"], "aipo warmup").keywords
        start.append((options["out"], options["unless_asks"]))
    if script not in SCRIPTS:
        config = parse(TrainConfig, commands["train"], "aipo train")()
        assert (config.env, config.eval_env, start) == (
            "math-consult",
            "math500-consult",
            [(Path(config.policy), 0.05)],
        )
        assert evaluation.policy == str(config.out / "policy")
        assert make_game("rulebook-consult", **config.env_options).config.leak_filter  # type: ignore[arg-type]
        return
    (tmp_path / "again").mkdir()
    flags = learner_flags(script, tmp_path / "again")
    assert evaluation.policy == flags[flags.index("--ckpt.output_dir") + 1]
    if start:
        policy = Path(flags[flags.index("--actor.model_name_or_path") + 1])
        assert start == [(policy.relative_to(FOLDER), 0.05)]


def test_the_helpers_of_several_nodes_have_one_to_themselves(tmp_path: Path) -> None:
    commands = [shlex.join(command) for command in started_by("slurm.sh", tmp_path)]
    (served,) = [command for command in commands if "vllm serve" in command]
    assert "-w node-c" in served
    assert sum("ray start" in command for command in commands) == 2
    assert not any("node-c" in command for command in commands if "ray start" in command)
