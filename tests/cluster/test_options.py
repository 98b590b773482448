from __future__ import annotations

from pathlib import Path

import pytest

from aipo_env.errors import ConfigurationError
from algorithms.cluster.launch import _given, default_flags
from algorithms.cluster.options import CONFIG_VARIABLE, ClusterConfig, parse_options, split_arguments
from algorithms.config import ObjectiveConfig


def test_command_line_is_split_and_keeps_its_order() -> None:
    line = "--actor.eps_clip_low_high 0.2 0.3 --aipo.env x --aipo.env-options level 3 --train.colocate_all --aipo.seed=4 --algo.kl.target -1"
    ours, theirs = split_arguments(line.split())
    assert ours == ["--aipo.env", "x", "--aipo.env-options", "level", "3", "--aipo.seed=4"]
    assert theirs == ["--actor.eps_clip_low_high", "0.2", "0.3", "--train.colocate_all", "--algo.kl.target", "-1"]


def test_every_flag_reaches_its_field() -> None:
    line = (
        "--aipo.env rulebook-consult --aipo.env_options level 3 style terse --aipo.agents knowledge verify=a.b:C "
        "--aipo.num_tasks 10 --aipo.eval-tasks 5 --aipo.eval_options split test --aipo.solo_share 0.25 "
        "--aipo.consult_timeout 7 --aipo.seed 3 --aipo.traces t --aipo.cache c --aipo.imports json "
        "--aipo.agent_weight 0.5 --aipo.c_min 0.5 --aipo.c_max inf --aipo.delta 0.1 "
        "--aipo.policy-baseline group --aipo.agent-baseline group"
    )
    config = parse_options(line.split())
    assert config == ClusterConfig(
        env="rulebook-consult",
        env_options={"level": 3, "style": "terse"},
        agents=("knowledge", "verify=a.b:C"),
        imports=("json",),
        num_tasks=10,
        eval_tasks=5,
        eval_options={"split": "test"},
        solo_share=0.25,
        consult_timeout=7.0,
        seed=3,
        traces=Path("t"),
        cache=Path("c"),
        agent_weight=0.5,
        c_min=0.5,
        c_max=float("inf"),
        delta=0.1,
        policy_baseline="group",
        agent_baseline="group",
    )
    assert config.objective == ObjectiveConfig(
        agent_weight=0.5,
        c_min=0.5,
        c_max=float("inf"),
        delta=0.1,
        policy_baseline="group",
        agent_baseline="group",
    )


def test_the_defaults_are_the_single_machine_trainers() -> None:
    assert ClusterConfig(env="rulebook-consult").objective == ObjectiveConfig()


@pytest.mark.parametrize(
    ("flag", "value"), [("policy-baseline", "mode"), ("policy_baseline", "group"), ("agent-baseline", "solo")]
)
def test_baselines(flag: str, value: str) -> None:
    config = parse_options(["--aipo.env", "rulebook-consult", f"--aipo.{flag}", value])
    assert getattr(config.objective, flag.replace("-", "_")) == value


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='Choose from: "mode", "group"'):
        parse_options(["--aipo.env", "rulebook-consult", "--aipo.policy_baseline", "solo"])


@pytest.mark.parametrize("loss", ["mask", "clone", "is", "luffy", "aipo"])
def test_variants(loss: str) -> None:
    config = parse_options(["--aipo.env", "rulebook-consult", "--aipo.agent_loss", loss])
    assert config.objective.agent_loss == loss


def test_config_travels_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ClusterConfig(
        env="gsm8k-consult",
        env_options={"a": 1, "b": 0.5, "c": "d"},
        agents=("x=y:Z",),
        traces=Path("t"),
        num_tasks=3,
        c_max=float("inf"),
    )
    assert ClusterConfig.from_json(config.to_json()) == config
    assert config.with_absolute_paths().traces == Path.cwd() / "t"
    monkeypatch.setenv(CONFIG_VARIABLE, config.to_json())
    assert ClusterConfig.from_environment() == config


def test_a_process_that_others_started_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    with pytest.raises(ConfigurationError, match="aipo_openrlhf"):
        ClusterConfig.from_environment()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"solo_share": 1.5}, "solo_share"),
        ({"consult_timeout": 0.0}, "consult_timeout"),
        ({"num_tasks": 0}, "num_tasks"),
        ({"eval_tasks": -1}, "eval_tasks"),
        ({"seed": -1}, "seed"),
        ({"eval_options": {"split": "test"}}, "eval_tasks"),
        ({"imports": ("no_such_module",)}, "no_such_module"),
        ({"agent_loss": "mask", "c_min": 0.5}, "c_min"),
        ({"agent_loss": "mask", "agent_baseline": "group"}, "agent_baseline"),
        ({"agent_loss": "aippo"}, "did you mean 'aipo'"),
        ({"c_max": 0.5}, "c_max"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ClusterConfig(env="rulebook-consult", **fields)  # type: ignore[arg-type]


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Did you mean --aipo\.solo-share"):
        parse_options(["--aipo.env", "x", "--aipo.solo_shar", "0.5"])


def test_values_of_their_flags() -> None:
    flags = ["--data.max_len", "64", "--train.colocate_all", "--actor.eps_clip=0.1"]
    assert _given(flags, "--data.max_len") == "64"
    assert _given(flags, "--train.colocate_all") == ""
    assert _given(flags, "--actor.eps_clip") == "0.1"
    assert _given(flags, "--data.max_samples") is None
    assert _given([*flags, "--data.max_len", "128"], "--data.max_len") == "128"
    # argparse takes abbreviations, so a flag that must not be set cannot be smuggled in as one.
    assert _given(["--train.agent_func", "x.py"], "--train.agent_func_path") == "x.py"
    assert _given(["--train.agent_func_path2", "x.py"], "--train.agent_func_path") is None


def test_defaults_are_the_projects_objective_and_give_way() -> None:
    defaults = default_flags([])
    assert defaults[defaults.index("--algo.advantage.estimator") + 1] == "dr_grpo"
    assert defaults[defaults.index("--algo.kl.init_coef") + 1] == "0.0"
    assert "--actor.eps_clip_low_high" in defaults
    assert "--actor.eps_clip_low_high" not in default_flags(["--actor.eps_clip", "0.1"])
    assert len(default_flags(["--actor.eps_clip", "0.1"])) == len(defaults) - 3
