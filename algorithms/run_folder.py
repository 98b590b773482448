"""The folder of a training run: one run at a time writes to it, and its files are whole or not there."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from aipo_env.errors import AipoError, ConfigurationError, DataFormatError, StorageError
from aipo_env.tasks.base import TaskSet, provenance_of
from aipo_env.trace_files import lock_file

CONFIG, METRICS, TRACES, CHECKPOINTS = "config.json", "metrics.jsonl", "traces.jsonl", "checkpoints"
TRACKED = "trackers.json"
TRAINING_DATA = "training_data.json"
_ELSEWHERE = ("steps", "out", "micro_batch_size", "packing", "recompute", "sampler", "engine_args")
"""Settings that may differ where a run goes on: more steps is how it does, where it lies does not matter, and what saves memory
without another result, or another engine or server, may be what lets it go on."""


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Makes the folder, and keeps every other run out of it until the end of the block; refuses where one is in."""
    with contextlib.ExitStack() as stack:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((out / ".lock").open("ab"))
        lock_file(file, out)
        yield


@contextlib.contextmanager
def writing(out: Path, failures: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Turns the failure to write a file of the run into an error that says what is kept.

    Args:
        out: folder of the run.
        failures: what the writer raises for a full disk and the like.
    """
    try:
        yield
    except failures as error:
        if isinstance(error, AipoError):
            raise
        # The system's own words, where a library has wrapped them in its own.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = getattr(cause, "strerror", None) or str(error).partition("\n")[0]
        raise StorageError(
            f"the files of a run must be written to {out}, and that failed: {reason}. What lies there is as it was: free some "
            "space or make the folder writable, and the same command goes on from the last checkpoint; or choose another "
            "--out."
        ) from error


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file or a folder, which takes the place of the old one when it is complete."""
    part, old = (path.with_name(f".{path.name}.{kind}") for kind in ("partial", "old"))
    _remove(part, old)
    try:
        write(part)
    except BaseException:
        _remove(part)
        raise
    if path.is_dir():
        path.rename(old)
    part.replace(path)
    _remove(old)


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is there with its old or its new content, and never in part."""
    replace(path, lambda part: part.write_text(text, encoding="utf-8"))


def note_training_data(folder: Path, env_id: str, options: Mapping[str, object], tasks: TaskSet, policy: str) -> None:
    """Writes beside a run, or a policy of it, what it is trained on, and what the policy that it began with was.

    Args:
        folder: of the run or the policy.
        env_id: environment of the training tasks.
        options: what chose them beside.
        tasks: their family.
        policy: what the run began with, as `load_policy` takes it.
    """
    chosen = {name: value for name, value in options.items() if name != "data"}  # where they lie is nobody's business
    data = {"env": env_id, "options": chosen, "purpose": getattr(tasks, "split", None), **provenance_of(tasks)}
    folder.mkdir(parents=True, exist_ok=True)
    noted = {"trained_on": data, "before": trained_on(policy)}
    write_whole(folder / TRAINING_DATA, json.dumps(noted, indent=1, default=str) + "\n")


def trained_on(policy: str) -> dict[str, object] | None:
    """What a policy of `aipo train` was trained on, by its folder; None where nobody noted it."""
    path = Path(policy) / TRAINING_DATA
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
    except ValueError as error:
        raise DataFormatError(f"{path} says what a policy was trained on, and is no JSON object ({error}).") from error


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)


def claim(out: Path, config: Mapping[str, object], *, begun: bool) -> None:
    """Writes the settings of a run into its folder, or checks that those of the run that was begun there are the same.

    Args:
        out: the folder.
        config: all settings.
        begun: whether the folder holds checkpoints.

    Raises:
        ConfigurationError: when the run there has other settings.
        DataFormatError: when its settings cannot be read.
    """
    path = out / CONFIG
    text = json.dumps(config, indent=1, sort_keys=True, default=str)
    if begun and path.exists():
        try:
            old, new = dict(json.loads(path.read_text(encoding="utf-8")).items()), json.loads(text)
        except (ValueError, AttributeError) as error:
            raise DataFormatError(
                f"{path} must hold the settings of the run whose checkpoints lie beside it, and is not readable as such "
                f"({error}). Restore it; or remove this file alone, and the run goes on with the settings that are given now."
            ) from error
        changed = sorted(k for k in old.keys() | new.keys() if k not in _ELSEWHERE and old.get(k) != new.get(k))
        if changed:
            raise ConfigurationError(
                f"{out} holds a run with other settings ({', '.join(changed)}). Give this one another folder as out=, or "
                "remove the old one."
            )
    write_whole(path, text)
