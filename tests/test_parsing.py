"""Options from files: what is taken, what the command line wins, what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from aipo_env.cli import main
from aipo_env.errors import ConfigurationError, DataNotFoundError
from aipo_env.field_types import read_text
from aipo_env.parsing import parse
from algorithms.commands import rollout, train
from algorithms.run_folder import claim
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
    arguments = ["--steps", "3", "--env-options", "style", "words", "prompt", "bare", "--sampling.max_tokens=9"]
    for order in ([*arguments, f"--config={path}"], ["--config", str(path), *arguments]):
        config = config_of(*order)
        assert (config.steps, config.sampling.max_tokens, config.prompts_per_step) == (3, 9, 2)
        # A dictionary is merged by key.
        assert config.env_options == {"level": 2, "style": "words", "prompt": "bare"}


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


def test_options_have_the_types_that_make_has_for_them(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        "eval_options = {start_date = 2024-01-01, time_limit_s = 2}\n[env_options]\nleak_filter = true\n"
        'operators = ["@", "#"]\nmine = [1]\n[env_options.parts]\nmath = 3\n"rg/basic_arithmetic" = 1\n'
    )
    typed = (
        '--env-options leak_filter true operators ["@","#"] mine [1] parts.math 3 parts.rg/basic_arithmetic 1 '
        "--eval-options start_date 2024-01-01 time_limit_s 2"
    )
    for given in (["--config", str(path)], typed.split()):
        config = config_of(*given)
        assert config.env_options == {
            "leak_filter": True, "operators": ["@", "#"], "mine": [1], "parts": {"math": 3, "rg/basic_arithmetic": 1},
        }  # fmt: skip
        assert config.env_options["leak_filter"] is True
        assert config.eval_options == {"start_date": "2024-01-01", "time_limit_s": 2}
        # What a run writes down is read back as the same.
        text = json.dumps(dataclasses.asdict(config), default=str)
        assert TrainConfig(env_options=json.loads(text)["env_options"]).env_options == config.env_options
    # So are runs that were begun when numbers and texts were all that could be given.
    claim(tmp_path, {"env_options": {"leak_filter": 1, "parts": "math:3"}}, begun=False)
    claim(
        tmp_path,
        {"env_options": config_of("--env-options", "leak_filter", "1", "parts", "math:3").env_options},
        begun=True,
    )
    # The command line comes first, by the keys of tables in the table too.
    merged = config_of("--config", str(path), "--env-options", "parts.math", "5", "leak_filter", "0")
    assert merged.env_options["parts"] == {"math": 5, "rg/basic_arithmetic": 1}
    assert merged.env_options["leak_filter"] is False


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("level", "3", 3), ("consult_cost", ".5", 0.5), ("consult_cost", "1e-3", 0.001), ("leak_filter", "1", True),
        ("leak_filter", "false", False), ("revision", "1234567", "1234567"), ("prompt", "{problem}", "{problem}"),
        ("parts", "math:3,gsm8k:1", "math:3,gsm8k:1"), ("operators", "@", "@"), ("max_consults", "null", None),
        ("mine", "true", True), ("mine", "words", "words"), ("mine", "-1", -1), ("mine", '{"a": 1}', {"a": 1}),
    ],
)  # fmt: skip
def test_a_text_is_read_by_the_option_that_it_is_for(name: str, text: str, value: object) -> None:
    for given in (["--env-options", name, text], [f"--env-options.{name}", text], [f"--env_options.{name}={text}"]):
        (read,) = config_of(*given).env_options.values()
        assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "two"}, "env_options.level must be of the type int, got 'two' (str)."),
        ({"leak_filter": 2}, "env_options.leak_filter must be of the type bool | None, got 2 (int)."),
        ({"operators": [1]}, "env_options.operators must be of the type Sequence[str] | None, got [1] (list)."),
        (
            {"style": "tersee"},
            "env_options.style must be one of words, terse, but it is 'tersee'; did you mean 'terse'?",
        ),
        ({"parts": 3}, "env_options.parts must be of the type str | Mapping[str, Any], got 3 (int)."),
    ],
)
def test_options_of_another_type_are_told(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TrainConfig(env_options=options)
    assert message in str(caught.value)


def test_a_table_inside_a_table_is_its_dotted_keys(tmp_path: Path) -> None:
    path = tmp_path / "eval.toml"
    path.write_text('suite = "rulebook"\n[env_options]\nmax_consults = 2\n[env_options.rulebook]\nlevel = 3\n')
    arguments = ["--suite", "rulebook", "--env-options", "max_consults", "2", "rulebook.level", "3"]
    for given in (["--config", str(path)], arguments):
        config = parse(eval_policy, given, "aipo eval").keywords["config"]
        assert config.env_options == {"max_consults": 2, "rulebook": {"level": 3}}


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
        (
            "[env_options]\nlevel = [1]",
            "--env-options.level must be of the type int, got [1] (list). It stands in {path}.",
        ),
        ("env_options = 3", "--env-options is a table of options, got 3 in {path}"),
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


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("3", str, "3"),
        ("True", str, "True"),
        ("3", str | None, "3"),
        ("3", int, 3),
        ("True", Any, True),
        ("[1]", Any, [1]),
    ],
)
def test_a_text_stays_a_text_where_one_is_wanted(text: str, hint: Any, value: object) -> None:
    read = read_text(text, hint)
    assert (type(read), read) == (type(value), value)
