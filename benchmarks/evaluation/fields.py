"""Typed access to the fields of `results.json`, with a message that names the field where one is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from aipo_env.errors import DataFormatError, DataNotFoundError

Json = Mapping[str, object]


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
        results = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataFormatError(f"{file} is no JSON: {error}. Give a results.json of `aipo eval`.") from error
    kind = (results.get("kind"), results.get("format")) if isinstance(results, dict) else None
    if kind != ("aipo-evaluation", 1):
        raise DataFormatError(
            f"{file} is no evaluation of format 1 (kind and format are {kind}). Run `aipo eval` anew."
        )
    found: Json = results
    return found


def section(row: Json, key: str) -> Json:
    """The object under this key."""
    value = row.get(key)
    if not isinstance(value, Mapping):
        raise _wrong(key, "an object", value)
    return value


def optional_section(row: Json, key: str) -> Json | None:
    """The object under this key; None where it is null or missing."""
    return None if row.get(key) is None else section(row, key)


def rows(row: Json, key: str) -> list[Json]:
    """The list of objects under this key."""
    value = row.get(key)
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(v, Mapping) for v in value):
        raise _wrong(key, "a list of objects", value)
    return list(value)


def number(row: Json, key: str) -> float:
    """The number under this key."""
    value = row.get(key)
    if not isinstance(value, int | float):
        raise _wrong(key, "a number", value)
    return value


def optional_number(row: Json, key: str) -> float | None:
    """The number under this key; None where it is null or missing."""
    return None if row.get(key) is None else number(row, key)


def count(row: Json, key: str) -> int:
    """The whole number under this key."""
    return int(number(row, key))


def text(row: Json, key: str) -> str:
    """The text under this key."""
    value = row.get(key)
    if not isinstance(value, str):
        raise _wrong(key, "a text", value)
    return value


def by_suite(results: Json) -> dict[str, dict[str, Json]]:
    """The runs, by suite and then by mode, in the order of the file."""
    found: dict[str, dict[str, Json]] = {}
    for run in rows(results, "runs"):
        found.setdefault(text(run, "suite"), {})[text(run, "mode")] = run
    return found


def scored_tasks(run: Json) -> dict[str, Json]:
    """The tasks all of whose samples are there, by id."""
    wanted = count(run, "num_samples")
    return {text(task, "id"): task for task in rows(run, "tasks") if count(task, "num_samples") == wanted}


def _wrong(key: str, expected: str, value: object) -> DataFormatError:
    return DataFormatError(
        f"results.json: expected {expected} as {key!r}, got {str(value)[:80]!r}. Was the file written by another version?"
    )
