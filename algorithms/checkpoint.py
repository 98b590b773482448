"""Checkpoints that survive a crash: a folder appears under its final name only when everything in it is on disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from aipo_env.errors import DataFormatError

PREFIX = "step-"
_STATE = "state.pt"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Writes `folder/step-<step>` atomically, then removes all but the newest `keep` checkpoints.

    Args:
        folder: the run's checkpoint folder.
        step: optimizer batches done.
        state: what `torch.save` takes: tensors and plain values.
        keep: how many checkpoints stay; at least 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.partial"):
        shutil.rmtree(leftover)
    partial, final = folder / f".{PREFIX}{step}.partial", folder / f"{PREFIX}{step:07d}"
    partial.mkdir()
    with (partial / _STATE).open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


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
