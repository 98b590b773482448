"""Runs the shell recipes of examples/cluster with stand-ins for what they start, and tells what they would have started."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples" / "cluster"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.sh"))

_RECORD = """#!/bin/sh
printf '%s\\n' "$(basename "$0")" "$@" > "$RECORD/$$"
"""
_HOSTS = "#!/bin/sh\nprintf 'node-a\\nnode-b\\nnode-c\\n'\n"


def started_by(script: str, folder: Path) -> list[list[str]]:
    """The commands that a recipe starts, each with its arguments; `srun` counts as one."""
    programs, record = folder / "bin", folder / "record"
    programs.mkdir()
    record.mkdir()
    for name in ("python", "vllm", "srun", "sleep", "aipo"):
        (programs / name).write_text(_RECORD, encoding="utf-8")
    (programs / "scontrol").write_text(_HOSTS, encoding="utf-8")
    for path in programs.iterdir():
        path.chmod(0o755)
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "RECORD": str(record), "HOME": str(folder)}
    slurm = {"SLURM_JOB_NODELIST": "node-[a-c]", "SLURM_SUBMIT_DIR": str(FOLDER)}
    # What a recipe starts in the background may not have begun when its last line has run.
    command = ["bash", "-c", 'source "$0"; wait', str(FOLDER / script)]
    subprocess.run(command, env=variables | slurm, check=True, timeout=60, capture_output=True)
    return [path.read_text(encoding="utf-8").splitlines() for path in record.iterdir()]


def aipo_commands(script: str, folder: Path) -> dict[str, list[str]]:
    """The `aipo` commands that a recipe starts, by name, with their arguments."""
    found = [command[command.index("aipo") + 1 :] for command in started_by(script, folder) if "aipo" in command]
    return {name: arguments for name, *arguments in found}


def learner_flags(script: str, folder: Path) -> list[str]:
    """The flags that a recipe hands to `algorithms/aipo_openrlhf.py`."""
    for command in started_by(script, folder):
        for number, argument in enumerate(command):
            if argument.endswith("aipo_openrlhf.py"):
                assert (FOLDER / argument).resolve().is_file()
                return command[number + 1 :]
    raise AssertionError(f"{script} does not start the learner")
