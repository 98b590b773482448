"""The `aipo` subcommands that need the environments alone."""

from __future__ import annotations

from pathlib import Path

from aipo_env.registry import env_spec, list_envs


def envs() -> int:
    """List the environments."""
    width = max(map(len, list_envs()))
    for env_id in list_envs():
        print(f"{env_id:<{width}}  {env_spec(env_id).description}")
    return 0


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
