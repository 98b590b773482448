"""vLLM engines without a server, for helpers and policies: continuous batching and prefix caching."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import os
import threading
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, TypeVar

from aipo_agents.backends.base import ChatSampling, CompletionSampling, Generation, Message
from aipo_agents.backends.tokenizing import Tokenizing
from aipo_env.errors import ConfigurationError, MissingDependencyError, ServiceError
from aipo_env.installation import install_command
from aipo_env.protocol import FinishReason

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

T = TypeVar("T")


class VLLMEngine:
    """A chat and completion backend on vLLM's `AsyncLLM`.

    Making one loads the model, which takes from seconds to minutes. The engine lives on an event loop of its own, on its
    own thread, so it may be used from any loop. It reports `logprobs_mode="processed_logprobs"`: log-probabilities behind
    temperature and top-p, those of the distribution that was really sampled from.

    vLLM starts a process of its own; where it spawns rather than forks it (`VLLM_WORKER_MULTIPROC_METHOD`), a script needs
    `if __name__ == "__main__":`.

    Args:
        model: a directory or hub id.
        name: names the weights; None takes `model`.
        engine_args: what `vllm.AsyncEngineArgs` takes, for example `dtype="float32"`, `max_model_len=4096`.

    Raises:
        MissingDependencyError: when vLLM is not installed.
        ConfigurationError: for another `logprobs_mode`, or an argument that vLLM does not know.
    """

    def __init__(
        self, model: str, *, name: str | None = None, **engine_args: str | int | float | bool | dict[str, object] | None
    ) -> None:
        mode = engine_args.setdefault("logprobs_mode", "processed_logprobs")
        if mode != "processed_logprobs":
            raise ConfigurationError(
                f"VLLMEngine reports the distribution that was sampled from, logprobs_mode='processed_logprobs'; got {mode!r}. "
                "Leave logprobs_mode out."
            )
        # Standard output is for results.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
        except ImportError as error:
            raise MissingDependencyError(f"VLLMEngine needs vLLM: {install_command('vllm')}") from error
        engine_args.setdefault("enable_prefix_caching", True)
        # One line of statistics every few seconds is a server's matter.
        engine_args.setdefault("disable_log_stats", True)
        try:
            arguments = AsyncEngineArgs(model=model, **engine_args)
        except TypeError as error:
            raise ConfigurationError(
                f"{error}. The engine's arguments are the fields of vllm.AsyncEngineArgs."
            ) from error
        self.model = name or model
        self._numbers = itertools.count()
        self._closed = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aipo-vllm", daemon=True)
        self._thread.start()
        try:
            self._engine = asyncio.run_coroutine_threadsafe(self._start(arguments), self._loop).result()
        except BaseException:
            self._stop_loop()
            raise
        try:
            self._tokenizing = Tokenizing(self._engine.renderer.get_tokenizer())
        except BaseException:
            self._shut_down()
            raise

    async def chat(self, messages: Sequence[Message], sampling: ChatSampling) -> Generation:
        """The assistant's next message; a stop string is cut from the text, its tokens stay in the ids.

        Raises:
            ServiceError: when the engine is dead or closed, or the chat is longer than its context.
            ConfigurationError: when the tokenizer has no chat template.
        """
        return await self._generation(self._tokenizing.chat_ids(messages, sampling), sampling)

    async def complete(self, token_ids: Sequence[int], sampling: CompletionSampling) -> Generation:
        """What the model samples behind `token_ids`; a stop string ends the text and belongs to it.

        Raises:
            ServiceError: when the engine is dead or closed, or the ids are longer than its context.
        """
        return await self._generation(list(token_ids), sampling)

    @property
    def context_length(self) -> int:
        """Tokens that the engine takes, prompt and continuation together."""
        return int(self._engine.model_config.max_model_len)

    @property
    def unfinished_requests(self) -> int:
        """Requests that the engine is working on or that wait for it."""
        return 0 if self._closed.is_set() else int(self._engine.get_num_unfinished_requests())

    async def aclose(self) -> None:
        """Shuts the engine and its process down. Calling it again does nothing."""
        if not self._closed.is_set():
            self._closed.set()
            await asyncio.to_thread(self._shut_down)

    async def _start(self, arguments: AsyncEngineArgs) -> AsyncLLM:
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_engine_args(arguments)

    async def _on_loop(self, coroutine: Coroutine[object, object, T]) -> T:
        """Runs a coroutine on the engine's loop; cancelling the caller cancels it, and vLLM aborts the request."""
        closed = ServiceError(f"the engine of {self.model} was closed; make a new one.", transient=False)
        if self._closed.is_set():
            coroutine.close()
            raise closed
        try:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed.is_set() and not (task is not None and task.cancelling()):
                # Nobody cancelled the caller: the engine went away under it.
                raise closed from None
            raise

    async def _generate(self, prompt: list[int], sampling: ChatSampling | CompletionSampling) -> RequestOutput:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            stop=list(sampling.stop),
            stop_token_ids=list(sampling.stop_ids) if isinstance(sampling, CompletionSampling) else None,
            include_stop_str_in_output=True,
            # A tag of the markup may be a special token, and stops like any other text.
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            logprobs=0 if sampling.logprobs else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            output = await self._output(prompt, parameters, f"aipo-{next(self._numbers)}")
        except VLLMClientError as error:
            raise ServiceError(
                f"vLLM refused {len(prompt)} prompt tokens for {self.model}: {error}", transient=False
            ) from error
        if output is None or output.outputs[0].finish_reason not in ("stop", "length"):
            raise ServiceError(f"vLLM aborted a request for {self.model}; its log says why.")
        return output

    async def _output(self, prompt: list[int], parameters: SamplingParams, number: str) -> RequestOutput | None:
        """The last output of a request; cancelling it aborts the request."""
        from vllm import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        tokens = TokensPrompt(prompt_token_ids=prompt)
        try:
            outputs = [out async for out in self._engine.generate(tokens, parameters, number)]
        except (EngineDeadError, EngineGenerateError) as error:
            raise ServiceError(
                f"vLLM failed on a request of {len(prompt)} prompt tokens for {self.model} ({type(error).__name__}): {error}. "
                "Its log says why; a dead engine has to be made again.",
                transient=not self._engine.errored,
            ) from error
        return outputs[-1] if outputs else None

    async def _generation(self, prompt: list[int], sampling: ChatSampling | CompletionSampling) -> Generation:
        completion = (await self._on_loop(self._generate(prompt, sampling))).outputs[0]
        token_ids = tuple(int(i) for i in completion.token_ids)
        logprobs = None
        if sampling.logprobs and sampling.temperature == 0:
            # A greedy row's distribution has one token; vLLM reports the model's.
            logprobs = (0.0,) * len(token_ids)
        elif sampling.logprobs:
            assert completion.logprobs is not None
            rows = zip(completion.logprobs, token_ids, strict=True)
            logprobs = tuple(float(row[token].logprob) for row, token in rows)
        finish_reason: FinishReason = "stop" if completion.finish_reason == "stop" else "length"
        return self._tokenizing.generation(prompt, token_ids, logprobs, sampling, finish_reason)

    def _end(self) -> None:
        self._engine.shutdown()

    def _shut_down(self) -> None:
        async def shut_down() -> None:
            self._end()

        asyncio.run_coroutine_threadsafe(shut_down(), self._loop).result()
        self._stop_loop()

    def _stop_loop(self) -> None:
        async def cancel_all() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        # What still waits for the engine ends with the engine.
        with contextlib.suppress(concurrent.futures.TimeoutError):
            asyncio.run_coroutine_threadsafe(cancel_all(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        if not self._thread.is_alive():
            self._loop.close()
