"""Shared by the grading tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aipo_env.grading import Grader


@pytest.fixture(scope="session")
def grader() -> Iterator[Grader]:
    """One grader for all tests."""
    with Grader(workers=2) as shared:
        yield shared


@pytest.fixture(scope="session")
def grading_data(data_folder: Path) -> Path:
    """The folder with the labelled grading rows, which is not part of the repository."""
    folder = data_folder / "grading"
    if not folder.is_dir():
        pytest.skip(f"the labelled grading rows are not in {folder}; set AIPO_TEST_DATA to a folder that has them")
    return folder
