"""What a language model behind a helper or a policy must do: continue a chat, continue token ids.

A backend raises `aipo_env.errors.ServiceError` when its model cannot be reached or answers what is no answer; every
other exception is a bug. It may be used from several event loops over its life: what is bound to a loop is kept per loop.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from aipo_env.errors import ConfigurationError
from aipo_env.protocol import FinishReason, Usage

ChatRole = Literal["system", "user", "assistant"]

MAX_SEED = 2**63 - 1
"""The largest seed that engines take: a signed 64-bit integer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat."""

    role: ChatRole
    content: str


@dataclasses.dataclass(frozen=True, slots=True)
class ChatSampling:
    """How a reply is sampled from a chat."""

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """The smallest set of most likely tokens with at least this probability is sampled from; 1 for all."""
    max_tokens: int = 256
    seed: int | None = None
    """Two calls with the same messages, sampling and seed should give the same reply; None leaves it to the engine."""
    stop: tuple[str, ...] = ()
    """Strings behind which generation ends; they are not part of the text."""
    logprobs: bool = False
    """Whether token ids and log-probabilities are asked for."""
    reasoning_effort: str | None = None
    """How much a model thinks that can be told so ("low", "none"); None leaves it to the model."""
    chat_template_kwargs: Mapping[str, str | int | float | bool] = dataclasses.field(default_factory=dict, hash=False)
    """What else the chat template is told: `{"enable_thinking": False}` for Qwen3, GLM, SmolLM3; `{"thinking": True}` for
    DeepSeek-V3.1."""

    def __post_init__(self) -> None:
        _check_sampling(self.temperature, self.top_p, self.max_tokens, self.seed, self.stop)


@dataclasses.dataclass(frozen=True, slots=True)
class CompletionSampling:
    """How token ids are continued."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """The smallest set of most likely tokens with at least this probability is sampled from; 1 for all."""
    max_tokens: int = 1024
    seed: int | None = None
    """Two calls with the same ids, sampling and seed should give the same ids; None leaves it to the engine."""
    stop: tuple[str, ...] = ()
    """Strings behind which generation ends; they belong to the text and their tokens to the ids."""
    stop_ids: tuple[int, ...] = ()
    """Ids behind which generation ends, and which belong to it, beside those that the engine knows of."""
    logprobs: bool = True
    """Whether log-probabilities are asked for; the ids always come."""

    def __post_init__(self) -> None:
        _check_sampling(self.temperature, self.top_p, self.max_tokens, self.seed, self.stop)


@dataclasses.dataclass(frozen=True, slots=True)
class Generation:
    """What a model wrote."""

    text: str
    """As the engine spells it: of a chat without control tokens, of a completion perhaps with them. There the ids count."""
    token_ids: tuple[int, ...] | None = None
    """The ids exactly as sampled, the end token included where it was sampled; None where the engine does not tell."""
    logprobs: tuple[float, ...] | None = None
    """Natural log-probability of each of `token_ids` under the distribution really sampled from; None without promise."""
    finish_reason: FinishReason = "stop"
    """ "stop": an end token or a stop string. "length": the limit of tokens."""
    usage: Usage | None = None
    reasoning: str = ""
    """What the engine tells apart from the text as thoughts. `token_ids` hold those too."""
    opened: str = ""
    """The style of the thought that the prompt opened, where the engine knows it (see `aipo_env.dialects.thinking`)."""

    def __post_init__(self) -> None:
        if self.logprobs is not None and (self.token_ids is None or len(self.logprobs) != len(self.token_ids)):
            have = "no ids" if self.token_ids is None else f"{len(self.token_ids)} ids"
            raise ConfigurationError(
                f"Generation.logprobs needs one value per token id: {len(self.logprobs)} came with {have}. "
                "Return logprobs=None where the engine does not give one for each id."
            )


@runtime_checkable
class ChatBackend(Protocol):
    """A model that continues a chat."""

    model: str
    """Names the weights: replies of two backends with the same `model` may stand for each other in a cache."""

    async def chat(self, messages: Sequence[Message], sampling: ChatSampling) -> Generation:
        """The assistant's next message. May be called concurrently.

        Raises:
            ServiceError: when the model cannot be reached, is overloaded, or answers what is no answer.
        """
        ...

    async def aclose(self) -> None:
        """Frees what the backend holds; calling it again does nothing."""
        ...


@runtime_checkable
class CompletionBackend(Protocol):
    """A model that continues token ids, for policies: no text is ever tokenised on the way."""

    model: str
    """Names the weights."""

    async def complete(self, token_ids: Sequence[int], sampling: CompletionSampling) -> Generation:
        """What the model samples behind `token_ids`; `Generation.token_ids` is never None. May be called concurrently.

        Raises:
            ServiceError: when the model cannot be reached, is overloaded, or answers what is no answer.
        """
        ...

    async def aclose(self) -> None:
        """Frees what the backend holds; calling it again does nothing."""
        ...


def _check_sampling(temperature: float, top_p: float, max_tokens: int, seed: int | None, stop: object) -> None:
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigurationError(f"temperature is a number >= 0 (0 is greedy), got {temperature!r}.")
    if not 0 < top_p <= 1:
        raise ConfigurationError(f"top_p is a probability in (0, 1], got {top_p!r}; 1.0 switches it off.")
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
        raise ConfigurationError(f"max_tokens is a whole number >= 1, got {max_tokens!r}.")
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise ConfigurationError(f"seed is a whole number in [0, 2**63), got {seed!r}; reduce it modulo 2**63.")
    if not isinstance(stop, tuple) or not all(isinstance(text, str) and text for text in stop):
        raise ConfigurationError(f"stop is a tuple of non-empty texts, got {stop!r}.")
