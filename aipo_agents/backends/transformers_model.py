"""A model of `transformers` in this process, for helpers and policies, with continuous batching.

Requests that come while others run join their batch at the next token; each leaves it when it is done. A request with a
seed gets the same tokens whatever stands beside it, up to the rounding of the matrix products. What a request left behind
is kept for a while: one that goes on from its ids, as the next turn of an episode does, computes only what is new.

Between two tokens the event loops of those whose requests have ended turn a few times before the batch goes on: what asks
again without waiting for anything joins it at once. Then who stands beside whom does not depend on time, and a rollout with
such helpers is reproducible to the bit.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from aipo_agents.backends.base import ChatSampling, CompletionSampling, Generation, Message
from aipo_agents.backends.tokenizing import Tokenizing, stop_ids, stop_position
from aipo_env.errors import ConfigurationError, MissingDependencyError, ServiceError
from aipo_env.installation import install_command
from aipo_env.protocol import FinishReason

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from aipo_agents.backends.row_batch import RowBatch

_LOOP_TURNS = 30
"""Turns of an event loop that are granted: what an asker needs that waits for nothing, however slow the machine is."""
_STANDSTILL = 2.0
"""Seconds for which a loop may not turn at all before it is left behind: something in it may wait for this very model."""
_IDLE = 1.0
"""Seconds after which the thread ends when nothing is asked."""


@dataclasses.dataclass(eq=False, slots=True)
class _Request:
    """One generation: what is asked, and what was drawn so far."""

    prompt: list[int]
    sampling: ChatSampling | CompletionSampling
    max_tokens: int
    generator: torch.Generator
    future: asyncio.Future[FinishReason]
    ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)


class TransformersModel:
    """A chat and completion backend on a causal language model in this process.

    Nothing is sent anywhere. The forward passes run on one thread of their own, started by the first request.

    Args:
        model: a model of `transformers` (used as it is, switched to evaluation mode), or a directory or hub id, which is
            loaded in fp32.
        tokenizer: the model's tokenizer; None loads that of the directory or hub id.
        eos_ids: ids that end a generation, besides those of the model's generation settings and of the tokenizer.
        name: names the weights; None takes the directory or hub id.
        max_batch: rows that are decoded together; further requests wait. As many that have left are kept to be gone on from.
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
        eos_ids: Iterable[int] = (),
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
        self._eos_ids = stop_ids(loaded.generation_config) | ({tokenizer.eos_token_id} - {None}) | set(eos_ids)
        self._ending = functools.cache(self._ids_with)
        self._vocabulary = loaded.get_input_embeddings().num_embeddings
        self.context_length = int(
            getattr(loaded.config.get_text_config(decoder=True), "max_position_embeddings", 2**31)
        )
        """Tokens that the model takes, prompt and generation together."""
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._arriving: list[_Request] = []
        """Neither waiting any more nor running yet: the thread computes their prompts."""
        self._batch: RowBatch | None = None
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def chat(self, messages: Sequence[Message], sampling: ChatSampling) -> Generation:
        """The assistant's next message; a stop string is cut from the text, its tokens stay in the ids.

        Raises:
            ServiceError: when the chat leaves no room in the model's context, or the backend was closed.
            ConfigurationError: when the tokenizer has no chat template.
        """
        return await self._generate(self._tokenizing.chat_ids(messages, sampling), sampling)

    async def complete(self, token_ids: Sequence[int], sampling: CompletionSampling) -> Generation:
        """What the model samples behind `token_ids`; a stop string ends the text and belongs to it.

        Raises:
            ServiceError: when the ids leave no room in the model's context, or the backend was closed.
        """
        return await self._generate(list(token_ids), sampling)

    def forget(self) -> None:
        """Frees what ended requests have left behind, if none runs; to be called when none will be gone on with."""
        with self._wake:
            if not (self._running or self._waiting or self._arriving):
                self._batch = None

    async def aclose(self) -> None:
        """Ends the thread; requests that still run fail with ServiceError. Calling it again does nothing."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
            thread = self._thread
        if thread is not None:
            await asyncio.to_thread(thread.join)

    async def _generate(self, prompt: list[int], sampling: ChatSampling | CompletionSampling) -> Generation:
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
        room = self.context_length - len(prompt)
        if room < 1:
            raise ServiceError(
                f"{self.model} has a context of {self.context_length} tokens and the prompt has {len(prompt)}. Shorten the "
                "transcript (max_chars, max_turns) or use a model with a longer context.",
                transient=False,
            )
        generator = torch.Generator()
        generator.seed() if sampling.seed is None else generator.manual_seed(sampling.seed)
        future: asyncio.Future[FinishReason] = asyncio.get_running_loop().create_future()
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
        finish_reason = await future
        return self._tokenizing.generation(prompt, tuple(request.ids), tuple(request.logprobs), sampling, finish_reason)

    def _closed_error(self) -> ServiceError:
        return ServiceError(f"the backend of {self.model} was closed; make a new one.", transient=False)

    def _run(self) -> None:
        import torch

        from aipo_agents.backends.row_batch import RowBatch

        while (arrived := self._take()) is not None:
            try:
                if self._batch is None:
                    self._batch = RowBatch(self._network, keep=self.max_batch)
                with torch.no_grad():
                    ended = self._advance(self._batch, self._running, arrived)
                self._arriving = []
                _hand_out(ended)
            # Whatever went wrong in the model is the callers' to see; the thread goes on with the next batch.
            except Exception as error:
                _hand_out([(request, error) for request in {*self._running, *arrived}])
                self._batch, self._running, self._arriving = None, [], []

    def _take(self) -> list[_Request] | None:
        """The requests that join now; waits for one when nothing runs. None when the backend was closed, or nobody asks."""
        with self._wake:
            if not self._running:
                self._wake.wait_for(lambda: self._waiting or self._closed, _IDLE)
            first = [] if self._running else [request.future.get_loop() for request in self._waiting][:1]
        _let_turn(first)
        with self._wake:
            deadline = time.monotonic() + self.max_wait_ms / 1000
            while not self._running and 0 < len(self._waiting) < self.max_batch and not self._closed:
                if (left := deadline - time.monotonic()) <= 0:
                    break
                self._wake.wait(left)
            if self._closed or not (self._running or self._waiting):
                self._thread = None
                unfinished = [*self._running, *self._waiting]
                self._running, self._waiting = [], deque()
                _hand_out([(request, self._closed_error()) for request in unfinished], wait=False)
                return None
            free = self.max_batch - len(self._running)
            self._arriving = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
            return self._arriving

    def _advance(
        self, batch: RowBatch, running: list[_Request], arrived: list[_Request]
    ) -> list[tuple[_Request, FinishReason]]:
        """Computes and draws the next token of every row, those of requests that join included; returns what has ended."""
        import torch

        from aipo_agents.backends.drawing import draw

        if gone := [row for row, request in enumerate(running) if request.future.cancelled()]:
            running[:] = [running[row] for row in batch.leave(gone)]
        logits = [batch.step([request.ids[-1] for request in running])] if running else []
        if arrived := [request for request in arrived if not request.future.cancelled()]:
            logits.append(batch.join([request.prompt for request in arrived]))
            running += arrived
        if not running:
            return []
        ids, logprobs = draw(
            torch.cat(logits) if len(logits) > 1 else logits[0],
            [request.sampling.temperature for request in running],
            [request.sampling.top_p for request in running],
            [request.generator for request in running],
        )
        ended: dict[int, FinishReason] = {}
        for row, request in enumerate(running):
            request.ids.append(ids[row])
            request.logprobs.append(logprobs[row])
            if (finish_reason := self._finish_reason(request)) is not None:
                ended[row] = finish_reason
        if not ended:
            return []
        # Where a stop string was asked for, something may be said behind it; behind an end token that is rarer.
        keep = {
            row: ((*running[row].prompt, *running[row].ids[:-1]), running[row].ids[-1] not in self._eos_ids)
            for row, finish_reason in ended.items()
            if finish_reason == "stop" and running[row].sampling.stop
        }
        outcomes = [(running[row], finish_reason) for row, finish_reason in ended.items()]
        running[:] = [running[row] for row in batch.leave(ended, keep)]
        return outcomes

    def _finish_reason(self, request: _Request) -> FinishReason | None:
        last, stop = request.ids[-1], request.sampling.stop
        if last in self._eos_ids or last in getattr(request.sampling, "stop_ids", ()):
            return "stop"
        if any(last in self._ending(string[-1]) for string in stop):
            # A character takes at most four tokens, and the whole text matters only where its end may hold a stop string.
            tail = self._tokenizing.decode(request.ids[-4 * max(map(len, stop)) - 8 :])
            if stop_position(tail, stop) and stop_position(self._tokenizing.decode(request.ids), stop):
                return "stop"
        return "length" if len(request.ids) >= request.max_tokens else None

    def _ids_with(self, character: str) -> frozenset[int] | range:
        """The ids behind which a text that ends with this character may be complete."""
        # A character beyond ASCII may take several tokens, none of which shows it.
        if not character.isascii():
            return range(self._vocabulary)
        return frozenset(i for i in range(self._vocabulary) if character in self._tokenizing.decode([i]))


def _hand_out(outcomes: Iterable[tuple[_Request, FinishReason | Exception]], *, wait: bool = True) -> None:
    """Hands requests their ends, unless their callers have gone, and lets those go on if it is to wait."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Request, FinishReason | Exception]]] = defaultdict(list)
    for request, outcome in outcomes:
        by_loop[request.future.get_loop()].append((request, outcome))

    def resolve(mine: list[tuple[_Request, FinishReason | Exception]]) -> None:
        for request, outcome in mine:
            if request.future.done():
                continue
            if isinstance(outcome, Exception):
                request.future.set_exception(outcome)
            else:
                request.future.set_result(outcome)

    for loop, mine in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(resolve, mine)
    if wait:
        _let_turn(by_loop)


def _let_turn(loops: Iterable[asyncio.AbstractEventLoop]) -> None:
    """Lets event loops turn a few times: what they have to do runs, and what that leads to, but for what takes time."""
    for loop in loops:
        left, done = [_LOOP_TURNS], threading.Event()

        def turn(loop: asyncio.AbstractEventLoop = loop, left: list[int] = left, done: threading.Event = done) -> None:
            left[0] -= 1
            if left[0]:
                loop.call_soon(turn)
            else:
                done.set()

        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(turn)
            before, since = left[0], time.monotonic()
            # One that does not run, as between two calls of `asyncio.run`, has nothing that could ask.
            while not done.wait(0.01) and loop.is_running():
                if left[0] != before:
                    before, since = left[0], time.monotonic()
                elif time.monotonic() - since > _STANDSTILL:
                    break
