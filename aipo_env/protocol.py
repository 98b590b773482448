"""What crosses a boundary: actions, consult requests, replies, and the agent protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

from aipo_env.errors import InvalidActionError

FinishReason = Literal["stop", "length"]


@dataclasses.dataclass(frozen=True, slots=True)
class Consult:
    """The policy asks a helper."""

    agent: str
    """The helper's name, for example "verify"."""
    query: str
    prefix: str = ""
    """What the policy wrote in this turn before the tag."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The policy gives its final answer."""

    text: str
    prefix: str = ""
    """What the policy wrote in this turn before the answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Malformed:
    """A turn that is neither a consult nor an answer; the policy is told why and may go on."""

    reason: str
    text: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class TokenAction:
    """A turn as the sampler made it. The ids are the truth; text is decoded from them, never the other way round."""

    ids: Sequence[int]
    logprobs: Sequence[float] | None = None
    """The sampler's log-probability of each id, natural logarithm."""
    finish_reason: FinishReason = "stop"
    """ "stop": an end token, a stop string or a completed tag. "length": the sampler's token limit."""

    def __post_init__(self) -> None:
        if self.logprobs is not None and len(self.logprobs) != len(self.ids):
            raise InvalidActionError(
                f"TokenAction needs one log-probability per id: {len(self.ids)} ids came with {len(self.logprobs)} "
                "log-probabilities. Pass logprobs=None, or one value for each id."
            )
        _check_finish_reason(self.finish_reason)


@dataclasses.dataclass(frozen=True, slots=True)
class TextAction:
    """A turn as text from a sampler that tells how it ended but gives no ids, such as a chat server."""

    text: str
    finish_reason: FinishReason = "stop"
    """As for `TokenAction`."""

    def __post_init__(self) -> None:
        _check_finish_reason(self.finish_reason)


def _check_finish_reason(reason: str) -> None:
    if reason not in ("stop", "length"):
        raise InvalidActionError(f"finish_reason must be 'stop' or 'length', got {reason!r}.")


Action = str | Consult | Answer | TextAction | TokenAction | Sequence[Consult]
"""What a policy may hand to an environment. Text is canonical: the other forms lower to the same transcript."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConsultRequest:
    """What a helper is asked. There is no gold answer in this type."""

    query: str
    """What the policy wrote inside the tag."""
    transcript: str = ""
    """The episode so far as the policy saw it, prompt first, up to and including the consult tag."""
    task_id: str = ""
    seed: int = 0
    """Deterministic per (episode seed, consult number); a sampling helper draws from this and nothing else."""
    deadline: float | None = None
    """Seconds this helper has, counted from the call; None for no limit."""
    confidential: bool = False
    """Whether query and transcript may quote a task whose texts must not be written down, in a log or a cache on disk."""
    hints: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    """What the task's own data let this helper say, in order, without what it has said; given to a helper whose `uses_hints` is
    True, and to no other."""


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and cost that one reply took, failed attempts before it included."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    """US dollars; None where nobody says."""
    reasoning_tokens: int = 0
    """Of `completion_tokens` those that were thoughts, as far as anybody says."""

    def __add__(self, other: Usage) -> Usage:
        """Both together; the cost is known where both are."""
        costs = self.cost_usd, other.cost_usd
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            None if costs[0] is None or costs[1] is None else costs[0] + costs[1],
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """A helper's answer."""

    text: str
    token_ids: tuple[int, ...] | None = None
    """The reply in the policy's own tokenizer, when the helper shares it."""
    logprobs: tuple[float, ...] | None = None
    """log mu of each of `token_ids` under the distribution that the helper really sampled from."""
    given_thoughts: bool = dataclasses.field(default=False, kw_only=True)
    """Whether that distribution was conditional on thoughts, too, which the policy does not see."""
    reasoning: str | None = dataclasses.field(default=None, kw_only=True)
    """What the helper thought, where that was asked for; for traces alone, never part of a transcript or a cache."""
    tokenizer: str | None = None
    """Fingerprint of the tokenizer that made `token_ids`; they are used only where it is the policy's own."""
    usage: Usage | None = None
    cached: bool = False
    error: str | None = None
    """Why there is no reply (a time-out, a dead server). The policy sees a short notice, which carries no loss."""
    declined: bool = False
    """With `error`: it is the helper's own word, which it would give again. Any other error is a fault, and an evaluation
    plays the episode again."""
    gives_away: bool = False
    """Whether the environment, which knows the gold answer, found it stated here (`aipo_env.leaks`)."""

    def __post_init__(self) -> None:
        if self.logprobs is not None and (self.token_ids is None or len(self.logprobs) != len(self.token_ids)):
            have = "no ids" if self.token_ids is None else f"{len(self.token_ids)} ids"
            raise InvalidActionError(
                f"Reply.logprobs needs one value per token id: {len(self.logprobs)} came with {have}."
            )


@runtime_checkable
class Agent(Protocol):
    """A helper: anything with a name that can answer a request.

    A helper that cannot answer (late, unreachable) returns `Reply("", error=...)`, and one that refuses adds `declined=True`.
    An exception is a bug in the helper and propagates to the caller with its traceback.
    """

    name: str

    async def respond(self, request: ConsultRequest) -> Reply:
        """Answers one request. May be called concurrently; must not use global random state."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class TurnRequest:
    """What a policy is asked: its next turn. There is no gold answer in this type."""

    transcript: str
    """The episode so far, prompt first, as text."""
    token_ids: tuple[int, ...] = ()
    """The episode so far as the exact ids of the sampler's context; empty where the environment has no tokenizer."""
    stop: tuple[str, ...] = ()
    """Strings behind which the turn is over, and which belong to it; empty where nobody asks."""
    max_tokens: int | None = None
    """Tokens that are left for this turn; None for no limit."""
    seed: int = 0
    """Deterministic per (run seed, task, sample, turn); a sampling policy draws from this and nothing else."""
    turn: int = 0
    """Turns that the policy has taken."""
    task_id: str = ""
    assisted: bool = True
    """Whether helpers answer in this episode."""
    stop_ids: tuple[int, ...] = ()
    """Ids behind which the turn is over, and which belong to it; where there are `token_ids`, those that end a turn."""
    replying: str = ""
    """The helper in whose place the policy writes a reply, which ends with `stop`; empty for a turn of its own."""
    tell: Callable[[], list[dict[str, str]]] | None = dataclasses.field(default=None, repr=False, compare=False)
    """Makes `messages`."""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The episode so far as a chat: `role` and `content` of each message, as in the observation of that name."""
        return [{"role": "user", "content": self.transcript}] if self.tell is None else self.tell()


@runtime_checkable
class TurnPolicy(Protocol):
    """A policy that plays one turn at a time: anything with a name that can act.

    A policy that cannot act (late, unreachable) raises `ServiceError`, `TimeoutError` or `ConnectionError`; any other
    exception is a bug and propagates to the caller.
    """

    name: str

    async def act(self, request: TurnRequest) -> Action:
        """Takes one turn. May be called concurrently; must not use global random state."""
        ...
