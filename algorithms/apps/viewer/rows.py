"""A trajectory as a row of the viewer's list, and as the body that is shown when it is opened."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aipo_env.advantages import ScoredRollout
from aipo_env.trace_files import FAULTS
from aipo_env.trajectory import Segment, Source, Trajectory
from algorithms.apps.viewer.pieces import TextCutter
from algorithms.apps.viewer.run_files import RunInfo
from algorithms.token_facts import LOGPROBS_KEY

if TYPE_CHECKING:
    from algorithms.token_weights import TokenWeights

Advantages = tuple[float, float]
"""Of the POLICY tokens and of the AGENT tokens."""

_LOGPROB_UNIT = 10_000
"""Log-probabilities go to the page as whole numbers of 1e-4 nats."""
_LONGEST_ERROR = 300


@dataclasses.dataclass(slots=True)
class Row:
    """What the list shows of a trajectory, and what it is filtered by."""

    offset: int
    """Where its line begins in the file."""
    env: str
    task: str
    step: int | None
    """The optimizer step of a training run."""
    group: int
    sample: int
    reward: float
    outcome: float
    verdict: str
    stop: str
    assisted: bool
    consults: int
    agents: tuple[str, ...]
    """The helpers that answered or were to answer, in the order of their first word."""
    level: str
    tokens: tuple[int, int, int, int]
    """By source."""
    error: str
    withheld: bool
    seed: int | None
    advantages: Advantages | None = None

    @classmethod
    def of(cls, trajectory: Trajectory, offset: int) -> Row:
        """The row of a trajectory (of its redacted form, if it is confidential)."""
        step, level, error = (trajectory.metadata.get(name) for name in ("step", "level", "error"))
        return cls(
            offset,
            trajectory.env_id,
            trajectory.task_id,
            step if isinstance(step, int) else None,
            trajectory.group,
            trajectory.sample,
            trajectory.reward,
            trajectory.outcome,
            trajectory.verdict,
            trajectory.stop_reason,
            trajectory.assisted,
            trajectory.num_consults,
            tuple(dict.fromkeys(s.agent for s in trajectory.segments if s.agent)),
            "" if level is None else str(level)[:80],
            tuple(trajectory.count(source) for source in Source),  # type: ignore[arg-type]
            "" if error is None else str(error)[:_LONGEST_ERROR],
            trajectory.withheld,
            trajectory.seed,
        )

    @property
    def sample_facts(self) -> ScoredRollout:
        """The row as the advantages see it."""
        faulted = self.stop in FAULTS
        return ScoredRollout(
            self.reward, self.outcome, self.group, not self.assisted, self.tokens[Source.POLICY], faulted
        )


def texts_of(trajectory: Trajectory, prompts: dict[str, int]) -> list[list[object]]:
    """The segments as [source, text, agent]; the text of a PROMPT is its number in `prompts`, which grows.

    Where a text is withheld the entry is [source, null, agent, characters].
    """
    rows: list[list[object]] = []
    for segment in trajectory.segments:
        source = int(segment.source)
        if segment.withheld is not None:
            rows.append([source, None, segment.agent, segment.num_chars])
        elif segment.source is Source.PROMPT:
            rows.append([source, prompts.setdefault(segment.text, len(prompts)), segment.agent])
        else:
            rows.append([source, segment.text, segment.agent])
    return rows


def tokens_of(
    trajectory: Trajectory, info: RunInfo, advantages: Advantages | None, cutter: TextCutter | None
) -> dict[str, object]:
    """What is told of the tokens: numbers of each segment, and the facts of the trajectory as a whole.

    Args:
        trajectory: redacted, if it is confidential.
        info: of its run.
        advantages: of its tokens, where known.
        cutter: of the run's tokenizer, where there is one.
    """
    recorded = _recorded_logprobs(trajectory)
    segments, position = [], 0
    for segment in trajectory.segments:
        logprobs = None
        if segment.source is Source.AGENT and recorded is not None:
            logprobs = recorded[position : position + segment.num_tokens]
            position += segment.num_tokens
        segments.append(_segment_tokens(segment, info, advantages, cutter, logprobs))
    metadata = {name: value for name, value in trajectory.metadata.items() if name != LOGPROBS_KEY}
    return {
        "metadata": finite(metadata),
        "parts": finite(trajectory.reward_parts),
        "task_index": trajectory.task_index,
        "segments": segments,
    }


def _segment_tokens(
    segment: Segment,
    info: RunInfo,
    advantages: Advantages | None,
    cutter: TextCutter | None,
    logprobs: Sequence[float] | None,
) -> dict[str, object]:
    row: dict[str, object] = {"n": segment.num_tokens}
    # Nothing is told of the single tokens of a prompt: they are many, and none of them bears loss.
    if segment.source is Source.PROMPT or not segment.token_ids:
        return row
    row["ids"] = list(segment.token_ids)
    if cutter is not None and (lengths := cutter.lengths(segment.text, segment.token_ids)) is not None:
        row["lengths"] = lengths
        assert info.reader is not None
        row["names"] = {i: info.reader.name(i) for i, n in zip(segment.token_ids, lengths, strict=True) if n == 0}
    if segment.logprobs and (segment.source is Source.POLICY or segment.mu_known):
        row["logprobs"] = _whole(segment.logprobs)
    if segment.source is Source.AGENT:
        row["mu_known"] = segment.mu_known
        if segment.credit != 1:
            row["credit"] = segment.credit
        if logprobs is not None:
            row["pi"] = _whole(logprobs)
        if info.learner is not None and advantages is not None:
            row |= _coefficients(info.learner, segment, logprobs, advantages[1] * segment.credit)
    return row


def _coefficients(
    learner: TokenWeights, segment: Segment, logprobs: Sequence[float] | None, advantage: float
) -> dict[str, object]:
    mu = segment.logprobs or (0.0,) * len(segment.token_ids)
    found = learner.coefficients(mu, logprobs, advantage)
    if found is None:
        return {}
    return {"low": _compact(found.low), "high": _compact(found.high), "states": found.states}


def _recorded_logprobs(trajectory: Trajectory) -> list[float] | None:
    """What the learner recorded of log pi, if it fits the AGENT tokens."""
    values = trajectory.metadata.get(LOGPROBS_KEY)
    if not isinstance(values, list) or len(values) != trajectory.count(Source.AGENT) or trajectory.withheld:
        return None
    return [float(value) for value in values]


def _whole(logprobs: Sequence[float]) -> list[int | None]:
    return [round(x * _LOGPROB_UNIT) if math.isfinite(x) else None for x in logprobs]


def _compact(values: Sequence[float]) -> object:
    """One number where all are the same."""
    rounded = [round(value, 6) if math.isfinite(value) else None for value in values]
    return rounded[0] if len(set(rounded)) == 1 else rounded


def finite(value: object) -> object:
    """The value with what JSON has no number for (NaN, infinity) as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
