"""What a wrong call of `aipo` says: what was expected, what came, what to do; in the command line's names, on one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from aipo_env.cli import main

FILES = {
    "key.toml": "step = 3\n",
    "type.toml": 'steps = "many"\n',
    "nested.toml": "[sampling]\nmax_token = 3\n",
    "table.toml": "sampling = 3\n",
    "row.jsonl": '{"x": 1}\n',
}
CALLS = [
    ("rolout", "unknown command 'rolout'. Did you mean 'rollout'"),
    ("train --step 3", "Unknown option: --step. Did you mean --steps?"),
    ("train --steps many", 'Invalid value for --steps: unable to convert "many" into int. --steps: Optimizer batches.'),
    ("train --steps 0 extra", "Unused Tokens: ['extra']"),
    ("train --samples-per-prompt 1", "a group needs at least 2 samples, or every advantage is 0; raise --samples-per-prompt."),
    ("train --sampling.max-tokens 0", "--sampling.max-tokens >= 1"),
    ("train --sampling.max-token 5", "Did you mean --sampling.max-tokens?"),
    ("train --sampling.temperature 0", "--sampling.temperature must be above 0 (1.0 if in doubt)."),
    ("train --objective.algorithm ppo", 'Invalid value "ppo" for --objective.algorithm. Choose from: "group_mean", "grpo"'),
    ("train --objective.agent-loss aip", "--objective.agent-loss must be one of mask, clone, is, luffy, aipo, but it is 'aip'"),
    ("train --objective.c-min 9", "--objective.c-max must be at least --objective.c-min=9.0, but it is 2.0; raise it"),
    ("train --rates x.json", '--rates and --max-solo-rate are for --curriculum="hard" or "frontier"; leave them out.'),
    ("train --overlong-buffer 9999", "--overlong-buffer must fit into --sampling.max-tokens."),
    ("train --betas 0.9", "--betas requires 2 positional arguments. Only got 1."),
    ("train --env rulebok", "unknown environment id 'rulebok'. Did you mean 'rulebook'"),
    ("train --env-options level", "--env-options takes names and values in turn"),
    ("train --env-options level two", "--env-options.level must be of the type int, got 'two' (str)."),
    ("train --env-options style tersee", "--env-options.style must be one of words, terse, but it is 'tersee'; did you mean 'terse'?"),
    ("train --eval-options leak_filter perhaps", "--eval-options.leak_filter must be of the type bool | None, got 'perhaps' (str)."),
    ("train --agents knowledg", "unknown agent 'knowledg'. Did you mean 'knowledge'?"),
    ("train --config nothing.toml", "the config file nothing.toml cannot be read: No such file or directory. Correct --config."),
    ("train --config key.toml", 'Unknown option: "[step]" from key.toml. Did you mean --steps?'),
    ("train --config type.toml", 'Invalid value for [steps] from type.toml: unable to convert "many" into int.'),
    ("train --config nested.toml", '"[sampling][max_token]" from nested.toml. Did you mean --sampling.max-tokens?'),
    ("train --config table.toml", "--sampling is a table of options, got 3."),
    ("train --env math-consult --env-options data no.jsonl", "Point --env-options data or AIPO_DATA at such a file or its folder"),
    ("train --env dataset-consult --env-options data row.jsonl", "the row has ['x']. Say --env-options problem"),
    ("train --env-options level 9", "rulebook levels are 1 to 5, got --env-options level=9."),
    ("train --env-options max_consults -1", "--env-options max_consults is how many consults are answered, a whole number from 0"),
    ("train --env-options opertors @", "Did you mean 'operators'? Its task family takes digits, level,"),
    ("train --env-options opertor @", "every environment agents, codec, consult_cost, consult_timeout, consults_in_thought"),
    ("train --env mix-consult --env-options parts.math 0", "parts has a positive weight for each part"),
    ("rollout --env rulebook --env-options consult_cost 1", "asks nobody: --env-options consult_cost would change nothing."),
    ("rollout --samples 0", "--samples is how many episodes of each task are played, a whole number from 1 on; got 0."),
    ("rollout --num-tasks 0", "--num-tasks is how many tasks are played, a whole number from 1 on; got 0."),
    ("eval --suite math500 --data no.jsonl", "Point --data or AIPO_DATA at such a file or its folder"),
    ("eval --suite rulebook --env-options rulbook.level 3", "'rulbook' is not one of the suites rulebook."),
    ("data check --train math --data no", "Point --data or AIPO_DATA at such a file or its folder"),
    ("eval", "--suite requires an argument. --suite: The suites, with commas between: math500"),
    ("eval --suite math50", "unknown suite 'math50'. Did you mean 'math500'?"),
    ("rollout --server http://localhost:1", "--server and --model go together"),
    ("completion csh", 'Invalid value "csh" for SHELL. Choose from: "bash", "zsh", "fish".'),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), CALLS, ids=[call for call, _ in CALLS])
def test_a_wrong_call_says_what_to_do(
    call: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    assert main(call.split()) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.startswith("aipo: "), err.count("\n")) == ("", True, 1)
