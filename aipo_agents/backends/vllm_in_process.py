"""A vLLM engine in this very process, whose weights a trainer replaces between its rollouts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import numpy as np

from aipo_agents.backends.vllm_engine import VLLMEngine
from aipo_env.errors import EpisodeStateError, ServiceError

if TYPE_CHECKING:
    from torch import Tensor
    from vllm import RequestOutput, SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs


class VLLMInProcess(VLLMEngine):
    """vLLM's `LLMEngine`, stepped by a thread of ours: `VLLMEngine` without a process beside, so that weights are passed on.

    Requests join and leave between two steps of the engine. It must not be given weights or put to sleep while requests run.
    Starting it leaves Python's, NumPy's and torch's global random states as they were, which vLLM seeds.

    Args:
        model: a directory or hub id.
        name: names the weights; None takes `model`.
        engine_args: as for `VLLMEngine`; `load_format="dummy"` where `load_weights` brings the weights anyhow.

    Raises:
        MissingDependencyError: when vLLM is not installed.
        ConfigurationError: for another `logprobs_mode`, or an argument that vLLM does not know.
    """

    _engine: Any
    """vLLM's `LLMEngine`; touched by the thread of the loop alone."""
    _adapter: Any = None
    _num_open: ClassVar[int] = 0

    def load_weights(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Replaces the weights, in place.

        Args:
            named: as in a checkpoint of `transformers`, a tied output layer by its own name too: a packed copy of it would
                else stay as it was.

        Raises:
            EpisodeStateError: while requests run.
            ServiceError: when vLLM fails, or keeps what it has computed with the old weights.
        """
        self._replace(lambda: self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(named)}))

    def load_adapter(self, folder: Path) -> None:
        """Takes a LoRA adapter for all further requests, in place of the one before; needs `enable_lora=True`.

        Args:
            folder: as `peft` writes it.

        Raises:
            EpisodeStateError: while requests run.
            ServiceError: when vLLM fails, or keeps what it has computed with the old adapter.
        """
        from vllm.lora.request import LoRARequest

        adapter = LoRARequest("policy", 1, str(folder), load_inplace=True)
        self._replace(lambda: self._engine.add_lora(adapter))
        self._adapter = LoRARequest("policy", 1, str(folder))

    def sleep(self, level: int) -> None:
        """Frees the memory of the cache, and of the weights: level 1 keeps those in main memory, level 2 drops them.

        Needs `enable_sleep_mode=True`, and a GPU.
        """
        self._between(lambda: self._engine.sleep(level))

    def wake_up(self, *tags: str) -> None:
        """Takes the memory back, of the "weights" or of the "kv_cache"; what level 2 dropped is to be loaded again."""
        self._between(lambda: self._engine.wake_up(list(tags)))

    @property
    def unfinished_requests(self) -> int:
        """Requests that the engine is working on or that wait for it."""
        return len(self._waiting)

    def check(self) -> None:
        """Does nothing while the engine lives.

        Raises:
            ServiceError: with what ended it.
        """
        if self._dead is not None:
            raise self._death() from self._dead

    def _death(self) -> ServiceError:
        why = f"({type(self._dead).__name__}): {self._dead}"
        return ServiceError(f"the engine of {self.model} died {why}. Its log says more.", transient=False)

    async def _start(self, arguments: AsyncEngineArgs) -> Any:
        self._waiting: dict[str, asyncio.Future[RequestOutput]] = {}
        self._stepping: asyncio.Task[None] | None = None
        self._dead: Exception | None = None
        # On a CPU: how many threads compute, and where, is the trainer's matter.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        with mock.patch.dict(os.environ, VLLM_ENABLE_V1_MULTIPROCESSING="0"), _process_kept():
            from vllm.v1.engine.llm_engine import LLMEngine

            engine = LLMEngine.from_engine_args(arguments)
        VLLMInProcess._num_open += 1
        return engine

    async def _output(self, prompt: list[int], parameters: SamplingParams, number: str) -> RequestOutput | None:
        from vllm import TokensPrompt

        self.check()
        tokens = TokensPrompt(prompt_token_ids=prompt)
        inner = self._engine.add_request(number, tokens, parameters, lora_request=self._adapter)
        done = self._waiting[number] = asyncio.get_running_loop().create_future()
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._step())
        try:
            return await done
        except asyncio.CancelledError:
            if self._dead is None:
                self._engine.abort_request([inner], internal=True)
            raise
        finally:
            self._waiting.pop(number, None)

    async def _step(self) -> None:
        """Steps while there is something to do; requests come in between."""
        try:
            while self._engine.has_unfinished_requests():
                for output in self._engine.step():
                    done = self._waiting.get(output.request_id)
                    if output.finished and done is not None and not done.done():
                        done.set_result(output)
                await asyncio.sleep(0)
        except Exception as error:
            self._dead = error
            for done in self._waiting.values():
                if not done.done():
                    done.set_exception(self._death())

    def _replace(self, load: Callable[[], object]) -> None:
        def replace() -> None:
            try:
                load()
            except Exception as error:
                raise ServiceError(
                    f"vLLM could not take new weights for {self.model} ({type(error).__name__}): {error}",
                    transient=False,
                ) from error
            # It says so in its answer alone.
            if not self._engine.reset_prefix_cache():
                raise ServiceError(
                    f"vLLM kept what it had computed with old weights of {self.model}: reset_prefix_cache() returned False.",
                    transient=False,
                )

        self._between(replace)

    def _between(self, work: Callable[[], None]) -> None:
        """Does something on the engine's thread while no request runs."""

        async def work_there() -> None:
            if self._waiting:
                raise EpisodeStateError(
                    f"{len(self._waiting)} requests for {self.model} are unfinished; its weights are replaced between rollouts."
                )
            work()

        if self._closed.is_set():
            raise ServiceError(f"the engine of {self.model} was closed; make a new one.", transient=False)
        asyncio.run_coroutine_threadsafe(work_there(), self._loop).result()

    def _end(self) -> None:
        if self._stepping is not None:
            self._stepping.cancel()
        VLLMInProcess._num_open -= 1
        # It ends the groups of processes of all engines here.
        if VLLMInProcess._num_open == 0:
            self._engine.engine_core.shutdown()


@contextlib.contextmanager
def _process_kept() -> Iterator[None]:
    """Inside, vLLM may seed this process's global random states, and forbid to choose threads; behind, all is as it was."""
    import torch

    python, numpy, threads = random.getstate(), np.random.get_state(), torch.set_num_threads  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_num_threads = threads
