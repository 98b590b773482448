"""Rows of a public data set, from a local file or from its hub. Nothing of any data set ships with this project."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from aipo_env.errors import DataFormatError, DataNotFoundError, unknown_id

DATA_VARIABLE = "AIPO_DATA"
"""Environment variable that names a folder with `<family>/<split>.jsonl` files."""

Row = dict[str, object]


@dataclasses.dataclass(frozen=True, slots=True)
class HubSource:
    """Where a data set lives, and what its rows hold."""

    family: str
    repository: str
    """On the Hugging Face hub, loaded with `datasets`."""
    config: str | None
    splits: tuple[str, ...]
    fields: tuple[str, ...]
    """The fields that every row must have, as text."""


def load_rows(source: HubSource, split: str, data: str | os.PathLike[str] | None = None) -> list[Row]:
    """Loads a split: from `data`, else from the folder that AIPO_DATA names, else from the hub.

    Args:
        source: the data set.
        split: one of its splits.
        data: a .jsonl file, or a folder with `<family>/<split>.jsonl` or `<split>.jsonl`.

    Raises:
        DataNotFoundError: naming both ways to get the data.
        DataFormatError: when a row lacks a field, with the line number.
    """
    if split not in source.splits:
        raise unknown_id(f"{source.family} split", split, source.splits)
    if data is not None:
        return read_jsonl(_local_file(source, split, Path(data)), source.fields)
    if folder := os.environ.get(DATA_VARIABLE):
        return read_jsonl(_local_file(source, split, Path(folder)), source.fields)
    return _from_hub(source, split)


def read_jsonl(path: Path, fields: tuple[str, ...]) -> list[Row]:
    """Reads a JSON Lines file whose rows must have these text fields."""
    rows: list[Row] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataFormatError(f"{path}, line {number}: expected one JSON object a line: {error}.") from error
            missing = [f for f in fields if not isinstance(row, dict) or not isinstance(row.get(f), str)]
            if missing:
                has = sorted(row) if isinstance(row, dict) else type(row).__name__
                raise DataFormatError(
                    f"{path}, line {number}: expected the text fields {list(fields)}; the row has {has}."
                )
            rows.append(row)
    if not rows:
        raise DataFormatError(f"{path} holds no rows.")
    return rows


def _local_file(source: HubSource, split: str, path: Path) -> Path:
    path = path.expanduser()
    candidates = [path] if not path.is_dir() else [path / source.family / f"{split}.jsonl", path / f"{split}.jsonl"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataNotFoundError(
        f"no {source.family} data (split {split!r}) at {path}: looked for {' and '.join(map(str, candidates))}. "
        f"Point data= or {DATA_VARIABLE} at a .jsonl file's folder, or leave both out to load "
        f"{source.repository} from the Hugging Face hub."
    )


def _from_hub(source: HubSource, split: str) -> list[Row]:
    ways = (
        f"Either pass data= (or set {DATA_VARIABLE}) to a local copy: a .jsonl file with the fields "
        f"{', '.join(source.fields)}, or a folder with {source.family}/{split}.jsonl; or make {source.repository} reachable "
        "on the Hugging Face hub with `pip install 'aipo[eval]'`."
    )
    try:
        import datasets
    except ImportError as error:
        raise DataNotFoundError(
            f"{source.family} is not here: the package 'datasets' is not installed. {ways}"
        ) from error
    try:
        loaded = datasets.load_dataset(source.repository, source.config, split=split)
    except Exception as error:  # hub clients raise many kinds; each means "not here", and the cause is chained
        raise DataNotFoundError(
            f"{source.family} could not be loaded from the hub ({type(error).__name__}: {str(error)[:200]}). {ways}"
        ) from error
    return [dict(row) for row in loaded]
