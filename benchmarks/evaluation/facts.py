"""What an evaluation needs to know of an episode, written into its trace, so that results are a function of the traces."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from aipo_env import markup
from aipo_env.episode import EpisodeConfig
from aipo_env.errors import DataFormatError
from aipo_env.grading import Verdict, extract_choice
from aipo_env.protocol import Answer, Reply, Usage
from aipo_env.trace_files import FAULTS
from aipo_env.trajectory import Source, Trajectory
from benchmarks.evaluation.game import MeteredGame
from benchmarks.evaluation.suites import AnswerKind

KEY = "evaluation"
"""Where the facts stand in a trajectory's metadata."""
WITHHELD = "withheld"
"""In place of words that may quote a confidential task."""


@dataclasses.dataclass(frozen=True, slots=True)
class Consultation:
    """One consult and what it took."""

    agent: str
    error: str | None = None
    declined: bool = False
    """Whether the error is the helper's own word, and no fault."""
    gives_away: bool = False
    """Whether the reply stated the gold answer; with the rule `leak_filter` it was held back."""
    cached: bool = False
    metered: bool = False
    """Whether the reply said what it took."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    """US dollars; None where nobody says."""
    reasoning_tokens: int = 0

    @classmethod
    def of(cls, agent: str, reply: Reply) -> Consultation:
        """The consult that brought this reply; a cached one took nothing."""
        usage = Usage(0, 0, 0.0) if reply.cached else reply.usage or Usage()
        metered = reply.usage is not None
        said = reply.error, reply.declined, reply.gives_away, reply.cached
        return cls(agent, *said, metered, **dataclasses.asdict(usage))


@dataclasses.dataclass(frozen=True, slots=True)
class EpisodeFacts:
    """The facts of one episode."""

    answer: str | None
    """The answer as far as a majority counts it: a choice's letter, else the text; None where there is none to count."""
    tokens: Mapping[str, int]
    """Tokens by source: prompt, policy, agent, template; empty where no tokenizer counts them."""
    consults: tuple[Consultation, ...]
    seconds: float
    """Since the episode before was finished, so that the sum over all is the time that they took together."""

    @classmethod
    def read(cls, trajectory: Trajectory) -> EpisodeFacts:
        """The facts in a trace.

        Raises:
            DataFormatError: when the trace is not one of an evaluation.
        """
        row: Any = trajectory.metadata.get(KEY)
        try:
            consults = tuple(Consultation(**consult) for consult in row["consults"])
            return cls(row["answer"], row["tokens"], consults, row["seconds"])
        except (KeyError, TypeError) as error:
            raise DataFormatError(
                f"the trace of sample {trajectory.sample} of {trajectory.task_id} has no metadata[{KEY!r}] as an evaluation "
                f"writes it ({error!r}). Remove the file; the command makes it again."
            ) from error


class Finisher:
    """Writes the facts of an episode into its trajectory.

    Args:
        game: that is played.
        answers: of the suite.
        clock: in seconds.
    """

    def __init__(self, game: MeteredGame, answers: AnswerKind, clock: Callable[[], float] = time.monotonic) -> None:
        self._game, self._answers, self._clock = game, answers, clock
        self._last = clock()

    def __call__(self, trajectory: Trajectory) -> Trajectory:
        """The trajectory with its facts; an episode whose grader or helper failed ends as "error", to be played again.

        What a policy makes of "could not answer" says nothing of what it makes of help.
        """
        assert trajectory.seed is not None
        now = self._clock()
        replies = self._game.take_replies((trajectory.task_id, trajectory.seed))
        consults = [Consultation.of(agent, reply) for agent, reply in replies]
        if trajectory.confidential:
            # What is said of an error may quote the task. A writer of traces withholds the texts, not the metadata.
            consults = [dataclasses.replace(c, error=c.error and WITHHELD) for c in consults]
        facts = EpisodeFacts(
            answer_of(trajectory, self._game.config, self._answers),
            {source.name.lower(): trajectory.count(source) for source in Source} if self._game.codec else {},
            tuple(consults),
            now - self._last,
        )
        self._last = now
        trajectory.metadata[KEY] = dataclasses.asdict(facts)
        failed = [c for c in consults if c.error is not None and not c.declined]
        if trajectory.verdict == Verdict.HARNESS_ERROR:
            trajectory.stop_reason = "error"
            trajectory.metadata["error"] = self._game.grading.failures.get(trajectory.task_id, "GradingError")
        elif failed and trajectory.stop_reason not in FAULTS:
            trajectory.stop_reason = "error"
            trajectory.metadata["error"] = f"ConsultFailed: {failed[0].agent} could not answer: {failed[0].error}"
        return trajectory


def answer_of(trajectory: Trajectory, rules: EpisodeConfig, answers: AnswerKind) -> str | None:
    """The answer of an episode as a majority counts it.

    None where it gave none, for programs, and for the text of a confidential one.
    """
    if trajectory.stop_reason != "answer" or answers == "program" or (trajectory.confidential and answers != "choice"):
        return None
    last = next(s for s in reversed(trajectory.segments) if s.source is Source.POLICY)
    action = markup.parse(last.text, rules.agents, consults=trajectory.assisted, extraction=rules.extraction)
    assert isinstance(action, Answer)
    return extract_choice(action.text) if answers == "choice" else action.text
