"""Collected by `make test-openrlhf` alone, which sets AIPO_TEST_OPENRLHF: the real OpenRLHF, vLLM, Ray and DeepSpeed, without a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")

collect_ignore_glob = [] if os.environ.get("AIPO_TEST_OPENRLHF") else ["test_*.py"]

if os.environ.get("AIPO_TEST_OPENRLHF"):
    from tests.integration_openrlhf.stand_ins import install_cuda, install_flash_attn

    install_flash_attn()
    install_cuda()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded policy as vLLM takes it."""
    from tests.integration_openrlhf.checkpoint import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("policy"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deprecations inside OpenRLHF, vLLM and DeepSpeed are not for us to mend: warnings are shown here, and no errors."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))
