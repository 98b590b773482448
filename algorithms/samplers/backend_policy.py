"""A policy whose turns a backend samples: a vLLM server or engine, or `transformers`. Token ids in, token ids out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from aipo_agents.backends.base import CompletionBackend, CompletionSampling, Generation
from aipo_env.dialects.base import TokenCodec
from aipo_env.errors import ConfigurationError, ServiceError
from aipo_env.protocol import FinishReason, TokenAction, TurnRequest


class BackendPolicy:
    """A `TurnPolicy` that continues the episode's exact ids.

    Nothing is tokenised on the way: what the sampler saw is what the episode recorded, and what it sampled is what is
    learnt from. Log-probabilities are those that the backend can promise, or none.

    Args:
        backend: the model. Who made it closes it.
        codec: the policy's tokenizer, the same that the environment was made with.
        sampling: temperature, top_p and the most tokens of a turn; seed and stop strings come with each request.
        context_length: tokens that the model takes, prompt and turn together (vLLM's --max-model-len); a turn is limited
            to what is left, where the server would refuse the request. None leaves that to the backend.
        name: of the policy.

    Raises:
        ConfigurationError: for a sampling with a seed or stop strings, or a context_length below 1.
    """

    def __init__(
        self,
        backend: CompletionBackend,
        codec: TokenCodec,
        sampling: CompletionSampling | None = None,
        *,
        context_length: int | None = None,
        name: str = "policy",
    ) -> None:
        sampling = CompletionSampling() if sampling is None else sampling
        if sampling.seed is not None or sampling.stop:
            raise ConfigurationError(
                f"BackendPolicy takes seed and stop from each request, got seed={sampling.seed!r} and stop={sampling.stop!r}. "
                "Leave both out of the sampling; the seed of a run goes to the rollout."
            )
        if context_length is not None and context_length < 1:
            raise ConfigurationError(
                f"context_length is a whole number of tokens >= 1, or None; got {context_length!r}."
            )
        self.backend, self.codec, self.sampling, self.name = backend, codec, sampling, name
        self.context_length = context_length

    async def act(self, request: TurnRequest) -> TokenAction:
        """Samples the next turn.

        Raises:
            ConfigurationError: when the environment has no tokenizer.
            ServiceError: when the backend fails, or returns what cannot be a continuation.
        """
        if not request.token_ids:
            raise ConfigurationError(
                "BackendPolicy continues token ids and the request has none: the environment was made without a tokenizer. "
                "Pass codec= to aipo_env.make, the same that the policy has."
            )
        limit = self.sampling.max_tokens
        if request.max_tokens is not None:
            limit = min(limit, request.max_tokens)
        if self.context_length is not None:
            limit = min(limit, self.context_length - len(request.token_ids))
        if limit < 1:
            return TokenAction((), () if self.sampling.logprobs else None, "length")
        sampling = dataclasses.replace(
            self.sampling, max_tokens=limit, seed=request.seed, stop=request.stop, stop_ids=request.stop_ids
        )
        generation = await self.backend.complete(request.token_ids, sampling)
        ids = generation.token_ids
        if ids is None:
            raise ServiceError(
                f"{self.backend.model} returned a turn without token ids; a policy's turn is never tokenised from text. Use "
                "a backend whose complete() returns them.",
                transient=False,
            )
        if len(ids) > limit:
            raise ServiceError(
                f"{self.backend.model} returned {len(ids)} token ids where at most {limit} were asked for; the server does "
                "not honour max_tokens.",
                transient=False,
            )
        return TokenAction(ids, generation.logprobs, self._finish_reason(generation, ids, request))

    def _finish_reason(self, generation: Generation, ids: Sequence[int], request: TurnRequest) -> FinishReason:
        """Ended is ended: a turn whose last allowed token is the end token, or closes a tag, was not cut."""
        if generation.finish_reason == "stop" or (ids and ids[-1] in (*request.stop_ids, *self.codec.eos_ids)):
            return "stop"
        text = self.codec.decode(ids) if request.stop else ""
        return "stop" if any(string in text for string in request.stop) else "length"

    async def aclose(self) -> None:
        """Does nothing: the backend belongs to who made it."""
