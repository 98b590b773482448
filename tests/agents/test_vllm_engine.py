"""What needs no vLLM; the engine itself is tested by `make test-vllm` (tests/integration_vllm/test_backends.py)."""

from __future__ import annotations

import sys

import pytest

from aipo_agents.backends import VLLMEngine
from aipo_env.errors import ConfigurationError, MissingDependencyError


def test_without_vllm_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("vllm", "vllm.engine", "vllm.engine.arg_utils"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"\[vllm\]"):
        VLLMEngine("a-model")


def test_log_probabilities_of_another_distribution_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"processed_logprobs.*'raw_logprobs'"):
        VLLMEngine("a-model", logprobs_mode="raw_logprobs")
