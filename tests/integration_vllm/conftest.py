"""A real vLLM server for the session. Collected by `make test-vllm` alone, which sets AIPO_TEST_VLLM."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration_vllm.server import VLLMServer

if TYPE_CHECKING:
    from algorithms.policies import Policy

collect_ignore_glob = [] if os.environ.get("AIPO_TEST_VLLM") else ["test_*.py"]


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """SmolLM2-135M-Instruct, converted once and kept in the cache."""
    from algorithms.policies.smollm2 import smollm2_folder

    return smollm2_folder()


@pytest.fixture(scope="session")
def policy(model_folder: Path) -> Policy:
    """The same weights in `transformers`, fp32: the reference."""
    # Imported here: the tests of the environments run without torch, and pytest reads this file there too.
    import torch

    from algorithms.policies import load_policy

    # The server is idle while the reference computes.
    torch.set_num_threads(os.cpu_count() or 1)
    return load_policy(str(model_folder))


@pytest.fixture(scope="session")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """`vllm serve` with these weights; a test that kills it starts it again."""
    with VLLMServer(model_folder, "smollm2", tmp_path_factory.mktemp("vllm") / "server.log") as running:
        print(f"vllm serve answered after {running.start_seconds[0]:.0f} s")
        yield running
