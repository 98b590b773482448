"""The files of traces in what the user named, and what is known of their runs beside the traces."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aipo_env.errors import DataNotFoundError

if TYPE_CHECKING:
    from algorithms.token_weights import TokenWeights

_PASSED_OVER = frozenset({"checkpoints", "policy", "tensorboard", ".git", "__pycache__"})
"""Folders of a run that hold no traces."""
_FAULTS = ".errors"
"""Ends the stem of a file of episodes that a fault ended."""


@dataclasses.dataclass(frozen=True)
class RunFile:
    """A file of traces and the name under which its run is shown."""

    path: Path
    name: str
    """The run's name: a folder's name, or for one of several files of a folder the folder's and its own."""
    faults: bool = False
    """Whether it holds the episodes that a fault ended (`traces.errors.jsonl`)."""


@dataclasses.dataclass(frozen=True)
class TokenReader:
    """The tokenizer of a run, as far as its tokens are shown."""

    decode: Callable[[Sequence[int]], str]
    """Ids to text, without control tokens (`TokenCodec.decode`)."""
    name: Callable[[int], str]
    """What a token without text is called."""


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What is known of a run beside its traces."""

    reader: TokenReader | None = None
    learner: TokenWeights | None = None
    notes: tuple[str, ...] = ()
    """Why something of it is missing, in sentences."""


def find_run_files(paths: Sequence[Path]) -> list[RunFile]:
    """The files of traces below these paths, in the order of the paths and of their names.

    Args:
        paths: .jsonl files, or folders that are searched with all folders below them.

    Raises:
        DataNotFoundError: a path does not exist, or there are no traces in any of them.
    """
    found: dict[Path, RunFile] = {}
    for path in paths:
        if path.is_dir():
            for file in _traces_below(path):
                found.setdefault(file.resolve(), _run_file(file, path.absolute().parent))
        elif path.is_file():
            found.setdefault(path.resolve(), _run_file(path, path.absolute().parent.parent))
        else:
            raise DataNotFoundError(
                f"there is no file or folder {path}. Name a run's folder, or a .jsonl file of traces."
            )
    if not found:
        raise DataNotFoundError(
            f"no traces in {', '.join(map(str, paths))}. `aipo train`, `aipo rollout`, `aipo eval` and `aipo play` write "
            ".jsonl files of traces into the folder of --out (training: --trace-every above 0)."
        )
    files = list(found.values())
    taken = Counter((f.name, f.faults) for f in files)
    # Two runs of one name are told apart by where they lie.
    return [f if taken[f.name, f.faults] == 1 else dataclasses.replace(f, name=os.fspath(f.path)) for f in files]


def _traces_below(folder: Path) -> list[Path]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _PASSED_OVER)
        files += [Path(parent) / name for name in names if name.endswith(".jsonl")]
    # A run's faults stand behind its finished episodes.
    files.sort(key=lambda file: (file.parent, file.stem.removesuffix(_FAULTS), _is_faults(file)))
    return [file for file in files if _holds_traces(file)]


def _holds_traces(path: Path) -> bool:
    """Whether the first line is a trajectory; a file without one yet counts by its name alone."""
    with path.open("rb") as file:
        line = file.readline()
    if not line.endswith(b"\n"):
        return path.name == "traces.jsonl"
    try:
        row = json.loads(line)
    except ValueError:
        return path.name == "traces.jsonl"
    return isinstance(row, dict) and {"env_id", "task_id", "segments"} <= row.keys()


def _is_faults(path: Path) -> bool:
    return path.stem.endswith(_FAULTS)


def _run_file(path: Path, base: Path) -> RunFile:
    return RunFile(path, _name(path, base), _is_faults(path))


def _name(path: Path, base: Path) -> str:
    """`demo/aipo` for runs/demo/aipo/traces.jsonl, `x/math500.solo` for runs/x/traces/math500.solo.jsonl."""
    parts = list(path.absolute().relative_to(base).parts)
    stem = path.stem.removesuffix(_FAULTS)
    folders = [part for part in parts[:-1] if part != "traces"]
    return "/".join([*folders, *([] if stem == "traces" else [stem])]) or stem
