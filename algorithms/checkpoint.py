"""Checkpoints that survive a crash: a folder appears under its final name only when everything in it is on disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from aipo_env.errors import DataFormatError
from algorithms.run_folder import replace

PREFIX = "step-"
_STATE = "state.pt"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = 2, best: int | None = None) -> Path:
    """Writes `folder/step-<step>` atomically, then removes all but the newest `keep` checkpoints and that of the best step.

    Args:
        folder: the run's checkpoint folder.
        step: optimizer batches done.
        state: what `torch.save` takes: tensors and plain values.
        keep: how many checkpoints stay; at least 1.
        best: a step whose checkpoint stays as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f".{PREFIX}*"):
        shutil.rmtree(leftover)

    def write(partial: Path) -> None:
        partial.mkdir()
        with (partial / _STATE).open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    final = checkpoint_path(folder, step)
    replace(final, write)
    for old in list_checkpoints(folder)[:-keep]:
        if best is None or old != checkpoint_path(folder, best):
            shutil.rmtree(old)
    return final


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` batches lies."""
    return folder / f"{PREFIX}{step:07d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(folder.glob(f"{PREFIX}*")) if folder.is_dir() else []


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint: tensors and plain values alone, nothing in the file is executed.

    Raises:
        DataFormatError: when the file is damaged.
    """
    try:
        state = torch.load(path / _STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file; the cause is chained
        raise DataFormatError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}: {str(error)[:200]}). Remove the folder to resume "
            "from the one before it."
        ) from error
    if not isinstance(state, dict):
        raise DataFormatError(f"the checkpoint {path} holds {type(state).__name__}, expected the state of a run.")
    return state
