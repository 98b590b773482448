"""The files of LiveCodeBench: which ones make up a release, where they are, and where in them each problem stands.

All of them together are 4 GB, most of it tests. So what is kept of a row is its position and a few facts; the row itself
is read when it is asked for.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError, unknown_id
from aipo_env.tasks.hub import (
    DATA_VARIABLE,
    HubSource,
    Provenance,
    check_row,
    commit_of,
    local_data,
    not_here,
    parse_line,
)

SOURCE = HubSource(
    "livecodebench",
    "livecodebench/code_generation_lite",
    None,
    ("test",),
    dict.fromkeys(
        (
            *("question_content", "platform", "question_id", "contest_date", "starter_code", "difficulty"),
            *("public_test_cases", "private_test_cases"),
        ),
        "text",
    ),
    suffixes=(".jsonl",),
)
NUM_FILES = 6
LATEST = f"release_v{NUM_FILES}"
_VERSION = re.compile(rf"release_v([1-{NUM_FILES}])|v([1-{NUM_FILES}])(?:_v([1-{NUM_FILES}]))?")
_PACKED_TESTS = re.compile(rb'"private_test_cases"\s*:\s*"(?=[A-Za-z0-9+/])')


@dataclasses.dataclass(frozen=True, slots=True)
class IndexedRow:
    """Where a problem stands, and what is known of it without reading it again."""

    path: Path
    line: int
    offset: int
    """Of the line, in bytes."""
    question_id: str
    platform: str
    difficulty: str
    contest_date: str
    """As in the row, ISO."""
    date: datetime.datetime
    """The same, to compare."""

    def read(self, *, tests: bool) -> dict[str, object]:
        """The row.

        Args:
            tests: whether with its packed private tests, which may take 100 MB.

        Raises:
            DataFormatError: when the file was changed since it was indexed.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            line = file.readline()
        row = parse_line(line if tests else _without_packed_tests(line), f"{self.path}, line {self.line}")
        if not isinstance(row, dict) or row.get("question_id") != self.question_id:
            raise DataFormatError(
                f"{self.path}, line {self.line}: expected the problem {self.question_id}, as when the file was first read. Was "
                "it changed meanwhile? Make the environment again."
            )
        return row


@dataclasses.dataclass(frozen=True, slots=True)
class LcbFiles:
    """The files of a version, or those that a user has."""

    paths: tuple[Path, ...]
    version: str | None
    """Its name; None where the files are not those of one."""
    provenance: Provenance

    def rows(self) -> list[IndexedRow]:
        """Every problem, in the order of the files."""
        digest = self.provenance.source == "file"
        return [row for path in self.paths for row in _index(path, digest).rows]


def files_of(version: str) -> tuple[str, ...]:
    """The names of the files of a version: `release_v3` is the first three, `v3` the third, `v2_v4` the second to fourth.

    As in the data set's own loading script; README of LiveCodeBench, "Dataset Versions".

    Raises:
        UnknownIdError: for another name.
    """
    match = _VERSION.fullmatch(LATEST if version == "release_latest" else str(version))
    if match is None or (match[3] is not None and match[2] >= match[3]):
        known = [f"release_v{i}" for i in range(1, NUM_FILES + 1)] + ["release_latest"]
        raise unknown_id(
            "LiveCodeBench version", version, known, "Parts of a release are v1 to v6 and v1_v3, v4_v6, ..."
        )
    first, last = (1, int(match[1])) if match[1] else (int(match[2]), int(match[3] or match[2]))
    return tuple("test.jsonl" if i == 1 else f"test{i}.jsonl" for i in range(first, last + 1))


def find_files(version: str | None, data: str | os.PathLike[str] | None, revision: str | None) -> LcbFiles:
    """Finds the files: in `data`, else in the folder that AIPO_DATA names, else on the hub.

    Args:
        version: see `files_of`; by default the newest release of the hub, and of a folder all of its files.
        data: a .jsonl file of the hub's schema, or a folder with such files under the hub's names.
        revision: tag, branch or commit of the hub's repository.

    Raises:
        DataNotFoundError: naming both ways to get the data.
        ConfigurationError: for a version of a single file, or a revision of local ones.
    """
    names = None if version is None else files_of(version)
    path = local_data(data, revision)
    if path is None:
        return _from_hub(version or LATEST, revision)
    if path.is_dir():
        return _from_folder(path, version, names)
    if version is not None:
        raise ConfigurationError(
            f"version={version!r} chooses among the files of the data set, and {path} is one file. Leave version out, or name "
            "the folder with its files."
        )
    if not path.is_file():
        raise not_here(SOURCE, f"there is no file or folder {path}", "test")
    return LcbFiles((path,), None, _local_provenance([path]))


def _from_folder(folder: Path, version: str | None, names: Sequence[str] | None) -> LcbFiles:
    inner = folder / SOURCE.family
    folder = inner if inner.is_dir() else folder
    found = [name for name in files_of(LATEST) if (folder / name).is_file()]
    if missing := [name for name in names or found or files_of("v1") if name not in found]:
        raise DataNotFoundError(
            f"no livecodebench data in {folder}: looked for {', '.join(missing)}"
            + (f", which version={version!r} takes. Name a version whose files are there" if version else "")
            + f". Put the files of {SOURCE.repository} there, or leave data= and {DATA_VARIABLE} out to load it from the hub."
        )
    paths = [folder / name for name in names or found]
    return LcbFiles(tuple(paths), version or _version_of(found), _local_provenance(paths))


def _version_of(names: Sequence[str]) -> str | None:
    """The release that consists of these files."""
    releases = (f"release_v{i}" for i in range(1, NUM_FILES + 1))
    return next((release for release in releases if files_of(release) == tuple(names)), None)


def _local_provenance(paths: Sequence[Path]) -> Provenance:
    return Provenance("file", files={path.name: _index(path, True).sha256 for path in paths})


def _from_hub(version: str, revision: str | None) -> LcbFiles:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise not_here(SOURCE, "the package 'huggingface_hub' is not installed", "test") from error
    paths: list[Path] = []
    for name in files_of(version):
        try:
            path = hf_hub_download(SOURCE.repository, name, repo_type="dataset", revision=revision)
        except Exception as error:  # clients raise many kinds; each means "not here", and the cause is chained
            why = f"{name} could not be loaded from the hub ({type(error).__name__}: {str(error)[:200]})"
            raise not_here(SOURCE, why, "test") from error
        paths.append(Path(path))
        # All files of one commit, whatever is uploaded meanwhile.
        revision = commit_of(path) or revision
    # The hub's cache names large files by their sha256; to compute it of 4 GB again would take long.
    names = {path.name: path.resolve().name for path in paths}
    files = {name: blob if re.fullmatch("[0-9a-f]{64}", blob) else None for name, blob in names.items()}
    provenance = Provenance("hub", SOURCE.repository, commit_of(paths[0]), None, "test", files)
    return LcbFiles(tuple(paths), version, provenance)


@dataclasses.dataclass(frozen=True, slots=True)
class _Index:
    rows: tuple[IndexedRow, ...]
    sha256: str | None


def _index(path: Path, digest: bool) -> _Index:
    state = path.stat()
    return _read_index(path, state.st_size, state.st_mtime_ns, digest)


@functools.lru_cache(maxsize=4 * NUM_FILES)
def _read_index(path: Path, size: int, changed: int, digest: bool) -> _Index:
    """Reads a file once, line by line; another size or time of change is another file."""
    rows: list[IndexedRow] = []
    offset, hashed = 0, hashlib.sha256() if digest else None
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if hashed is not None:
                hashed.update(line)
            if line.strip():
                rows.append(_indexed(line, path, number, offset))
            offset += len(line)
    if not rows:
        raise DataFormatError(f"{path} holds no rows.")
    return _Index(tuple(rows), None if hashed is None else hashed.hexdigest())


def _indexed(line: bytes, path: Path, number: int, offset: int) -> IndexedRow:
    where = f"{path}, line {number}"
    row = check_row(parse_line(_without_packed_tests(line), where), SOURCE, where)
    contest_date = str(row["contest_date"])
    try:
        date = datetime.datetime.fromisoformat(contest_date).replace(tzinfo=None)
    except ValueError:
        raise DataFormatError(
            f"{where}: expected an ISO date as 'contest_date' (2024-08-01T00:00:00), got {contest_date[:40]!r}."
        ) from None
    question_id, platform, difficulty = (str(row[name]) for name in ("question_id", "platform", "difficulty"))
    return IndexedRow(path, number, offset, question_id, platform, difficulty, contest_date, date)


def _without_packed_tests(line: bytes) -> bytes:
    """A row whose private tests are an empty text, where they are base64: reading those takes most of the time.

    A quote inside a text is escaped, so what looks like the field's name is it, and base64 has no quote to end it early.
    """
    match = _PACKED_TESTS.search(line)
    if match is None:
        return line
    end = line.find(b'"', match.end())
    return line if end < 0 or b"\\" in line[match.end() : end] else line[: match.end()] + line[end:]
