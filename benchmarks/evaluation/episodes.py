"""The episodes of a run, read from its traces: what the results are made of."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from aipo_env.trace_files import errors_path
from aipo_env.trajectory import Trajectory, numbered_traces
from benchmarks.evaluation.facts import EpisodeFacts
from benchmarks.evaluation.plan import RunPlan

CUT = ("length", "max_chars")
"""The stop reasons of episodes that were cut in the middle of a turn."""
SILENT = ("no_answer", "max_turns")
"""The stop reasons of episodes that used up their turns without an answer: alone there is one, with help there are several."""


@dataclasses.dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """A finished episode without its text."""

    task_id: str
    correct: bool
    verdict: str
    stop_reason: str
    num_consults: int
    """Answered ones."""
    facts: EpisodeFacts

    @classmethod
    def of(cls, trajectory: Trajectory) -> EpisodeSummary:
        """The summary of a trace."""
        return cls(
            trajectory.task_id,
            trajectory.verdict == "correct",
            trajectory.verdict,
            trajectory.stop_reason,
            trajectory.num_consults,
            EpisodeFacts.read(trajectory),
        )


@dataclasses.dataclass(frozen=True)
class RunEpisodes:
    """All that became of a run's episodes so far."""

    plan: RunPlan
    samples: Sequence[Sequence[EpisodeSummary | None]]
    """By position in the plan's tasks and by sample; None where there is none yet."""
    errors: Counter[str]
    """What ended episodes that were not played again since, with their number."""
    faulted: Sequence[EpisodeSummary] = ()
    """Those episodes."""

    @classmethod
    def read(cls, plan: RunPlan, traces: Path) -> RunEpisodes:
        """Reads the traces of a run; there may be none yet.

        Raises:
            DataFormatError: when a line is not a trace of an evaluation.
        """
        position = {index: group for group, index in enumerate(plan.tasks)}
        samples: list[list[EpisodeSummary | None]] = [[None] * plan.num_samples for _ in plan.tasks]
        if traces.exists():
            for _, trajectory in numbered_traces(traces):
                assert trajectory.task_index is not None
                samples[position[trajectory.task_index]][trajectory.sample] = EpisodeSummary.of(trajectory)
        faults: dict[tuple[int, int], tuple[str, EpisodeSummary]] = {}
        if (failed := errors_path(traces)).exists():
            for _, trajectory in numbered_traces(failed):
                assert trajectory.task_index is not None
                group = position[trajectory.task_index]
                if samples[group][trajectory.sample] is None:
                    error = str(trajectory.metadata.get("error"))
                    faults[group, trajectory.sample] = error, EpisodeSummary.of(trajectory)
        return cls(plan, samples, Counter(error for error, _ in faults.values()), [e for _, e in faults.values()])

    @property
    def finished(self) -> list[EpisodeSummary]:
        """The episodes that came to an end of their own."""
        return [episode for row in self.samples for episode in row if episode is not None]

    @property
    def complete(self) -> bool:
        """Whether all of them did."""
        return all(episode is not None for row in self.samples for episode in row)

    def scored(self) -> dict[int, list[EpisodeSummary]]:
        """The tasks, by position, all of whose samples are there."""
        rows = {group: [e for e in row if e is not None] for group, row in enumerate(self.samples)}
        return {group: row for group, row in rows.items() if len(row) == self.plan.num_samples}
