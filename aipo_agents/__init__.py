"""The helpers: embedded ones, which need no model and no network, and `LLMAgent`, which asks a model.

Each is a class with a `name` and `async def respond(request) -> Reply`, a function of the request and its seed.
They are loaded on first use, so that importing this package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aipo_agents.knowledge import KnowledgeAgent
    from aipo_agents.llm import LLMAgent
    from aipo_agents.noise import NoisyAgent
    from aipo_agents.reasoning import ReasoningAgent
    from aipo_agents.verify import VerifyAgent

__all__ = ["KnowledgeAgent", "LLMAgent", "NoisyAgent", "ReasoningAgent", "VerifyAgent"]

_MODULES = {
    "KnowledgeAgent": "aipo_agents.knowledge",
    "LLMAgent": "aipo_agents.llm",
    "NoisyAgent": "aipo_agents.noise",
    "ReasoningAgent": "aipo_agents.reasoning",
    "VerifyAgent": "aipo_agents.verify",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
