"""A finished episode as trainers take it: the one door from trajectories to every learner, ours and others'.

Which tokens bear which loss is said here and nowhere else: `sources`. What a rollout was compared with is said by
`aipo_env.advantages.sample_advantages`, which takes these samples.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from aipo_env.advantages import ScoredRollout
from aipo_env.errors import DataFormatError
from aipo_env.trace_files import FAULTS
from aipo_env.trajectory import Segment, Source, Trajectory

_TOLERANCE = 1e-3  # a sampler's log-probability may round to a little above 0


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TrainingSample(ScoredRollout):
    """Token ids with who wrote each, under which probability, and what the rollout earned.

    Dimensions: N tokens, the prompt's among them.
    """

    token_ids: NDArray[np.int64]
    """What the sampler saw, in order."""
    sources: NDArray[np.int64]
    """A `Source` per token. POLICY and AGENT bear loss; PROMPT and TEMPLATE never do."""
    logprobs: NDArray[np.float64]
    """The sampler's log-probability of each POLICY token, NaN where it told none; 0.0 at others."""
    mu_logprobs: NDArray[np.float64]
    """log mu of each AGENT token; 0.0 at others, and where mu is unknown."""
    mu_known: NDArray[np.bool_]
    """Whether `mu_logprobs` is what the helper sampled from, over this very tokenizer."""
    credit: NDArray[np.float64]
    """What an AGENT token's advantage is multiplied by; 1.0 at others."""
    prompt_length: int
    """Tokens of the prompt, which come first."""
    reward_parts: dict[str, float]
    """What the reward is the sum of."""

    @property
    def completion(self) -> slice:
        """Where the tokens behind the prompt are."""
        return slice(self.prompt_length, None)

    def count(self, source: Source) -> int:
        """How many tokens have this source."""
        return int((self.sources == source).sum())


def to_training_sample(trajectory: Trajectory, max_length: int | None = None) -> TrainingSample:
    """What a trainer needs of an episode.

    A helper's log-probability that is none (not finite, or above 0) counts as unknown: a helper's server must not be able to
    stop the training. Of an episode that a fault cut the prompt alone is kept, which bears no loss: its reward says nothing of
    what was written.

    Args:
        trajectory: a finished, token-exact episode.
        max_length: tokens that are kept, prompt included; None for all.

    Raises:
        DataFormatError: a POLICY token has a log-probability that is none; that is the sampler's mistake.
    """
    faulted = trajectory.stop_reason in FAULTS
    segments = trajectory.segments[:1] if faulted else trajectory.segments
    kept = slice(max_length)
    sources = np.array([s.source for s in segments for _ in s.token_ids][kept], np.int64)
    return TrainingSample(
        reward=float(trajectory.reward),
        outcome=float(trajectory.outcome),
        group=trajectory.group,
        solo=not trajectory.assisted,
        policy_tokens=int((sources == Source.POLICY).sum()),
        faulted=faulted,
        token_ids=np.array([i for s in segments for i in s.token_ids][kept], np.int64),
        sources=sources,
        logprobs=np.array([x for s in segments for x in _sampled(s)][kept], np.float64),
        mu_logprobs=np.array([x for s in segments for x in _log_mu(s)][kept], np.float64),
        mu_known=np.array([s.mu_known for s in segments for _ in s.token_ids][kept], bool),
        credit=np.array([s.credit for s in segments for _ in s.token_ids][kept], np.float64),
        prompt_length=len(trajectory.segments[0].token_ids[kept]),
        reward_parts=dict(trajectory.reward_parts),
    )


def _sampled(segment: Segment) -> list[float]:
    """The sampler's log-probabilities of a segment."""
    if segment.source is not Source.POLICY:
        return [0.0] * len(segment.token_ids)
    for logprob in segment.logprobs:
        if not -math.inf < logprob <= _TOLERANCE:
            raise DataFormatError(
                f"a sampled token has a finite log-probability of at most 0, got {logprob}. Is the sampler's 'logprobs' a "
                "probability, or another token's?"
            )
    return [min(float(x), 0.0) for x in segment.logprobs or (math.nan,) * len(segment.token_ids)]


def _log_mu(segment: Segment) -> list[float]:
    """Log mu of a segment."""
    told = segment.logprobs if segment.source is Source.AGENT else ()
    return [x if -math.inf < x < 0 else 0.0 for x in told or (0.0,) * len(segment.token_ids)]
