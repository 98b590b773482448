"""The progress bar of rollouts."""

from __future__ import annotations

from aipo_env.trace_files import FAULTS
from aipo_env.trajectory import Trajectory


class RolloutProgress:
    """A bar on standard error: episodes done, accuracy so far, faults."""

    def __init__(self) -> None:
        # Imported here: a rollout without a bar needs no terminal library.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = ("episodes", BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
        self._num_done = self._num_correct = self._num_faults = 0

    def start(self, total: int) -> None:
        """Shows the bar; `total` episodes are to come."""
        self._task = self._bar.add_task("", total=total, note="")
        self._bar.start()

    def count(self, trajectory: Trajectory) -> None:
        """Counts one finished episode; those that a fault ended do not count into the accuracy."""
        if trajectory.stop_reason in FAULTS:
            self._num_faults += 1
        else:
            self._num_done += 1
            self._num_correct += trajectory.verdict == "correct"
        note = f"accuracy {self._num_correct / self._num_done:.3f}" if self._num_done else ""
        if self._num_faults:
            note += f"  errors {self._num_faults}"
        self._bar.update(self._task, advance=1, note=note)

    def stop(self) -> None:
        """Leaves the bar as it is."""
        self._bar.stop()
