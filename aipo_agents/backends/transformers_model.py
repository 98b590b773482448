"""A model of `transformers` in this process, for helpers and policies, with dynamic batching.

Requests that come while others run join their batch at the next token; each leaves it when it is done. A request with a
seed gets the same tokens whatever stands beside it, up to the rounding of the matrix products.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aipo_agents.backends.base import ChatSampling, CompletionSampling, Generation, Message
from aipo_agents.backends.tokenizing import Tokenizing, stop_ids, stop_position
from aipo_env.errors import ConfigurationError, MissingDependencyError, ServiceError
from aipo_env.installation import install_command
from aipo_env.protocol import FinishReason, Usage

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from aipo_agents.backends.running_batch import RunningBatch


@dataclasses.dataclass(eq=False, slots=True)
class _Request:
    """One generation: what is asked, and what was drawn so far."""

    prompt: list[int]
    sampling: ChatSampling | CompletionSampling
    max_tokens: int
    generator: torch.Generator
    future: concurrent.futures.Future[FinishReason]
    ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)


class TransformersModel:
    """A chat and completion backend on a causal language model in this process.

    Nothing is sent anywhere. The forward passes run on one thread of their own, started by the first request.

    Args:
        model: a model of `transformers` (used as it is, switched to evaluation mode), or a directory or hub id, which is
            loaded in fp32.
        tokenizer: the model's tokenizer; None loads that of the directory or hub id.
        name: names the weights; None takes the directory or hub id.
        max_batch: rows that are decoded together; further requests wait.
        max_wait_ms: how long a request that finds nothing running waits for others, in milliseconds.
        device: where a model that is loaded here goes.

    Raises:
        MissingDependencyError: when torch or transformers is not installed.
        ConfigurationError: for limits that cannot work, or a model without its tokenizer.
    """

    def __init__(
        self,
        model: PreTrainedModel | str,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        name: str | None = None,
        max_batch: int = 16,
        max_wait_ms: float = 5.0,
        device: str = "cpu",
    ) -> None:
        if max_batch < 1 or not 0 <= max_wait_ms < float("inf"):
            raise ConfigurationError(
                f"max_batch is a number of rows >= 1 and max_wait_ms a finite time >= 0; got {max_batch=}, {max_wait_ms=}."
            )
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise MissingDependencyError(
                f"TransformersModel needs torch and transformers: {install_command('train')}"
            ) from error
        if isinstance(model, str):
            source = model
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(source)
            loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).to(device)
        elif tokenizer is None:
            raise ConfigurationError(
                "TransformersModel got a model object without its tokenizer: pass tokenizer=, or the model's directory."
            )
        else:
            source, loaded = str(model.name_or_path), model
        self.model = name or source
        self.max_batch, self.max_wait_ms = max_batch, max_wait_ms
        self._network = loaded.eval()
        self._tokenizing = Tokenizing(tokenizer)
        self._eos_ids = stop_ids(loaded.generation_config) | ({tokenizer.eos_token_id} - {None})
        self._vocabulary = loaded.get_input_embeddings().num_embeddings
        self._context = int(getattr(loaded.config.get_text_config(decoder=True), "max_position_embeddings", 2**31))
        self._waiting: deque[_Request] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def chat(self, messages: Sequence[Message], sampling: ChatSampling) -> Generation:
        """The assistant's next message; a stop string is cut from the text, its tokens stay in the ids.

        Raises:
            ServiceError: when the chat leaves no room in the model's context, or the backend was closed.
            ConfigurationError: when the tokenizer has no chat template.
        """
        request, finish_reason = await self._generate(self._tokenizing.chat_ids(messages), sampling)
        text = self._tokenizing.decode(request.ids)
        if (found := stop_position(text, sampling.stop)) is not None:
            text = text[: found[0]]
        return _generation(request, text, finish_reason, ids=sampling.logprobs)

    async def complete(self, token_ids: Sequence[int], sampling: CompletionSampling) -> Generation:
        """What the model samples behind `token_ids`; a stop string ends the text and belongs to it.

        Raises:
            ServiceError: when the ids leave no room in the model's context, or the backend was closed.
        """
        request, finish_reason = await self._generate(list(token_ids), sampling)
        text = self._tokenizing.decode(request.ids)
        if (found := stop_position(text, sampling.stop)) is not None:
            text = text[: found[1]]
        return _generation(request, text, finish_reason, ids=True)

    async def aclose(self) -> None:
        """Ends the thread; requests that still run fail with ServiceError. Calling it again does nothing."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    async def _generate(
        self, prompt: list[int], sampling: ChatSampling | CompletionSampling
    ) -> tuple[_Request, FinishReason]:
        import torch

        if not prompt or min(prompt) < 0 or max(prompt) >= self._vocabulary:
            raise ConfigurationError(
                f"{self.model} continues one or more ids in [0, {self._vocabulary}); got {len(prompt)} ids"
                + (
                    f" from {min(prompt)} to {max(prompt)}. Was the text encoded by another tokenizer?"
                    if prompt
                    else "."
                )
            )
        room = self._context - len(prompt)
        if room < 1:
            raise ServiceError(
                f"{self.model} has a context of {self._context} tokens and the prompt has {len(prompt)}. Shorten the "
                "transcript (max_chars, max_turns) or use a model with a longer context.",
                transient=False,
            )
        generator = torch.Generator()
        generator.seed() if sampling.seed is None else generator.manual_seed(sampling.seed)
        future: concurrent.futures.Future[FinishReason] = concurrent.futures.Future()
        request = _Request(prompt, sampling, min(sampling.max_tokens, room), generator, future)
        with self._wake:
            if self._closed:
                raise self._closed_error()
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="aipo-transformers", daemon=True)
                self._thread.start()
            self._wake.notify_all()
        # Cancelling the caller cancels the future, and the thread drops the row at its next token.
        return request, await asyncio.wrap_future(future)

    def _closed_error(self) -> ServiceError:
        return ServiceError(f"the backend of {self.model} was closed; make a new one.", transient=False)

    def _run(self) -> None:
        import torch

        from aipo_agents.backends.running_batch import RunningBatch

        batch, running = RunningBatch(self._network), list[_Request]()
        logits: torch.Tensor | None = None
        while True:
            arrived = self._take(batch, running)
            if arrived is None:
                break
            try:
                with torch.no_grad():
                    logits = self._advance(batch, running, arrived, logits)
            # Whatever went wrong in the model is the callers' to see; the thread goes on with the next batch.
            except Exception as error:
                for request in {*running, *arrived}:
                    _resolve(request, error)
                batch, running, logits = RunningBatch(self._network), [], None
        for request in [*running, *self._waiting]:
            _resolve(request, self._closed_error())

    def _take(self, batch: RunningBatch, running: list[_Request]) -> list[_Request] | None:
        """The requests that join now; waits for one when nothing runs. None when the backend was closed."""
        with self._wake:
            if not running:
                self._wake.wait_for(lambda: self._waiting or self._closed)
                deadline = time.monotonic() + self.max_wait_ms / 1000
                while len(self._waiting) < self.max_batch and not self._closed:
                    if (left := deadline - time.monotonic()) <= 0:
                        break
                    self._wake.wait(left)
            if self._closed:
                return None
            free = self.max_batch - len(running) if batch.joinable or not running else 0
            return [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]

    def _advance(
        self, batch: RunningBatch, running: list[_Request], arrived: list[_Request], logits: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Lets requests join, draws one token for every row, drops the rows that are done; returns the next logits."""
        import torch

        from aipo_agents.backends.drawing import draw

        arrived = [request for request in arrived if not request.future.cancelled()]
        if arrived:
            joined = batch.join([request.prompt for request in arrived])
            logits = joined if logits is None else torch.cat([logits, joined])
            running += arrived
        if not running or logits is None:
            return None
        ids, logprobs = draw(
            logits,
            [request.sampling.temperature for request in running],
            [request.sampling.top_p for request in running],
            [request.generator for request in running],
        )
        alive = []
        for row, request in enumerate(running):
            request.ids.append(ids[row])
            request.logprobs.append(logprobs[row])
            finish_reason = self._finish_reason(request)
            if finish_reason is not None:
                _resolve(request, finish_reason)
            elif not request.future.cancelled():
                alive.append(row)
        if len(alive) < len(running):
            batch.keep(alive)
            running[:] = [running[row] for row in alive]
        return batch.step([request.ids[-1] for request in running]) if running else None

    def _finish_reason(self, request: _Request) -> FinishReason | None:
        if request.ids[-1] in self._eos_ids:
            return "stop"
        if stop := request.sampling.stop:
            # A character takes at most four tokens, and the whole text matters only where its end may hold a stop string.
            tail = self._tokenizing.decode(request.ids[-4 * max(map(len, stop)) - 8 :])
            if stop_position(tail, stop) and stop_position(self._tokenizing.decode(request.ids), stop):
                return "stop"
        return "length" if len(request.ids) >= request.max_tokens else None


def _generation(request: _Request, text: str, finish_reason: FinishReason, *, ids: bool) -> Generation:
    return Generation(
        text,
        tuple(request.ids) if ids else None,
        tuple(request.logprobs) if request.sampling.logprobs else None,
        finish_reason,
        Usage(len(request.prompt), len(request.ids), 0.0),
    )


def _resolve(request: _Request, outcome: FinishReason | Exception) -> None:
    """Hands a request its end, unless its caller has gone."""
    try:
        if isinstance(outcome, Exception):
            request.future.set_exception(outcome)
        else:
            request.future.set_result(outcome)
    except concurrent.futures.InvalidStateError:
        pass
