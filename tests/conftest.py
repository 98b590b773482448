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
    """A verdict depends neither on the machine's cores and load nor on chance; AIPO_TEST_RANDOM=1 searches among other examples."""
    settings.register_profile("fixed", deadline=None, derandomize=True)
    settings.register_profile("random", deadline=None)
    settings.load_profile("random" if os.environ.get("AIPO_TEST_RANDOM") else "fixed")
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
