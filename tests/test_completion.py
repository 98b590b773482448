"""The Tab key, as bash presses it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from aipo_env import list_envs
from aipo_env.cli import main
from aipo_env.completion import Shell, completion_script


def completions(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    call = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=(); '
        "function=$(complete -p aipo | sed 's/.*-F \\([^ ]*\\).*/\\1/'); $function aipo; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-c", call, "bash", str(script), *words], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
def test_bash_completes_commands_options_ids_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "aipo"
    script.write_text(capsys.readouterr().out)
    (tmp_path / "run.toml").write_text("")
    assert {"train", "rollout", "eval", "play", "doctor"} <= set(completions(script, "aipo", ""))
    assert completions(script, "aipo", "roll") == ["rollout"]
    assert completions(script, "aipo", "rollout", "--env", "math5") == ["math500", "math500-consult"]
    assert completions(script, "aipo", "play", "ruleb") == ["rulebook", "rulebook-consult"]
    assert completions(script, "aipo", "play", "rulebook-consult", "--ou") == ["--out"]
    assert completions(script, "aipo", "completion", "f") == ["fish"]
    assert "--sampling.max-tokens" in completions(script, "aipo", "train", "--sampling.")
    assert completions(script, "aipo", "train", "--config", f"{tmp_path}/ru") == [f"{tmp_path}/run.toml"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_script_carries_a_program_that_knows_the_ids(shell: Shell) -> None:
    script = completion_script(shell)
    found = re.search(r"^COMPLETION_SPEC = .*?(?=^import|^def )", script, re.MULTILINE | re.DOTALL)
    assert found is not None
    # fish has the program between double quotes.
    program = re.sub(r'\\(["$\\])', r"\1", found.group()) if shell == "fish" else found.group()
    values: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    exec(program, values)  # type: ignore[arg-type]  # noqa: S102
    play = values["COMPLETION_SPEC"]["subcommands"]["play"]
    assert set(play["subcommands"]) == set(list_envs())
    assert "in the terminal" in str(play["description"])


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["completion", "csh"])
    assert caught.value.code == 2
    assert "fish" in capsys.readouterr().err
