"""Language models behind helpers and policies: any OpenAI-compatible server, in-process vLLM, `transformers`.

Each is loaded on first use; importing this package imports none of their libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from aipo_agents.backends.base import (
    ChatBackend,
    ChatSampling,
    CompletionBackend,
    CompletionSampling,
    Generation,
    Message,
)

if TYPE_CHECKING:
    from aipo_agents.backends.openai_server import OpenAIServer
    from aipo_agents.backends.trainable_server import TrainableServer
    from aipo_agents.backends.transformers_model import TransformersModel
    from aipo_agents.backends.vllm_engine import VLLMEngine
    from aipo_agents.backends.vllm_in_process import VLLMInProcess

__all__ = [
    "ChatBackend",
    "ChatSampling",
    "CompletionBackend",
    "CompletionSampling",
    "Generation",
    "Message",
    "OpenAIServer",
    "TrainableServer",
    "TransformersModel",
    "VLLMEngine",
    "VLLMInProcess",
]

_MODULES = {
    "OpenAIServer": "aipo_agents.backends.openai_server",
    "TrainableServer": "aipo_agents.backends.trainable_server",
    "TransformersModel": "aipo_agents.backends.transformers_model",
    "VLLMEngine": "aipo_agents.backends.vllm_engine",
    "VLLMInProcess": "aipo_agents.backends.vllm_in_process",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
