"""What a viewer of traces and the learner tell each other of tokens, as plain data, importable without torch."""

from __future__ import annotations

import dataclasses

LOGPROBS_KEY = "agent_logprobs"
"""Where the learner records, in a trajectory's metadata, log pi of its AGENT tokens before the first update: one number for
each AGENT token, in order."""


@dataclasses.dataclass(frozen=True, slots=True)
class Coefficients:
    """The coefficients of a run of AGENT tokens at the first update, as far as they are known."""

    low: tuple[float, ...]
    """The least that the coefficient can be; where log pi was recorded, the coefficient."""
    high: tuple[float, ...]
    """The most that it can be."""
    states: str
    """A letter for each token: "f" raised to the floor, "c" lowered to the cap, "-" neither, "?" depends on the unknown pi."""
