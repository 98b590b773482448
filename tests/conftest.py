"""Shared by all tests."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_configure() -> None:
    """One thread: the models are tiny, and a test's numbers must not depend on the machine's cores, nor a verdict on its load."""
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")
    # The tests of the environments run without the learner's packages.
    with contextlib.suppress(ModuleNotFoundError):
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with math500/test.jsonl and gsm8k/test.jsonl, which is not part of the repository."""
    folder = Path(os.environ.get("AIPO_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
    if not (folder / "math500" / "test.jsonl").exists():
        pytest.skip(f"the public data sets are not in {folder}; set AIPO_TEST_DATA to a folder that has them")
    return folder.resolve()
