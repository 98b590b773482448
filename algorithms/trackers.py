"""Who is told a run's metrics, beside metrics.jsonl: TensorBoard, Weights & Biases, trackio, each through its own library.

Settings of theirs (an account, a project's server, an offline mode) are read by these libraries from their own environment
variables: `WANDB_MODE=offline` writes below the run's folder and asks no server; trackio writes to this machine by default.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from aipo_env.errors import ConfigurationError, MissingDependencyError, unknown_id

PROJECT = "aipo"
"""The project that Weights & Biases and trackio file a run under; WANDB_PROJECT and TRACKIO_PROJECT name another."""
_LIBRARIES = ("wandb", "trackio")


@runtime_checkable
class Tracker(Protocol):
    """Is told the metrics of a run."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of one step; steps come in rising order."""
        ...

    def close(self) -> None:
        """Ends the run, and waits until all is written."""
        ...


class TensorBoard:
    """Event files in the folder "tensorboard" of the run; a resumed run replaces the steps that it takes again."""

    def __init__(self, out: Path, step: int, config: Mapping[str, object]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One scalar each."""
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        self._board.close()


class WandB:
    """A run of Weights & Biases named after the folder, in which its files lie; a resumed run is another one of its group."""

    def __init__(self, out: Path, step: int, config: Mapping[str, object]) -> None:
        wandb: Any = importlib.import_module("wandb")
        name = out.absolute().name
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name if step == 0 else f"{name}-from-{step}",
            group=name,
            dir=str(out),
            config=_plain(config),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Waits for the upload, where there is one."""
        self._run.finish()


class Trackio:
    """A run of trackio named after the folder, kept on this machine; a resumed run is a further one."""

    def __init__(self, out: Path, step: int, config: Mapping[str, object]) -> None:
        self._trackio: Any = importlib.import_module("trackio")
        name = out.absolute().name
        # It prints to standard output, which is for results.
        with contextlib.redirect_stdout(sys.stderr):
            self._run = self._trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=name if step == 0 else f"{name}-from-{step}",
                config=_plain(config),
                embed=False,
            )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row."""
        # "step" is a name of its own there, and has this value.
        self._run.log({name: value for name, value in metrics.items() if name != "step"}, step=step)

    def close(self) -> None:
        """Waits until all rows are written."""
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.finish()


TRACKERS: dict[str, Callable[[Path, int, Mapping[str, object]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}
"""Name to tracker; further ones can be put there."""


@contextlib.contextmanager
def open_trackers(
    names: Sequence[str], out: Path, step: int, config: Mapping[str, object]
) -> Iterator[Sequence[Tracker]]:
    """Opens trackers, and closes them at the end of the block.

    Args:
        names: of `TRACKERS`.
        out: folder of the run.
        step: steps done before.
        config: of the run; nested.

    Raises:
        UnknownIdError: no tracker has this name.
        ConfigurationError: a name stands there twice.
        MissingDependencyError: its library is not installed.
    """
    check_trackers(names)
    with contextlib.ExitStack() as stack:
        trackers = []
        for name in names:
            tracker = TRACKERS[name](out, step, config)
            stack.callback(tracker.close)
            trackers.append(tracker)
        yield trackers


def check_trackers(names: Sequence[str]) -> None:
    """Refuses what `open_trackers` would, before a run begins."""
    if len(set(names)) != len(names):
        raise ConfigurationError(f"each tracker can be named once, got {' '.join(names)}. Leave out the second.")
    for name in names:
        if name not in TRACKERS:
            raise unknown_id("tracker", name, TRACKERS)
        if name in _LIBRARIES and importlib.util.find_spec(name) is None:
            raise MissingDependencyError(
                f"the tracker {name!r} needs the package {name!r}, which is not installed: pip install {name}. "
                "Without it, metrics.jsonl and TensorBoard hold the same numbers."
            )


def _plain(value: object) -> Any:
    """Numbers, texts, lists and dictionaries alone; a path becomes its text."""
    return json.loads(json.dumps(value, default=str))
