"""A few lines on the terminal at the end of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def summary_lines(results: Mapping[str, object]) -> Iterator[str]:
    """One line a run: its score with the interval over problems, and what is missing."""
    runs = results["runs"]
    assert isinstance(runs, list)
    for run in runs:
        head = f"{run['title']}, {run['mode']}: "
        if run["metrics"] is None:
            yield f"{head}no task has all its samples yet{_missing(run)}"
            continue
        average, last = run["metrics"]["avg_at_n"], run["metrics"]["pass_at_k"][-1]
        text = f"avg@{average['n']} {average['estimate']:.3f} [{average['low']:.3f}, {average['high']:.3f}]"
        if last["k"] > 1:
            text += f", pass@{last['k']} {last['estimate']:.3f} [{last['low']:.3f}, {last['high']:.3f}]"
        if run["consults"] is not None:
            asked, answered = (run["consults"][key] for key in ("asked_per_episode", "per_episode"))
            text += f", {asked:.2f} consults an episode" + (f", {answered:.2f} answered" if answered < asked else "")
        yield head + text + _missing(run)


def _missing(run: Mapping[str, Any]) -> str:
    """What a run lacks; nothing of a complete one."""
    if run["complete"]:
        return ""
    missing = run["num_episodes"] - run["num_finished"]
    text = f"; {missing} of {run['num_episodes']} episodes are missing"
    if run["errors"]:
        text += f", {run['num_errors']} of them ended by a fault, most often by {run['errors'][0]['error']}"
    return text
