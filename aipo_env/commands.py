"""The `aipo` subcommands that need the environments alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from aipo_env.console import command, print_json
from aipo_env.registry import env_spec, list_envs


@command("aipo envs", "aipo envs --json | jq -r '.[].id'")
def envs(json: bool = False) -> int:
    """List the environments: those with a training split, and those that are for evaluation alone.

    Args:
        json: one JSON list of id, description, whether helpers answer, and the splits.
    """
    specs = [env_spec(env_id) for env_id in list_envs()]
    if json:
        print_json(
            [{"id": s.id, "description": s.description, "assisted": s.assisted, "splits": s.splits} for s in specs]
        )
        return 0
    width = max(len(s.id) for s in specs)
    kinds = {
        "for training (the split train)": [s for s in specs if "train" in s.splits],
        "for evaluation alone": [s for s in specs if s.splits and "train" not in s.splits],
        "splits not known": [s for s in specs if not s.splits],
    }
    for title, members in kinds.items():
        lines = [f"{s.id:<{width}}  {s.description}{' (also test)' * (s.splits[1:] != ())}" for s in members]
        print("\n".join([f"# {title}", *lines]) if lines else "", end="\n" * bool(lines))
    return 0


@command("aipo doctor", "aipo doctor --json --offline > machine.json")
def doctor(json: bool = False, offline: bool = False) -> int:
    """Look at what is installed and try what works here: grading, code sandbox, GPU, vLLM, plug-ins, data, hub.

    Exits with 1 if something that is installed does not work; what is optional and not here is no fault.

    Args:
        json: one JSON object: "works", and "findings" with area, name, status (ok, absent, broken), detail and remedy.
        offline: ask no server.
    """
    import dataclasses

    from aipo_env.doctor import examine, report

    findings = examine(offline=offline)
    works = all(finding.status != "broken" for finding in findings)
    if json:
        print_json({"works": works, "findings": [dataclasses.asdict(finding) for finding in findings]})
    else:
        print("\n".join(report(findings)))
    return 0 if works else 1


@command(
    "aipo completion bash > ~/.local/share/bash-completion/completions/aipo",
    "aipo completion zsh > ~/.zfunc/_aipo  # with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc",
    "aipo completion fish > ~/.config/fish/completions/aipo.fish",
)
def completion(shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]) -> int:
    """Print the script that makes the Tab key complete commands, options and environment ids.

    Run it again when another package adds commands or environments.

    Args:
        shell: which one reads it.
    """
    from aipo_env.completion import completion_script

    print(completion_script(shell))
    return 0


@command("aipo grade pairs.jsonl", "aipo grade pairs.jsonl --policy gsm8k --json verdicts.jsonl")
def grade(pairs: Path, /, json: Path | None = None, limit: int | None = None, policy: str = "math500") -> int:
    """Grade rows of `gold, pred` (and `form`) from a JSON Lines file, one verdict a row and a summary.

    Exits with 1 if the grader itself failed on a row (`harness_error`), with 2 if the input cannot be read.

    Args:
        pairs: a .jsonl file; `form` is "answer" (an extracted answer, the default) or "text" (a whole response).
            Rows with `equal` (true or false) are scored; those with `contested`, apart.
        json: where to write one verdict per row and the summary; standard output if left out.
        limit: grades only the first rows.
        policy: the conventions: math500, integer, gsm8k, aime or choice.
    """
    from aipo_env.grading.cli import grade_file

    summary = grade_file(pairs, json, limit, policy=policy)
    return 1 if summary.harness_errors else 0
