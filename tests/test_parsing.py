"""Options from files: what is taken, what the command line wins, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aipo_env.cli import main
from aipo_env.errors import ConfigurationError, DataNotFoundError
from aipo_env.parsing import parse
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


def config_of(*arguments: str) -> TrainConfig:
    """What `aipo train` would run."""
    config = parse(train, arguments, "aipo train").keywords["config"]
    assert isinstance(config, TrainConfig)
    return config


@pytest.mark.parametrize(("suffix", "text"), [(".toml", TOML), (".yaml", YAML), (".yml", YAML)])
def test_a_file_says_what_the_command_line_would(tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"run{suffix}"
    path.write_text(text)
    config = config_of("--config", str(path))
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
        config = config_of(*order)
        assert (config.steps, config.sampling.max_tokens, config.prompts_per_step) == (3, 9, 2)
        # A dictionary is merged by key.
        assert config.env_options == {"level": 2, "style": "plain", "prompt": "bare"}


def test_true_and_false_and_texts_that_look_like_flags(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('solo = true\ncheck = false\nmodel = "--odd"\nserver = "http://x"\n[env_options]\nlevel = -1\n')
    read = parse(rollout, ["--config", str(path)], "aipo rollout").keywords
    servers = read["servers"]
    assert (read["solo"], read["check"], servers.model, servers.server) == (True, False, "--odd", "http://x")
    assert read["env_options"] == {"level": -1}
    assert parse(rollout, ["--no-solo", "--config", str(path)], "aipo rollout").keywords["solo"] is False


def test_the_last_one_counts() -> None:
    config = config_of("--steps", "3", "--betas", "0.1", "0.2", "--steps", "4", "--betas", "0.3", "0.4")
    assert (config.steps, config.betas) == (4, (0.3, 0.4))


def test_a_table_inside_a_dictionary_is_its_dotted_keys(tmp_path: Path) -> None:
    path = tmp_path / "eval.toml"
    path.write_text('suite = "rulebook"\n[env_options]\nmax_consults = 2\n[env_options.rulebook]\nlevel = 3\n')
    arguments = ["--suite", "rulebook", "--env-options", "max_consults", "2", "rulebook.level", "3"]
    for given in (["--config", str(path)], arguments):
        config = parse(eval_policy, given, "aipo eval").keywords["config"]
        assert config.env_options == {"max_consults": 2, "rulebook.level": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step = 3", '"[step]" from {path}. Did you mean --steps'),
        ("[samplng]\nmax_tokens = 3", '"[samplng][max_tokens]" from {path}. Did you mean --sampling.max-tokens'),
        ("[sampling]\nmax_token = 3", '"[sampling][max_token]" from {path}. Did you mean --sampling.max-tokens'),
        ('steps = "many"', 'Invalid value for [steps] from {path}: unable to convert "many" into int.'),
        ("steps = true", 'Invalid value for [steps] from {path}: unable to convert "True" into int.'),
        ("sampling = 3", "--sampling is a table of options, got 3"),
        (
            '[objective]\nalgorithm = "ppo"',
            'Invalid value "ppo" for [objective][algorithm] from {path}. Choose from: "group_mean"',
        ),
        ("betas = [0.9]", "expected 2 but got 1. It stands in {path}. --betas: AdamW"),
        ("[env_options]\nlevel = [1]", "[env_options][level]"),
        ("env_options = 3", "[env_options] from {path}"),
        ("steps = ", "{path} is not TOML"),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        config_of("--config", str(path))
    assert message.format(path=path) in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="cannot be read"):
        config_of("--config", str(tmp_path / "nothing.toml"))
    for name, content, message in (
        ("run.json", b"{}", "ends in .toml, .yaml or .yml"),
        ("run.yaml", b"- 1\n", "got list"),
        ("run.yaml", b"{", "is not YAML"),
        ("run.toml", b"\xff", "is not TOML in UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigurationError, match=message):
            config_of("--config", str(tmp_path / name))
    with pytest.raises(ConfigurationError, match="--config requires an argument"):
        config_of("--config", "--steps")
    (tmp_path / "empty.yaml").write_text("")
    assert config_of("--seed", "1", "--config", str(tmp_path / "empty.yaml")).seed == 1


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
    assert 'Unknown option: "[nothing]"' in capsys.readouterr().err
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
    config = config_of("--config", str(path), "--steps", "400", "--env-options", "level", "3")
    assert (config.steps, config.sampling.max_tokens, config.out) == (400, 48, Path("runs/mine"))
    assert config.env_options == {"level": 3, "style": "terse", "prompt": "bare"}
