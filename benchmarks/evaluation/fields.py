"""The fields of `results.json`, with a message that names the one that is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aipo_env.errors import DataFormatError, DataNotFoundError

Json = Mapping[str, Any]


class Fields(dict[str, Any]):
    """A JSON object that names a field which it lacks."""

    def __missing__(self, key: str) -> Any:
        raise DataFormatError(
            f"results.json: expected a field {key!r}, got none. Was the file written by another version?"
        )


def as_fields(results: Json) -> Json:
    """Results, as `json` reads and writes them, that name the field which they lack."""
    found: Json = json.loads(json.dumps(results), object_hook=Fields)
    return found


def load_results(path: Path) -> Json:
    """Reads a `results.json`, or that of a folder.

    Raises:
        DataNotFoundError: when there is no such file.
        DataFormatError: when it is no result of `aipo eval`.
    """
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise DataNotFoundError(
            f"expected a results.json of `aipo eval`, or its folder; there is no {file}. Give the folder that --out named."
        )
    try:
        results = json.loads(file.read_text(encoding="utf-8"), object_hook=Fields)
    except ValueError as error:
        raise DataFormatError(f"{file} is no JSON: {error}. Give a results.json of `aipo eval`.") from error
    kind = (results.get("kind"), results.get("format")) if isinstance(results, dict) else None
    if kind != ("aipo-evaluation", 1):
        raise DataFormatError(
            f"{file} is no evaluation of format 1 (kind and format are {kind}). Run `aipo eval` anew."
        )
    found: Json = results
    return found


def by_suite(results: Json) -> dict[str, dict[str, Json]]:
    """The runs, by suite and then by mode, in the order of the file."""
    found: dict[str, dict[str, Json]] = {}
    for run in results["runs"]:
        found.setdefault(run["suite"], {})[run["mode"]] = run
    return found


def scored_tasks(run: Json) -> dict[str, Json]:
    """The tasks all of whose samples are there, by id."""
    return {task["id"]: task for task in run["tasks"] if task["num_samples"] == run["num_samples"]}
