"""What a run's episodes say: scores with intervals, breakdowns, rates, tokens, consults."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from aipo_env.metrics import (
    TIE_RULE,
    Interval,
    bootstrap_interval,
    default_ks,
    g_pass_at_k,
    maj_at_n,
    mg_pass_at_k,
    pass_at_k,
    sample_interval,
)
from aipo_env.metrics.intervals import DEFAULT_RESAMPLES
from aipo_env.tasks.base import Task, TaskSet
from benchmarks.evaluation.episodes import CUT, SILENT, EpisodeSummary, RunEpisodes

CONFIDENCE = 0.95
THRESHOLDS = (0.5, 0.75, 1.0)
"""The tau of G-Pass@k that arXiv 2412.13147 reports."""


def metrics(episodes: RunEpisodes, majorities: Majorities | None, ks: Sequence[int]) -> dict[str, object]:
    """avg@n, pass@k, G-Pass@k and maj@n with intervals over problems; for avg@n also over samples.

    Args:
        episodes: of the run; tasks without all their samples are left out.
        majorities: of the same episodes; None where answers have no majority.
        ks: the k of pass@k and the n of maj@n; empty for powers of two.
    """
    plan, rows = episodes.plan, episodes.scored()
    counts = [(len(row), num_correct(row)) for row in rows.values()]
    ks = sorted(ks) or default_ks(plan.num_samples)
    average = _interval([c / n for n, c in counts], plan.seed)
    noise = None if plan.temperature == 0 else sample_interval(counts, confidence=CONFIDENCE, seed=plan.seed)
    maj_at_n = None
    if majorities is not None:
        maj_at_n = [{"n": n, **_interval(list(majorities.values(n).values()), plan.seed)} for n in ks]
    return {
        "level": CONFIDENCE,
        "resamples": DEFAULT_RESAMPLES,
        "avg_at_n": {
            "n": plan.num_samples,
            **average,
            "sample_low": None if noise is None else noise.low,
            "sample_high": None if noise is None else noise.high,
        },
        "pass_at_k": [{"k": k, **_interval([pass_at_k(n, c, k) for n, c in counts], plan.seed)} for k in ks],
        # Of one sample it is pass@1.
        "g_pass_at_k": [
            {"k": k, "tau": tau, **_interval([g_pass_at_k(n, c, k, tau) for n, c in counts], plan.seed)}
            for k in ks
            for tau in THRESHOLDS
            if k > 1
        ],
        "mg_pass_at_k": [
            {"k": k, **_interval([mg_pass_at_k(n, c, k) for n, c in counts], plan.seed)} for k in ks if k % 2 == 0
        ],
        "maj_at_n": maj_at_n,
        "maj_tie_rule": None if maj_at_n is None else TIE_RULE,
    }


class Majorities:
    """maj@n of the tasks all of whose samples are there.

    Args:
        episodes: of the run.
        tasks: by position.
        family: whose grader says which answers mean the same.
    """

    def __init__(self, episodes: RunEpisodes, tasks: Mapping[int, Task], family: TaskSet) -> None:
        self._rows = episodes.scored()
        letters = episodes.plan.suite.answers == "choice"
        self._same: dict[int, Callable[[str, str], bool]] = {
            group: operator.eq if letters else functools.cache(_same_value(family, tasks[group], row))
            for group, row in self._rows.items()
        }

    def values(self, n: int) -> dict[int, float]:
        """maj@n by the tasks' positions."""
        return {
            group: maj_at_n([e.facts.answer for e in row], [e.correct for e in row], self._same[group], n)
            for group, row in self._rows.items()
        }


def _same_value(family: TaskSet, task: Task, row: Sequence[EpisodeSummary]) -> Callable[[str, str], bool]:
    """Whether two answers mean the same, as the family's grader sees it with the first of them in place of the gold one.

    An answer that the grader could not read, or not in time, is the same as an equal text alone.
    """
    unreadable = {e.facts.answer for e in row if e.verdict in ("unparsable", "timeout", "no_answer")}

    def same(representative: str, answer: str) -> bool:
        if representative == answer:
            return True
        if representative in unreadable or answer in unreadable:
            return False
        return family.grade(dataclasses.replace(task, gold=representative), answer).correct

    return same


def breakdowns(episodes: RunEpisodes, tasks: Mapping[int, Task]) -> dict[str, list[dict[str, object]]]:
    """avg@n and pass@n by the values of the suite's keys of the tasks' metadata."""
    plan, rows = episodes.plan, episodes.scored()
    found: dict[str, list[dict[str, object]]] = {}
    for key in plan.suite.breakdowns:
        groups: dict[str | int | float, list[int]] = {}
        for group in rows:
            value = tasks[group].metadata.get(key)
            if isinstance(value, str | int | float):
                groups.setdefault(value, []).append(num_correct(rows[group]))
        if len(groups) > 1:
            found[key] = [
                _breakdown_row(value, groups[value], plan.num_samples, plan.seed)
                for value in sorted(groups, key=lambda v: (isinstance(v, str), v))
            ]
    return found


def _breakdown_row(value: object, correct: Sequence[int], n: int, seed: int) -> dict[str, object]:
    interval = _interval([c / n for c in correct], seed)
    return {
        "value": value,
        "num_tasks": len(correct),
        "avg": interval["estimate"],
        "low": interval["low"],
        "high": interval["high"],
        "pass_at_n": sum(c > 0 for c in correct) / len(correct),
    }


def rates(finished: Sequence[EpisodeSummary]) -> dict[str, float | None]:
    """Shares of the finished episodes."""

    def share(holds: Callable[[EpisodeSummary], bool]) -> float | None:
        return sum(map(holds, finished)) / len(finished) if finished else None

    return {
        "correct": share(lambda e: e.correct),
        "truncated": share(lambda e: e.stop_reason in CUT),
        "no_answer": share(lambda e: e.stop_reason in SILENT or e.verdict == "no_answer"),
        "unparsable": share(lambda e: e.verdict == "unparsable"),
    }


def counts(finished: Sequence[EpisodeSummary]) -> dict[str, dict[str, int]]:
    """How often each stop reason and each verdict came, in alphabetical order."""
    return {
        "stop_reasons": dict(sorted(Counter(e.stop_reason for e in finished).items())),
        "verdicts": dict(sorted(Counter(e.verdict for e in finished).items())),
    }


def tokens(finished: Sequence[EpisodeSummary]) -> dict[str, float | None]:
    """Tokens by source, summed; and means of an episode; None where nobody counted them."""
    sources = ("prompt", "policy", "agent", "template")
    if not all(e.facts.tokens for e in finished):
        return dict.fromkeys((*sources, "policy_per_episode", "behind_prompt_per_episode"))
    sums = {source: sum(e.facts.tokens[source] for e in finished) for source in sources}
    behind = sum(count for source, count in sums.items() if source != "prompt")
    return {
        **sums,
        "policy_per_episode": sums["policy"] / len(finished) if finished else None,
        "behind_prompt_per_episode": behind / len(finished) if finished else None,
    }


def consults(
    finished: Sequence[EpisodeSummary], helpers: Sequence[str], faulted: Sequence[EpisodeSummary] = ()
) -> dict[str, object]:
    """How often helpers were asked and answered, and what that took.

    Args:
        finished: the episodes that rates and means are of.
        helpers: their names.
        faulted: those that a fault ended; how often helpers were asked there, failed, and what that took counts too.
    """
    total = max(1, len(finished))
    by_helper: dict[str, dict[str, float | None]] = {}
    for helper in helpers:
        asked = [[c for c in e.facts.consults if c.agent == helper] for e in [*finished, *faulted]]
        every = [c for row in asked for c in row]
        known = [c.cost_usd for c in every if c.cost_usd is not None]
        unpriced = sum(c.metered and c.cost_usd is None for c in every)
        by_helper[helper] = {
            "asked": len(every),
            "consults": sum(c.error is None for c in every),
            "per_episode": sum(c.error is None for row in asked[: len(finished)] for c in row) / total,
            "rate": sum(map(bool, asked[: len(finished)])) / total,
            "errors": sum(c.error is not None for c in every),
            "gave_away": sum(c.gives_away for c in every),
            "cached": sum(c.cached for c in every),
            "unmetered": sum(not c.metered for c in every),
            "unpriced": unpriced,
            "prompt_tokens": sum(c.prompt_tokens for c in every),
            "completion_tokens": sum(c.completion_tokens for c in every),
            # Of a part of the consults alone it is a lower bound.
            "cost_usd": None if unpriced and not any(known) else sum(known),
        }
    return {
        "rate": sum(bool(e.facts.consults) for e in finished) / total,
        "asked_per_episode": sum(len(e.facts.consults) for e in finished) / total,
        "per_episode": sum(e.num_consults for e in finished) / total,
        "by_helper": by_helper,
    }


def num_correct(row: Sequence[EpisodeSummary]) -> int:
    """How many samples of a task are right."""
    return sum(e.correct for e in row)


def _interval(values: Sequence[float], seed: int) -> dict[str, float]:
    interval: Interval = bootstrap_interval(values, confidence=CONFIDENCE, seed=seed)
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
