"""Options from files: what is taken, what the command line wins, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import tyro

from aipo_env.cli import main
from aipo_env.config_files import expand_config, options_of
from aipo_env.errors import AipoError, ConfigurationError, DataNotFoundError, UnknownIdError
from algorithms.commands import rollout, train
from algorithms.train_config import TrainConfig
from benchmarks.commands import eval_policy

TOML = """
steps = 7
prompts-per-step = 2
betas = [0.8, 0.9]
agents = ["knowledge", "verify"]

[env_options]
level = 2
style = "terse"

[sampling]
max_tokens = 48

[objective]
agent_loss = "clone"
rollout_clip = [0.5, 2]
"""
YAML = """
steps: 7
prompts-per-step: 2
betas: [0.8, 0.9]
agents: [knowledge, verify]
env_options: {level: 2, style: terse}
sampling: {max_tokens: 48}
objective: {agent_loss: clone, rollout_clip: [0.5, 2]}
"""


def parse(*arguments: str) -> TrainConfig:
    """What `aipo train` would run."""

    def taken(config: Annotated[TrainConfig, tyro.conf.arg(name="")]) -> TrainConfig:
        return config

    return tyro.cli(taken, args=expand_config(train, arguments))


@pytest.mark.parametrize(("suffix", "text"), [(".toml", TOML), (".yaml", YAML), (".yml", YAML)])
def test_a_file_says_what_the_command_line_would(tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"run{suffix}"
    path.write_text(text)
    config = parse("--config", str(path))
    assert (config.steps, config.prompts_per_step, config.betas) == (7, 2, (0.8, 0.9))
    assert config.agents == ("knowledge", "verify")
    assert config.env_options == {"level": 2, "style": "terse"}
    assert (config.sampling.max_tokens, config.objective.agent_loss) == (48, "clone")
    assert config.objective.rollout_clip == (0.5, 2.0)


def test_the_command_line_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(TOML)
    arguments = ["--steps", "3", "--env-options", "style", "plain", "prompt", "bare", "--sampling.max_tokens=9"]
    for order in ([*arguments, f"--config={path}"], ["--config", str(path), *arguments]):
        config = parse(*order)
        assert (config.steps, config.sampling.max_tokens, config.prompts_per_step) == (3, 9, 2)
        # A dictionary is merged by key.
        assert config.env_options == {"level": 2, "style": "plain", "prompt": "bare"}


def test_true_and_false_and_texts_that_look_like_flags(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('solo = true\ncheck = false\nmodel = "--odd"\nserver = "http://x"\n[env_options]\nlevel = -1\n')
    expanded = expand_config(rollout, ["--config", str(path)])
    assert expanded == ["--solo", "--no-check", "--model=--odd", "--server=http://x", "--env-options", "level", "-1"]
    solo = [option for option in expand_config(rollout, ["--no-solo", "--config", str(path)]) if "solo" in option]
    assert solo == ["--solo", "--no-solo"]  # the last one counts


def test_a_table_inside_a_dictionary_is_its_dotted_keys(tmp_path: Path) -> None:
    path = tmp_path / "eval.toml"
    path.write_text('suite = "rulebook"\n[env_options]\nmax_consults = 2\n[env_options.rulebook]\nlevel = 3\n')
    expanded = expand_config(eval_policy, ["--config", str(path)])
    assert expanded == ["--suite=rulebook", "--env-options", "max_consults", "2", "rulebook.level", "3"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("step = 3", UnknownIdError, "Did you mean 'steps'"),
        ("[samplng]\nmax_tokens = 3", UnknownIdError, "Did you mean 'sampling'"),
        ("[sampling]\nmax_token = 3", UnknownIdError, "unknown key in the table sampling 'max_token'"),
        ('steps = "many"', ConfigurationError, "steps is a whole number, got 'many'"),
        ("steps = true", ConfigurationError, "steps is a whole number, got True"),
        ("sampling = 3", ConfigurationError, "sampling is a table of options, got 3"),
        ('[objective]\nalgorithm = "ppo"', ConfigurationError, "objective.algorithm must be one of group_mean"),
        ("[objective]\nalgorithm = 3", ConfigurationError, "objective.algorithm is one of 'group_mean', 'grpo'"),
        ("betas = [0.9]", ConfigurationError, "betas is a list (a number, a number), got [0.9]"),
        ('agents = "verify"', ConfigurationError, "agents is a list (a text, ...), got 'verify'"),
        (
            "[env_options]\nlevel = [1]",
            ConfigurationError,
            "env_options.level is a whole number or a number or a text, got [1]",
        ),
        ("env_options = 3", ConfigurationError, "env_options is a table of values, got 3"),
        ("steps = ", ConfigurationError, "is not TOML"),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path: Path, text: str, error: type[AipoError], message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(error) as caught:
        expand_config(train, ["--config", str(path)])
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="cannot be read"):
        expand_config(train, ["--config", str(tmp_path / "nothing.toml")])
    for name, content, message in (
        ("run.json", b"{}", "ends in .toml, .yaml or .yml"),
        ("run.yaml", b"- 1\n", "got list"),
        ("run.yaml", b"{", "is not YAML"),
        ("run.toml", b"\xff", "not UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigurationError, match=message):
            expand_config(train, ["--config", str(tmp_path / name)])
    with pytest.raises(ConfigurationError, match="followed by a file"):
        expand_config(train, ["--config", "--steps"])
    with pytest.raises(ConfigurationError, match="names one file"):
        expand_config(train, ["--config", "a.toml", "--config=b.toml"])
    (tmp_path / "empty.yaml").write_text("")
    assert expand_config(train, ["--seed", "1", "--config", str(tmp_path / "empty.yaml")]) == ["--seed", "1"]


@pytest.mark.parametrize("command", [train, rollout, eval_policy])
def test_every_option_can_stand_in_a_file(command: Any) -> None:
    def known(hint: Any) -> bool:
        if get_origin(hint) in (Union, UnionType, tuple, dict):
            return all(known(part) for part in get_args(hint) if part is not Ellipsis)
        return hint in (int, float, str, bool, Path, type(None)) or get_origin(hint) is Literal

    assert [name for name, hint in options_of(command).items() if not known(hint)] == []


def test_a_run_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the extra 'train' is not installed")
    path = tmp_path / "run.toml"
    path.write_text(f'num_tasks = 2\nsamples = 1\nmax_tokens = 60\nout = "{tmp_path}"\n')
    code = main(["rollout", "--config", str(path), "--num-tasks", "1", "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert json.loads(captured.out)["assisted"]["episodes"] == 1
    assert main(["rollout", "--config", str(path), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert main(["rollout", "--config", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resumed"] == 2
    path.write_text("nothing = 1\n")
    assert main(["rollout", "--config", str(path)]) == 2
    assert "unknown key 'nothing'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["rollout", "--help"])
    assert "--config" in capsys.readouterr().out
    path.write_text('backend = "openrlhf"\n')
    assert main(["train", "--config", str(path)]) == 2
    assert "stands on the command line" in capsys.readouterr().err


def test_the_example_of_the_docs(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "command_line.md").read_text(encoding="utf-8")
    example = text.split("```toml\n")[1].split("```")[0]
    path = tmp_path / "run.toml"
    path.write_text(example)
    config = parse("--config", str(path), "--steps", "400", "--env-options", "level", "3")
    assert (config.steps, config.sampling.max_tokens, config.out) == (400, 48, Path("runs/mine"))
    assert config.env_options == {"level": 3, "style": "terse", "prompt": "bare"}
