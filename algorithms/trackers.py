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
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from aipo_env import Source, Trajectory
from aipo_env.errors import ConfigurationError, MissingDependencyError, unknown_id
from algorithms.run_folder import TRACKED, write_whole

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


@runtime_checkable
class TraceTracker(Tracker, Protocol):
    """Is told episodes as well."""

    def log_traces(self, step: int, trajectories: Sequence[Trajectory]) -> None:
        """Takes the episodes of one step, before its metrics. Of confidential tasks no text may be passed on."""
        ...


class TensorBoard:
    """Event files in the folder "tensorboard" of the run; a resumed run replaces the steps that it takes again."""

    def __init__(self, out: Path, step: int, config: Mapping[str, object]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
        self.where = f"tensorboard --logdir {shlex.quote(str(out / 'tensorboard'))}"

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
        self.where = str(self._run.url or f"wandb sync {shlex.quote(self._run.dir)}/..")  # offline there is no page yet

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row."""
        self._run.log(dict(metrics), step=step)

    def log_traces(self, step: int, trajectories: Sequence[Trajectory]) -> None:
        """A table: the facts of each episode, and its text with the names of those who wrote it."""
        table: Any = importlib.import_module("wandb").Table(columns=[*_facts(trajectories[0]), "episode"])
        for trajectory in trajectories:
            said = "\n\n".join(f"[{m.get('name', m['role'])}] {m['content']}" for m in _messages(trajectory))
            table.add_data(*_facts(trajectory).values(), said)
        self._run.log({"traces": table}, step=step)

    def close(self) -> None:
        """Waits for the upload, where there is one."""
        self._run.finish()


class Trackio:
    """A run of trackio named after the folder, kept on this machine; a resumed run is a further one."""

    def __init__(self, out: Path, step: int, config: Mapping[str, object]) -> None:
        self._trackio: Any = importlib.import_module("trackio")
        name = out.absolute().name
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self.where = f"trackio show --project {shlex.quote(project)}"
        # It prints to standard output, which is for results.
        with contextlib.redirect_stdout(sys.stderr):
            self._run = self._trackio.init(
                project=project,
                name=name if step == 0 else f"{name}-from-{step}",
                config=_plain(config),
                embed=False,
            )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row."""
        # "step" is a name of its own there, and has this value.
        self._run.log({name: value for name, value in metrics.items() if name != "step"}, step=step)

    def log_traces(self, step: int, trajectories: Sequence[Trajectory]) -> None:
        """A trace each, of messages: the policy's turns, helpers' replies as those of tools."""
        trace = self._trackio.Trace
        self._run.log({"traces": [trace(_messages(t), metadata=_facts(t)) for t in trajectories]}, step=step)

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
    """Opens trackers, notes in trackers.json where each shows the run, and closes them at the end of the block.

    That is an address or a command, the tracker's attribute `where`, if it has one.

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
        if where := {n: str(t.where) for n, t in zip(names, trackers, strict=True) if hasattr(t, "where")}:
            write_whole(out / TRACKED, json.dumps(where))
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


def _facts(trajectory: Trajectory) -> dict[str, str | float]:
    mode = "assisted" if trajectory.assisted else "self-help" if trajectory.self_help else "solo"
    return {
        "task": trajectory.task_id, "sample": trajectory.sample, "mode": mode, "reward": trajectory.reward,
        "verdict": trajectory.verdict, "stop reason": trajectory.stop_reason, "consults": trajectory.num_consults,
    }  # fmt: skip


def _messages(trajectory: Trajectory) -> list[dict[str, str]]:
    """An episode as chat messages: runs of one writer; tags and notices go with whoever wrote before."""
    messages: list[dict[str, str]] = []
    for segment in (trajectory.redacted() if trajectory.confidential else trajectory).segments:
        role = {Source.PROMPT: "user", Source.POLICY: "assistant", Source.AGENT: "tool"}.get(segment.source)
        text = segment.text if segment.withheld is None else f"({segment.num_chars} characters withheld)"
        if messages and (
            role is None or (messages[-1]["role"] == role and messages[-1].get("name", "") == segment.agent)
        ):
            messages[-1]["content"] += text
        else:
            named = {"name": segment.agent} if segment.source is Source.AGENT else {}
            messages.append({"role": role or "user", "content": text, **named})
    return messages


def _plain(value: object) -> Any:
    """Numbers, texts, lists and dictionaries alone; a path becomes its text."""
    return json.loads(json.dumps(value, default=str))
