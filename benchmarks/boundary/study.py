"""Runs the study's runs in processes of one thread each; a study that was cut goes on where it was."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from aipo_env.errors import DataFormatError
from aipo_env.installation import DISTRIBUTION
from algorithms.progress import make_progress
from benchmarks.boundary.design import RunSpec
from benchmarks.boundary.runs import RunResult, run
from benchmarks.boundary.start_policies import Start, measure_start, start_folder
from benchmarks.report import machine

ROWS = "rows.jsonl"
PACKAGES = (DISTRIBUTION, "torch", "transformers", "tokenizers", "numpy", "gymnasium")


def run_study(
    specs: Sequence[RunSpec],
    out: Path,
    *,
    processes: int = 2,
    num_problems: int = 100,
    attempts: int | None = None,
    device: str = "cpu",
    minutes: float | None = None,
    measure_after: float | None = None,
) -> list[RunResult]:
    """Runs what is not there yet; returns the results of all of `specs` that there are.

    Args:
        specs: the runs, in the order in which they are started.
        out: gets `rows.jsonl`, one finished run a line, and the start policies.
        processes: runs at the same time.
        num_problems: boundary problems of the final measurement.
        attempts: that must all fail for a problem to be one; None for those of its task.
        device: a torch device, of every run.
        minutes: after which no further run is started, and those that run are given up.
        measure_after: minutes after which runs end and are measured as they are.
    """
    out.mkdir(parents=True, exist_ok=True)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    done = {result.id for result in read_results(out)}
    waiting = [spec for spec in specs if spec.id not in done]
    needed = sorted({(spec.task, spec.architecture) for spec in waiting})
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, initializer=prepare_process)
    try:
        with pool, make_progress() as progress:
            bar = progress.add_task("start policies", total=len(needed), note="")
            starting = {
                (task, a): pool.submit(measure_start, a, out, num_problems, task, attempts=attempts, device=device)
                for task, a in needed
            }
            starts: dict[tuple[str, str], Start] = {}
            for which, future in starting.items():
                starts[which] = future.result()
                progress.update(bar, advance=1)
            bar = progress.add_task("runs", total=len(waiting), note="")
            futures = [
                pool.submit(
                    run,
                    spec,
                    start_folder(spec.architecture, out, spec.task),
                    starts[spec.task, spec.architecture].indices,
                    device,
                    math.inf if measure_after is None else time.time() + 60 * measure_after,
                )
                for spec in waiting
            ]
            with (out / ROWS).open("a", encoding="utf-8") as file:
                for result in _until(futures, deadline):
                    row = dataclasses.asdict(result) | {"machine": machine(PACKAGES, threads=1)}
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                    progress.update(bar, advance=1, note=result.id)
            if deadline is not None and time.monotonic() >= deadline:
                _give_up(pool, futures)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    wanted = {spec.id for spec in specs}
    return [result for result in read_results(out) if result.id in wanted]


def read_results(out: Path) -> list[RunResult]:
    """The finished runs of a study's folder; a last line that was cut is passed over.

    Raises:
        DataFormatError: another line is no result.
    """
    path = out / ROWS
    if not path.exists():
        return []
    fields = {field.name for field in dataclasses.fields(RunResult)}
    results = []
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    if lines[-1]:
        # What follows is appended to whole lines.
        path.write_text(text[: len(text) - len(lines[-1])], encoding="utf-8")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
            results.append(RunResult(**{name: row[name] for name in fields}))
        except (ValueError, KeyError, TypeError) as error:
            raise DataFormatError(
                f"{path}, line {number}: expected a finished run, but {error!r}. Remove the line."
            ) from error
    return results


def read_starts(out: Path) -> list[Start]:
    """What was measured of the start policies."""
    paths = sorted((out / "start").glob("*.json"))
    return [Start(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def _until(futures: Sequence[concurrent.futures.Future[RunResult]], deadline: float | None) -> Iterator[RunResult]:
    """The results as they come, until the deadline."""
    timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        for future in concurrent.futures.as_completed(futures, timeout=timeout):
            yield future.result()
    except TimeoutError:
        return


def _give_up(
    pool: concurrent.futures.ProcessPoolExecutor, futures: Sequence[concurrent.futures.Future[RunResult]]
) -> None:
    """Ends the runs that are under way: they start again the next time."""
    for future in futures:
        future.cancel()
    for process in multiprocessing.active_children():
        process.terminate()
    pool.shutdown(wait=False, cancel_futures=True)


def prepare_process() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    from algorithms.progress import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
