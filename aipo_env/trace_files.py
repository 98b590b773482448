"""The files of a run that goes on where it was cut: the finished episodes, and beside them those that a fault ended."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO

from aipo_env.errors import ConfigurationError
from aipo_env.run_record import RunRecord, record_path
from aipo_env.trajectory import TraceWriter, Trajectory, numbered_traces

FAULTS = ("error", "timeout")
"""The stop reasons of episodes that a fault ended; a resumed run plays them again."""


def errors_path(traces: str | os.PathLike[str]) -> Path:
    """Where the episodes lie that a fault ended: `traces.errors.jsonl` beside `traces.jsonl`."""
    path = Path(traces)
    return path.with_name(f"{path.stem}.errors{path.suffix or '.jsonl'}")


class TraceFiles:
    """The traces of one run, open for appending, and locked against a second writer.

    Args:
        path: the file of finished episodes; it and its folder are made if they are not there.
        record: what the run is made of.
        check: says why a trajectory that the file holds is not of this run; None where it is.

    Raises:
        ConfigurationError: when another run writes to the file, or it holds the traces of a run with other settings.
        DataFormatError: when it holds something else.
    """

    def __init__(
        self, path: str | os.PathLike[str], record: RunRecord, check: Callable[[Trajectory], str | None]
    ) -> None:
        self.path = Path(path)
        self.finished: dict[int, int] = {}
        """Which samples of a task the file holds: bit s of the value under its index."""
        self._writers: dict[Path, TraceWriter] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Locked before anything is read or cut: the other writer's last line may be half written.
        self._lock: IO[bytes] = self.path.open("ab")
        try:
            lock_file(self._lock, self.path)
            num_rows = self._read(check)
            side = record_path(self.path)
            if num_rows and side.exists():
                if differences := RunRecord.read(side).differences(record):
                    raise ConfigurationError(
                        f"{self.path} holds a run with other settings: {'; '.join(differences)}. Give this run another "
                        "file (--out), or the settings of that one."
                    )
            else:
                record.write(side)
            self._writers[self.path] = TraceWriter(self.path)
        except BaseException:
            self._lock.close()
            raise

    def write(self, trajectory: Trajectory) -> None:
        """Appends an episode to the file of its kind, flushed.

        Raises:
            OSError: when the disk is full or the like; the file then ends with the episode before.
        """
        path = errors_path(self.path) if trajectory.stop_reason in FAULTS else self.path
        if path not in self._writers:
            self._writers[path] = TraceWriter(path)
        size = path.stat().st_size
        try:
            self._writers[path].write(trajectory)
        except OSError as error:
            # Closing tries once more to write what is buffered; whatever came of it is cut off again.
            with contextlib.suppress(OSError):
                self._writers.pop(path).close()
            os.truncate(path, size)
            raise OSError(
                error.errno,
                f"{error.strerror}; what was finished before is whole, and the same call goes on from there",
                str(path),
            ) from error

    def close(self) -> None:
        """Closes the files and lets the next writer in; closing again does nothing."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        self._lock.close()

    def _read(self, check: Callable[[Trajectory], str | None]) -> int:
        """Notes which episodes are finished; returns how many there are. A last line that was cut does not count."""
        count = 0
        for number, trajectory in numbered_traces(self.path):
            if (reason := check(trajectory)) is not None:
                raise ConfigurationError(
                    f"{self.path}, line {number} is not of this run: {reason}. Give this run another place to write "
                    "to, or the settings of that one."
                )
            assert trajectory.task_index is not None
            samples = self.finished.get(trajectory.task_index, 0)
            self.finished[trajectory.task_index] = samples | 1 << trajectory.sample
            count += 1
        return count


def lock_file(file: IO[bytes], path: Path) -> None:
    """Keeps other processes out of a file or folder (`path`) until `file` is closed; refuses where one is in."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system; there the user keeps two runs apart
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigurationError(
            f"{path} is being written by another run. Wait for its end, or give this run another place to write to."
        ) from error
    except OSError as error:
        warnings.warn(
            f"{path} is on a file system without locks ({error.strerror}): nothing keeps a second run from writing to it. Give "
            "each run a file of its own.",
            stacklevel=2,
        )
