"""Rows of a public data set, from a local file or from its hub. Nothing of any data set ships with this project."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError, MissingDependencyError, unknown_id
from aipo_env.installation import install_command

DATA_VARIABLE = "AIPO_DATA"
"""Environment variable that names a folder with `<family>/<split>.jsonl` files."""

Row = dict[str, object]

Kind = Literal["text", "value", "values", "any"]
"""What stands in a field: a text; a text or a number; one or several of these; anything, nothing included."""

_STEP = re.compile(r"(?:([^.\[\]]+)|\[(\d+)\])\.?")


@dataclasses.dataclass(frozen=True, slots=True)
class HubSource:
    """Where a data set lives, and what its rows hold."""

    family: str
    repository: str
    """On the Hugging Face hub, loaded with `datasets`."""
    config: str | None
    splits: tuple[str, ...]
    """As the family calls them: what they are for, "train" or "test"."""
    fields: Mapping[str, Kind]
    """What every row must have, by the paths of `at`."""
    hub_splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The hub's names of splits, where it calls them otherwise; they are taken too. "train+test" are both."""
    configs: tuple[str, ...] = ()
    """Several configurations, one behind the other, in place of `config`."""
    file: str | None = None
    """The one file of a repository without configurations."""
    spellings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Other names of fields, as copies of the data set have them, and the field that each stands for."""
    suffixes: tuple[str, ...] = (".jsonl", ".json", ".parquet")
    """Formats of local files."""
    reading: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Options of `datasets` for the format of the hub's files."""
    large: bool = False
    """Whether it is larger than memory: rows of the hub are then read when they are looked at."""
    gated: bool = False
    """Whether the hub gives it only to those who accepted its terms."""
    confidential: bool = False
    """Whether no message may quote a row."""

    def own_split(self, split: str) -> str:
        """The family's name of a split that is called by its own or the hub's name."""
        own = next((own for own, hub in self.hub_splits.items() if hub == split), split)
        if own not in self.splits:
            raise unknown_id(f"{self.family} split", split, [*self.splits, *self.hub_splits.values()])
        return own


@dataclasses.dataclass(frozen=True, slots=True)
class Provenance:
    """What the rows are, as exactly as is known."""

    source: Literal["hub", "file", "package"]
    repository: str | None = None
    """On the hub, or the package; None for local files, of which nobody knows where they are from."""
    revision: str | None = None
    """The commit of the repository, 40 hexadecimal digits, where it is known; the version of a package."""
    config: str | None = None
    split: str | None = None
    """The hub's name of the split; None for local files."""
    files: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    """Names of the files that were read and their sha256; None where the revision says what they hold."""

    def to_json(self, rows: int) -> dict[str, object]:
        """As plain values, without paths and clocks: equal data give equal records on every machine.

        Args:
            rows: how many rows are used.
        """
        return {**dataclasses.asdict(self), "files": dict(self.files), "rows": rows}


class DataSetTasks:
    """What the families have in common whose tasks are rows of a data set.

    Args:
        source: the data set.
        split: one of its splits.
        data: a local file or folder; see `load_rows`.
        revision: of the hub's repository; see `load_rows`.
        loaded: what `load_rows` gave, in place of another call.
    """

    def __init__(
        self,
        source: HubSource,
        split: str,
        data: str | os.PathLike[str] | None,
        revision: str | None,
        loaded: tuple[Sequence[Row], Provenance] | None = None,
    ) -> None:
        self.split = source.own_split(split)
        """What the tasks are for: "train" or "test"."""
        self._rows, self._provenance = loaded or load_rows(source, split, data, revision)
        self.num_tasks: int = len(self._rows)

    def sample_index(self, rng: np.random.Generator) -> int:
        """Draws a row."""
        return int(rng.integers(self.num_tasks))

    def provenance(self) -> dict[str, object]:
        """What the data are, as plain values: repository, revision, config, split, files with their sha256, rows."""
        return self._provenance.to_json(self.num_tasks)


def load_rows(
    source: HubSource, split: str, data: str | os.PathLike[str] | None = None, revision: str | None = None
) -> tuple[Sequence[Row], Provenance]:
    """Loads a split: from `data`, else from the folder that AIPO_DATA names, else from the hub.

    Args:
        source: the data set.
        split: one of its splits.
        data: a file in one of the source's formats, or a folder with `<family>/<split>.jsonl` or `<split>.jsonl`.
        revision: tag, branch or commit of the hub's repository; by default its newest.

    Returns:
        The rows, and what they are.

    Raises:
        DataNotFoundError: naming both ways to get the data.
        DataFormatError: when a row lacks a field, with the line number.
        ConfigurationError: for a revision of local files.
    """
    own = source.own_split(split)
    folder = local_data(data, revision)
    if folder is None:
        return _from_hub(source, own, revision)
    path = _local_file(source, own, folder)
    return read_rows(path, source), Provenance("file", files={path.name: sha256(path)})


def local_data(data: str | os.PathLike[str] | None, revision: str | None) -> Path | None:
    """The local file or folder to read: `data`, else the folder that AIPO_DATA names; None for the hub.

    Raises:
        ConfigurationError: for a revision of local files.
    """
    given = data if data is not None else os.environ.get(DATA_VARIABLE) or None
    if given is None:
        return None
    if revision is not None:
        raise ConfigurationError(
            f"revision={revision!r} is one of the hub's repository, and the data are local ({given}). Leave revision out, or "
            f"data= and {DATA_VARIABLE}."
        )
    return Path(given).expanduser()


def read_rows(path: Path, source: HubSource) -> list[Row]:
    """Reads a .jsonl, .json, .csv or .parquet file whose rows must have the fields of a data set."""
    rows = [check_row(row, source, f"{path}, line {number}") for number, row in rows_of(path)]
    if not rows:
        raise DataFormatError(f"{path} holds no rows.")
    return rows


def rows_of(path: Path) -> Iterator[tuple[int, object]]:
    """The number and the value of each row of a file, by the file's suffix."""
    if path.suffix == ".csv":
        return _csv_rows(path)
    if path.suffix == ".parquet":
        return enumerate(_parquet_rows(path), start=1)
    if path.suffix == ".json":
        with path.open("rb") as file:
            if file.read(64).lstrip().startswith(b"["):
                rows = parse_line(path.read_bytes(), str(path))
                assert isinstance(rows, list)
                return enumerate(rows, start=1)
    return json_rows(path)


def _parquet_rows(path: Path) -> list[object]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} needs the package pyarrow, which comes with datasets; it is not installed. Install it with: "
            f"{install_command('eval')}"
        ) from error
    rows: list[object] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def json_rows(path: Path) -> Iterator[tuple[int, object]]:
    """The line number and the value of each line of a JSON Lines file."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, parse_line(line, f"{path}, line {number}")


def parse_line(line: bytes, where: str) -> object:
    """The value of a line; DataFormatError, which quotes nothing of it, where it is not JSON."""
    try:
        return json.loads(line)
    except ValueError as error:  # of JSON, or of UTF-8
        raise DataFormatError(f"{where}: expected one JSON object a line: {_without_text(error)}.") from None


def sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit_of(text: object) -> str | None:
    """The commit hash that a text is, or that stands in a path of the hub's cache; None without one."""
    match = re.search(r"(?:^|/snapshots/)([0-9a-f]{40})(?:/|$)", str(text))
    return match[1] if match else None


def _csv_rows(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                yield reader.line_num, dict(row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataFormatError(
                f"{path}, line {reader.line_num}: expected comma-separated values in UTF-8: {_without_text(error)}."
            ) from None


def _without_text(error: Exception) -> str:
    """An error of a parser in words that quote nothing of the text."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return f"{error.reason} at byte {error.start}" if isinstance(error, UnicodeDecodeError) else type(error).__name__


def check_row(row: object, source: HubSource, where: str) -> Row:
    """A row under the names of the source's fields; DataFormatError where one is missing or no text."""
    if not isinstance(row, dict):
        raise DataFormatError(
            f"{where}: expected an object with the fields {list(source.fields)}; came a {type(row).__name__}."
        )
    named: Row = {source.spellings.get(name, name): value for name, value in row.items() if isinstance(name, str)}
    wrong = [path for path, kind in source.fields.items() if not _is(named, path, kind)]
    if wrong:
        # A file without a header has texts of the data in the place of names.
        has = "" if source.confidential else f" of the fields {sorted(map(str, row))}"
        raise DataFormatError(
            f"{where}: {source.family} has rows with the fields {list(source.fields)}; the row{has} lacks {wrong}, or has no "
            "text there. Take a copy with these fields, an earlier revision, or name the fields with the environment dataset."
        )
    return named


def at(row: Mapping[str, object], path: str) -> object:
    """What stands at a path of a row, such as "answer" or "prompt[0].content"; a text is opened as JSON where the path goes on.

    Raises:
        KeyError: nothing stands there.
    """
    value: object = row
    while path:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise KeyError(path) from None
        if isinstance(value, Mapping) and path in value:  # a name may have dots of its own
            return value[path]
        step = _STEP.match(path)
        if step is not None and step[1] and isinstance(value, Mapping) and step[1] in value:
            value = value[step[1]]
        elif step is not None and step[2] and isinstance(value, list) and int(step[2]) < len(value):
            value = value[int(step[2])]
        else:
            raise KeyError(path)
        path = path[step.end() :]
    return value


def _is(row: Row, path: str, kind: Kind) -> bool:
    try:
        value = at(row, path)
    except KeyError:
        return False
    if kind == "values" and isinstance(value, list):
        return bool(value) and all(_is_value(part) for part in value)
    return kind == "any" or isinstance(value, str) or (kind != "text" and _is_value(value))


def _is_value(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _local_file(source: HubSource, split: str, path: Path) -> Path:
    candidates = _candidates(source, split, path) if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataNotFoundError(
        f"no {source.family} data (split {split!r}) at {path}: looked for {' and '.join(map(str, candidates))}. "
        f"Point data= or {DATA_VARIABLE} at such a file or its folder, or leave both out to load {source.repository} from the "
        "Hugging Face hub."
    )


def _candidates(source: HubSource, split: str, folder: Path, *, named: bool = False) -> list[Path]:
    """Where a split may lie in a folder; `named`: only in a folder of the family's name."""
    names = dict.fromkeys([split, source.hub_splits.get(split, split)])
    folders = (folder / source.family,) if named else (folder / source.family, folder)
    return [place / f"{name}{suffix}" for place in folders for name in names for suffix in source.suffixes]


def is_at_hand(source: HubSource, split: str, data: str | os.PathLike[str] | None = None) -> bool:
    """Whether a split can be read without asking a server: in a local folder, or in the cache of `datasets`."""
    folder = local_data(data, None)
    if folder is not None:
        return folder.is_dir() and any(path.is_file() for path in _candidates(source, split, folder, named=True))
    home = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(home) / "datasets")
    letters = re.sub("[^a-z0-9]", "", source.repository.lower())
    return cache.is_dir() and any(re.sub("[^a-z0-9]", "", path.name.lower()) == letters for path in cache.iterdir())


def _from_hub(source: HubSource, split: str, revision: str | None) -> tuple[Sequence[Row], Provenance]:
    try:
        import datasets
    except ImportError as error:
        raise not_here(source, "the package 'datasets' is not installed", split) from error
    hub_split = source.hub_splits.get(split, split)
    reading = dict(source.reading) if source.file is None else {"data_files": source.file, **source.reading}
    loaded: list[Sequence[Mapping[str, object]]] = []
    try:
        for config in source.configs or (source.config,):
            builder = datasets.load_dataset_builder(source.repository, config, revision=revision, **reading)
            builder.download_and_prepare()
            loaded.append(builder.as_dataset(split=hub_split))
            commit = commit_of(builder.hash)
            # All configurations of one commit, whatever is uploaded meanwhile.
            revision = commit or revision
    except Exception as error:  # hub clients raise many kinds; each means "not here", and the cause is chained
        # What a parser says of a file may quote it; what a client says of a connection does not.
        plain = isinstance(error, ConnectionError | FileNotFoundError) or _is_of_client(error)
        quotes = source.confidential and not plain
        said = type(error).__name__ + ("" if quotes else f": {str(error)[:200]}")
        why = f"it could not be loaded from the hub ({said})"
        raise not_here(source, why, split) from (None if quotes else error)
    rows: Sequence[Row] = _HubRows(loaded, source)
    rows = rows if source.large else list(rows)
    config = "+".join(source.configs) or source.config
    files: dict[str, str | None] = {} if source.file is None else {source.file: None}
    return rows, Provenance("hub", source.repository, commit, config, hub_split, files)


class _HubRows(Sequence[Row]):
    """The rows of the hub's files, one behind the other, each read and checked when it is asked for."""

    def __init__(self, parts: Sequence[Sequence[Mapping[str, object]]], source: HubSource) -> None:
        self._parts, self._source = parts, source

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[Row]:
        for number, row in enumerate(itertools.chain.from_iterable(self._parts)):
            yield check_row(dict(row), self._source, f"{self._source.repository}, row {number}")

    def __getitem__(self, index: Any) -> Any:
        return next(itertools.islice(self, index, None))


def _is_of_client(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] == "huggingface_hub"


def not_here(source: HubSource, why: str, split: str) -> DataNotFoundError:
    """The error for a data set that is neither local nor reachable, with both ways to get it."""
    gate = (
        f"The hub gives {source.repository} only to those who accepted its terms: log in there, accept them at "
        f"https://huggingface.co/datasets/{source.repository}, make an access token at "
        "https://huggingface.co/settings/tokens, and hand it over with `hf auth login` or the variable HF_TOKEN. "
        if source.gated
        else ""
    )
    formats = " or ".join(source.suffixes)
    reach = f"with `{install_command('eval')}`"
    if importlib.util.find_spec("datasets") is not None:
        reach = "(the network, a proxy, HF_ENDPOINT)"
    return DataNotFoundError(
        f"{source.family} is not here: {why}. {gate}Either the option data (or {DATA_VARIABLE}) names a copy: a {formats} "
        f"file with the fields {', '.join(source.fields)}, or a folder with {source.family}/{split}{source.suffixes[0]}; or "
        f"make {source.repository} reachable on the Hugging Face hub {reach}."
    )
