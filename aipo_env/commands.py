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


def grade(pairs: Path, /, json: Path | None = None, limit: int | None = None) -> int:
    """Grade rows of `gold, pred` (and `form`) from a JSON Lines file, one verdict a row.

    Args:
        pairs: a .jsonl file; `form` is "answer" (an extracted answer, the default) or "text" (a whole response).
        json: where to write one verdict per row.
        limit: grades only the first rows.
    """
    from aipo_env.grading.cli import grade_file

    grade_file(pairs, json, limit)
    return 0
