"""Shared by the grading tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def grading_data(data_folder: Path) -> Path:
    """The folder with the labelled grading rows, which is not part of the repository."""
    folder = data_folder / "grading"
    if not folder.is_dir():
        pytest.skip(f"the labelled grading rows are not in {folder}; set AIPO_TEST_DATA to a folder that has them")
    return folder
