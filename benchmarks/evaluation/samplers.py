"""Playing a run's episodes: with a model of `transformers` or vLLM in this process, or with a model server.

It appends the episodes to a file of traces and goes on with what the file holds; see `aipo_env.trace_files`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aipo_env
from aipo_agents.backends.base import ChatSampling, CompletionSampling
from aipo_env.errors import ConfigurationError, ServiceError
from aipo_env.gym_env import ConsultEnv
from aipo_env.protocol import TurnPolicy
from aipo_env.run_record import RunRecord, record_path
from aipo_env.trace_files import FAULTS
from aipo_env.trajectory import Trajectory
from benchmarks.evaluation.config import EvaluationConfig
from benchmarks.evaluation.fingerprints import folder_fingerprint, model_fingerprint
from benchmarks.evaluation.plan import RunPlan

if TYPE_CHECKING:
    from aipo_agents.backends.openai_server import OpenAIServer
    from aipo_agents.backends.transformers_model import TransformersModel
    from aipo_agents.backends.vllm_engine import VLLMEngine
    from algorithms.codec import TransformersCodec
    from algorithms.policies import Policy

Finish = Callable[[Trajectory], Trajectory]

MAX_FAULTS_IN_A_ROW = 64
"""So many episodes in a row that a fault ended, and a run stops: whoever should answer does not."""


class TurnSampler:
    """Plays runs with one policy, whose turns a backend samples: a model server, vLLM or `transformers` in this process.

    Args:
        backend: the model; closed with this object.
        codec: the policy's tokenizer; None plays over the backend's chat.
        description: what the policy is, of which a change is another evaluation; its name stands in the traces.
        tokenizer_name: what the tokenizer can be loaded by.
        max_in_flight: episodes that run at the same time.
        timeout: seconds for an episode; None for no limit.
        context: tokens that the model takes; None where that is not known.
    """

    def __init__(
        self,
        backend: OpenAIServer | VLLMEngine | TransformersModel,
        codec: TransformersCodec | None,
        description: dict[str, object],
        *,
        tokenizer_name: str,
        max_in_flight: int,
        timeout: float | None,
        context: int | None = None,
    ) -> None:
        self._backend, self._codec, self.description = backend, codec, description
        self._tokenizer_name, self._max_in_flight, self._timeout = tokenizer_name, max_in_flight, timeout
        self.context = context

    def play(self, env: ConsultEnv, plan: RunPlan, traces: Path, finish: Finish, *, progress: bool) -> None:
        """Plays the episodes of a run that a file of traces lacks; one that a fault ends is played again by the next call.

        Args:
            env: made with the policy's tokenizer.
            plan: of the run.
            traces: the file.
            finish: what is made of each trajectory before it is written.
            progress: shows a bar on standard error.

        Raises:
            ServiceError: when nobody answers any more.
            OSError: when the disk is full or the like; the file then ends with a whole episode.
        """
        asyncio.run(self._play(env, plan, traces, finish, progress))

    def close(self) -> None:
        """Closes the backend."""
        asyncio.run(self._backend.aclose())

    async def _play(self, env: ConsultEnv, plan: RunPlan, traces: Path, finish: Finish, progress: bool) -> None:
        from algorithms.samplers import BackendPolicy
        from algorithms.samplers.chat_policy import ChatPolicy

        # Log-probabilities are what training needs; here they would double the traces.
        limits, name = (plan.temperature, plan.top_p, plan.max_tokens), str(self.description["name"])
        policy: TurnPolicy = ChatPolicy(self._backend, ChatSampling(*limits), name=name)
        if self._codec is not None:
            sampling = CompletionSampling(*limits, logprobs=False)
            policy = BackendPolicy(self._backend, self._codec, sampling, context_length=plan.context, name=name)
        episodes = aipo_env.rollout(
            env,
            policy,
            list(plan.tasks),
            group_size=plan.num_samples,
            max_in_flight=self._max_in_flight,
            seed=plan.seed,
            solo_share=0.0 if plan.assisted else 1.0,
            max_tokens=None if self._codec is None else plan.max_tokens,
            timeout=self._timeout,
            traces=traces,
            finish=finish,
            progress=progress,
        )
        check = _FaultsInARow()
        async with episodes:
            side = record_path(traces)
            dataclasses.replace(RunRecord.read(side), tokenizer_name=self._tokenizer_name).write(side)
            async for trajectory in episodes:
                check(trajectory)


class _FaultsInARow:
    """Ends a run when too many episodes in a row were ended by a fault."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, trajectory: Trajectory) -> None:
        self._count = self._count + 1 if trajectory.stop_reason in FAULTS else 0
        if self._count == MAX_FAULTS_IN_A_ROW:
            shown = trajectory.redacted() if trajectory.confidential else trajectory
            raise ServiceError(
                f"{MAX_FAULTS_IN_A_ROW} episodes in a row were ended by a fault, the last one by {shown.metadata.get('error')}"
            )


def open_sampler(
    config: EvaluationConfig, codec: TransformersCodec | None, policy: Policy | None = None
) -> TurnSampler:
    """Loads the policy of an evaluation, or makes ready to ask its server.

    Args:
        config: of the evaluation.
        codec: the policy's tokenizer; None where it plays over a chat.
        policy: a policy that is loaded already; None loads `config.policy`.

    Raises:
        DataNotFoundError: when there is no such policy.
        MissingDependencyError: when the backend is not installed.
    """
    in_flight = config.max_in_flight or (16 if config.local else 256)
    shared: dict[str, Any] = {
        "tokenizer_name": "" if codec is None else config.policy if policy is None else policy.name,
        "max_in_flight": in_flight,
        "timeout": config.timeout,
    }
    if config.local:
        from aipo_agents.backends.transformers_model import TransformersModel
        from algorithms.policies import load_policy

        loaded = policy or load_policy(config.policy, config.device)
        model = TransformersModel(
            loaded.model, loaded.tokenizer, eos_ids=loaded.eos_ids, name=loaded.name, max_batch=in_flight
        )
        description: dict[str, object] = {
            "name": loaded.name,
            "backend": "transformers",
            "device": config.device,
            "weights": model_fingerprint(loaded.model),
        }
        return TurnSampler(model, loaded.codec, description, **shared, context=model.context_length)
    if config.server is not None:
        server = config.servers.policy(config.timeout or _request_seconds(config))
        description = {
            "name": config.model,
            "backend": "chat server" if config.chat else "server",
            "server": server.base_url,
            "model": config.model,
        }
        return TurnSampler(server, codec, description, **shared)
    from aipo_agents.backends.vllm_engine import VLLMEngine
    from algorithms.policies.adapters import base_of
    from algorithms.policies.loading import policy_source

    if base_of(Path(config.policy)) is not None:
        raise ConfigurationError(
            f"{config.policy} is an adapter, and the engine loads whole models here. Write it whole, "
            f'`load_policy("{config.policy}").save(folder)`, or take --backend transformers.'
        )
    limit = {} if config.context is None else {"max_model_len": config.context}
    engine_args: dict[str, Any] = {**limit, **config.engine_args}
    source = str(policy_source(config.policy))
    engine = VLLMEngine(source, name=config.policy, **engine_args)
    description = {
        "name": config.policy,
        "backend": "vllm",
        "engine_args": engine_args,
        "weights": folder_fingerprint(source),
    }
    return TurnSampler(engine, codec, description, **shared, context=engine.context_length)


def _request_seconds(config: EvaluationConfig) -> float:
    """How long a turn may take: long enough for the longest one at five tokens a second."""
    return max(600.0, 0.2 * max(config.max_tokens_of(name) for name in config.suites))
