"""What `aipo completion` prints: tyro's script for the shell, told the environments' ids and what the commands do."""

from __future__ import annotations

import inspect
import re
import tempfile
from pathlib import Path
from typing import Literal

import tyro

from aipo_env.cli import commands
from aipo_env.errors import ConfigurationError
from aipo_env.registry import list_envs

Shell = Literal["bash", "zsh", "fish"]

_POSITIONAL = {"play": "env", "completion": ("bash", "zsh", "fish")}
"""The values that commands take without a flag; "env" stands for the environments' ids."""
_SPEC = re.compile(r"^COMPLETION_SPEC = .*$", re.MULTILINE)
# Runs inside the script, behind the table of commands and options that tyro wrote into it. What is not an option is completed
# from a command's "subcommands"; so an id counts as one, which has the options of its command.
_MORE = """
ENV_IDS = {ids!r}
for name, (summary, positional) in {table!r}.items():
    command = COMPLETION_SPEC["subcommands"][name]
    command["description"] = summary
    for option in command["options"]:
        if "--env" in option["flags"]:
            option.update(type="choice", choices=ENV_IDS)
    values = ENV_IDS if positional == "env" else positional
    own = dict(command)
    command["subcommands"] = {{**{{value: {{**own, "description": value}} for value in values}}, **own["subcommands"]}}
"""


def completion_script(shell: Shell) -> str:
    """The script that completes commands, options, files and environment ids.

    Those ids, and the commands of other packages, are the ones that are installed now.

    Args:
        shell: which one reads it.

    Raises:
        ConfigurationError: when the installed tyro writes another kind of script.
    """
    every = commands()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script"
        try:
            tyro.extras.subcommand_cli_from_dict(every, prog="aipo", args=["--tyro-write-completion", shell, str(path)])
        except SystemExit as error:
            if error.code:
                raise
        script = path.read_text(encoding="utf-8")
    table = {
        name: ((inspect.getdoc(command) or "").partition("\n")[0], _POSITIONAL.get(name, ()))
        for name, command in every.items()
    }
    more = _MORE.format(ids=list_envs(), table=table)
    if shell == "fish":
        # There the program stands between double quotes.
        more = re.sub(r'(["$\\])', r"\\\1", more)
    script, count = _SPEC.subn(lambda found: found.group() + "\n" + more, script, count=1)
    if count != 1:
        raise ConfigurationError(
            "this version of tyro writes completion scripts that are not known here: pip install 'tyro>=1.0.14'."
        )
    return script
