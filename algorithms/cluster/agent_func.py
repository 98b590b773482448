"""The file for --train.agent_func_path: OpenRLHF's rollout actor loads it and makes an `AgentExecutor` without arguments."""

from __future__ import annotations

import importlib
from typing import Any

from algorithms.cluster.executor import EpisodeExecutor
from algorithms.cluster.options import ClusterConfig

_agent: Any = importlib.import_module("openrlhf.utils.agent")


class AgentExecutor(_agent.AgentExecutorBase):  # type: ignore[misc]
    """Plays our episodes, with the config that the entry point put into the environment of Ray's workers."""

    def __init__(self) -> None:
        self._episodes = EpisodeExecutor(ClusterConfig.from_environment())

    async def execute(
        self,
        prompt: str,
        label: str,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: object = None,
    ) -> dict[str, object]:
        """See `EpisodeExecutor.execute`."""
        return await self._episodes.execute(
            prompt, label, sampling_params, max_length, hf_tokenizer, llm_engine, images
        )
