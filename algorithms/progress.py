"""Progress bars of the commands."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

QUIET_SECONDS = 10.0
"""How long an evaluation may take in silence."""


def make_progress(*, shown: bool = True, clock: Callable[[], float] = time.monotonic) -> Progress:
    """A bar with counts, times and a free text, on standard error: standard output is for results."""
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not shown,
        get_time=clock,
        # A step may take minutes: the speed is that of all steps so far.
        speed_estimate_period=math.inf,
    )


class TrainingDisplay:
    """What a run says on standard error: bars, or, without them, a line where something takes long.

    Args:
        total: steps.
        label: what they are.
        shown: whether there are bars.
        clock: seconds that rise.
    """

    def __init__(
        self, total: int, label: str = "training", *, shown: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress = make_progress(shown=shown, clock=clock)
        self._shown, self._clock, self._said = shown, clock, clock()
        self._steps = self._progress.add_task(label, total=total, note="")

    def __enter__(self) -> TrainingDisplay:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def step(self, metrics: Mapping[str, float]) -> None:
        """A step is done."""
        self._progress.update(self._steps, completed=int(metrics["step"]), note=describe(metrics))
        if metrics["step"] == 0:
            # The time left counts from here, so that it is known after the first step.
            self._progress.advance(self._steps, 0)

    def evaluation(self, done: int, total: int) -> None:
        """So many episodes of an evaluation are finished."""
        text = f"evaluating: {done} of {total} episodes"
        self._progress.update(self._steps, note=text if done < total else "")
        if done == 0:
            self._said = self._clock()
        elif not self._shown and self._clock() - self._said >= QUIET_SECONDS:
            self._said = self._clock()
            self.say(f"{text} are finished")

    def say(self, text: str) -> None:
        """A line above the bars."""
        if self._shown:
            self._progress.console.print(f"aipo: {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"aipo: {text}", file=sys.stderr, flush=True)


@contextmanager
def count_progress(label: str, total: int, *, shown: bool = True) -> Iterator[Callable[[], None]]:
    """Shows a count; the yielded function adds one."""
    with make_progress(shown=shown) as progress:
        task = progress.add_task(label, total=total, note="")
        yield lambda: progress.advance(task)


def describe(metrics: Mapping[str, float]) -> str:
    """The metrics worth a glance while a run goes on."""
    names = {
        "train/solo_accuracy": "solo",
        "train/self_help_accuracy": "self-help",
        "train/assisted_accuracy": "assisted",
        "reward": "reward",
        "loss": "loss",
    }
    shown = [f"{label} {metrics[name]:.2f}" for name, label in names.items() if name in metrics]
    return "  ".join(shown[:2])


def quiet_libraries() -> None:
    """Keeps the bars and notices of transformers out of a command's output; its errors stay."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
