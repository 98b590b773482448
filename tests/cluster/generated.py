"""Random token-exact trajectories, for property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from aipo_env.trajectory import Segment, Source, Trajectory

logprob = st.floats(-60.0, 0.0, width=32) | st.sampled_from([0.0, -1e-9, -1e-4, -1e4])
"""float32 log-probabilities, common and extreme ones."""


@st.composite
def segments(draw: st.DrawFn, source: Source, max_tokens: int = 6) -> Segment:
    ids = draw(st.lists(st.integers(1, 99), min_size=0 if source is Source.TEMPLATE else 1, max_size=max_tokens))
    logprobs: list[float] = []
    if source is Source.POLICY or (source is Source.AGENT and draw(st.booleans())):
        logprobs = draw(st.lists(logprob, min_size=len(ids), max_size=len(ids)))
    return Segment(source, "", tuple(ids), tuple(logprobs))


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    """A prompt, then turns of the policy with what may stand between them; an episode can be cut after a reply."""
    made = [draw(segments(Source.PROMPT))]
    for _ in range(draw(st.integers(1, 3))):
        made.append(draw(segments(Source.POLICY)))
        if draw(st.booleans()):
            made.append(draw(segments(Source.TEMPLATE)))
        if draw(st.booleans()):
            made.append(draw(segments(Source.AGENT)))
    return Trajectory("test-v0", "0", made, reward=draw(st.floats(0, 1, width=16)))


def expected_log_mu(trajectory: Trajectory) -> np.ndarray:
    """log mu as the channel can carry it: float32(1 - float32(1 - log mu)) at AGENT tokens, else 0."""
    log_mu = [x if s is Source.AGENT else 0.0 for s, x in zip(trajectory.sources, trajectory.logprobs, strict=True)]
    return np.float32(1) - np.float32(1 - np.asarray(log_mu, dtype=np.float64))
