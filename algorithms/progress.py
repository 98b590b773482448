"""Progress bars of the commands."""

from __future__ import annotations

import logging
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


def make_progress(*, shown: bool = True) -> Progress:
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
    )


@contextmanager
def step_progress(label: str, total: int, *, shown: bool = True) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Shows training steps; the yielded function takes the metrics of each."""
    with make_progress(shown=shown) as progress:
        task = progress.add_task(label, total=total, note="")

        def advance(metrics: Mapping[str, float]) -> None:
            progress.update(task, completed=int(metrics["step"]), note=describe(metrics))

        yield advance


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
