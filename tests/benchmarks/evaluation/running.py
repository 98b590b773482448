"""Running `aipo eval` in this process, and reading what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aipo_env.cli import main


def aipo_eval(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = main(["eval", *(str(argument) for argument in arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def words(command: str) -> list[str]:
    """The parts of a piece of a command."""
    return command.split()


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of a folder."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return results


def runs_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The runs in results.json by name: "math500.solo"."""
    return {f"{run['suite']}.{run['mode']}": run for run in read_results(folder)["runs"]}


def timeless(value: Any) -> Any:
    """Results without what depends on the clock."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key != "timing"}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    """Writes a JSON Lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
