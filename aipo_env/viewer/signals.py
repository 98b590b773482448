"""What the viewer asks of the learner and of a tokenizer, as plain data: this package imports neither."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

LOGPROBS_KEY = "agent_logprobs"
"""Where a learner may record, in a trajectory's metadata, log pi of its AGENT tokens before the first update: one number for
each AGENT token, in order."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """A trajectory as the advantages see it."""

    reward: float
    outcome: float
    """The reward without what help cost."""
    group: int
    assisted: bool
    policy_tokens: int
    faulted: bool = False
    """Whether a fault of a service or the grader cut it; nothing is learnt from it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Coefficients:
    """The coefficients of a run of AGENT tokens at the first update, as far as they are known."""

    low: tuple[float, ...]
    """The least that the coefficient can be; where log pi was recorded, the coefficient."""
    high: tuple[float, ...]
    """The most that it can be."""
    states: str
    """A letter for each token: "f" raised to the floor, "c" lowered to the cap, "-" neither, "?" depends on the unknown pi."""


@runtime_checkable
class Learner(Protocol):
    """How a training run weighed its tokens."""

    @property
    def facts(self) -> Mapping[str, object]:
        """The settings that decide it, for the page; JSON values."""
        ...

    def advantages(self, samples: Sequence[Sample]) -> Sequence[tuple[float, float]] | None:
        """The advantages of the POLICY and of the AGENT tokens of each trajectory of a step; None if it is not whole."""
        ...

    def coefficients(
        self, mu_logprobs: Sequence[float], logprobs: Sequence[float] | None, advantage: float
    ) -> Coefficients | None:
        """The coefficients of AGENT tokens at the first update; None if nothing can be said.

        Args:
            mu_logprobs: log mu; 0.0 where it is unknown.
            logprobs: log pi where it was recorded.
            advantage: of these tokens.
        """
        ...


@dataclasses.dataclass(frozen=True)
class TokenReader:
    """The tokenizer of a run, as far as its tokens are shown."""

    decode: Callable[[Sequence[int]], str]
    """Ids to text, without control tokens (`TokenCodec.decode`)."""
    name: Callable[[int], str]
    """What a token without text is called."""


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What is known of a run beside its traces."""

    reader: TokenReader | None = None
    learner: Learner | None = None
    notes: tuple[str, ...] = ()
    """Why something of it is missing, in sentences."""
