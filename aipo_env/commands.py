"""The `aipo` subcommands that need the environments alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from aipo_env.console import command, print_json
from aipo_env.registry import env_spec, list_envs, pprint_registry


@command("aipo envs", "aipo envs --json | jq -r '.[].id'")
def envs(*, json: bool = False) -> int:
    """List the environments: those with a training split, and those that are for evaluation alone.

    Args:
        json: one JSON list of id, description, whether helpers answer, and the splits.
    """
    if not json:
        pprint_registry()
        return 0
    specs = [env_spec(env_id) for env_id in list_envs()]
    print_json([{"id": s.id, "description": s.description, "assisted": s.assisted, "splits": s.splits} for s in specs])
    return 0


@command(
    "aipo data check --train math --against math500,aime24,aime25",
    "aipo data check --train deepscaler --data folder --json > copies.json",
)
def data(
    action: Literal["check"],
    /,
    *,
    train: str,
    against: str = "",
    data: Path | None = None,
    show: int = 20,
    json: bool = False,
) -> int:
    """Look for problems of test sets in a training set; exits with 1 if any stand there.

    Training sets leave them out when they are loaded, as far as the test sets are at hand then.

    Args:
        action: "check".
        train: environment id of the training set.
        against: environment ids of test sets, with commas between; without it, all that are at hand.
        data: folder with <family>/<split>.jsonl; without it AIPO_DATA, else the hub.
        show: copies that are shown at most.
        json: one JSON object: "rows", "against", and "copies" with task, test_set, test_id, how and share.
    """
    from aipo_env.tasks.decontamination import check

    found = check(train, [name for name in against.split(",") if name], data)
    rows = [
        {"task": task, "test_set": c.test_set, "test_id": c.test_id, "how": c.how, "share": c.share}
        for task, c in found.copies
    ]
    if json:
        print_json({"rows": found.rows, "against": found.against, "copies": rows})
        return 1 if rows else 0
    print(f"{train}: {found.rows} problems")
    for name, size in found.against.items():
        print(f"  {name} ({size} problems): {sum(row['test_set'] == name for row in rows)} copies")
    for row in rows[:show]:
        print(f"{row['task']} is {row['test_id']} ({row['how']}, {row['share']:.0%})")
    if len(rows) > show:
        print(f"... and {len(rows) - show} more (--show {len(rows)})")
    return 1 if rows else 0


@command("aipo doctor", "aipo doctor --json --offline > machine.json")
def doctor(*, json: bool = False, offline: bool = False) -> int:
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
def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the script that makes the Tab key complete commands, options and their choices.

    Run it again when another package adds commands.

    Args:
        shell: which one reads it.
    """
    from aipo_env.cli import commands
    from aipo_env.parsing import new_app

    app = new_app("aipo")
    for name, function in commands().items():
        app.command(function, name=name)
    print(app.generate_completion(shell=shell))
    return 0


@command("aipo grade pairs.jsonl", "aipo grade pairs.jsonl --policy gsm8k --json verdicts.jsonl")
def grade(pairs: Path, /, *, json: Path | None = None, limit: int | None = None, policy: str = "math500") -> int:
    """Grade rows of `gold, pred` (and `form`) from a JSON Lines file, one verdict a row and a summary.

    Each verdict comes with the rule that decided and why, in words. Exits with 2 if the input cannot be read.

    Args:
        pairs: a .jsonl file; `form` is "answer" (an extracted answer, the default) or "text" (a whole response).
            Rows with `equal` (true or false) are scored; those with `contested`, apart.
        json: where to write one verdict per row and the summary; standard output if left out.
        limit: grades only the first rows.
        policy: the conventions: math500, integer, gsm8k, aime or choice.
    """
    from aipo_env.grading.cli import grade_file

    grade_file(pairs, json, limit, policy=policy)
    return 0
