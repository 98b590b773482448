"""Two evaluations side by side: paired differences over the problems they have in common, where they can be compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from aipo_env.errors import ConfigurationError
from aipo_env.metrics import PairedDifference, default_ks, paired_bootstrap, pass_at_k, sample_difference
from benchmarks.evaluation.fields import Json, by_suite, load_results, scored_tasks
from benchmarks.evaluation.folder import differences
from benchmarks.evaluation.markdown import percent, points, table

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class ScoreChange:
    """How one score changed from the first result to the second, on the same problems."""

    score: str
    """"avg@n", "pass@8", "maj@4"."""
    first: float
    second: float
    change: PairedDifference
    """Second minus first, over problems."""
    sample_low: float | None = None
    """Where the change on these very problems lies, over other samples; avg@n of sampled (not greedy) runs alone."""
    sample_high: float | None = None


@dataclasses.dataclass(frozen=True)
class RunComparison:
    """Two runs of one suite in one mode."""

    suite: str
    mode: str
    title: str
    num_problems: int
    """Scored in both."""
    num_problems_first: int
    """Scored in the first; more than `num_problems` where it has problems that the second lacks."""
    num_problems_second: int
    num_samples: tuple[int, int]
    scores: tuple[ScoreChange, ...]
    refused: tuple[str, ...] = ()
    """What differs between the two, one sentence each; then there are no scores."""


def compare_results(first: Json, second: Json) -> list[RunComparison]:
    """Compares each run (suite and mode) that both results hold.

    Raises:
        ConfigurationError: when they have no suite in common in the same mode.
    """
    before, after = by_suite(first), by_suite(second)
    shared = [(suite, mode) for suite in before for mode in before[suite] if mode in after.get(suite, {})]
    if not shared:
        raise ConfigurationError(
            f"the two results have no suite in common in the same mode: the first has {_runs(before)}, the second "
            f"{_runs(after)}. Evaluate the second policy with the command of the first."
        )
    return [compare_runs(before[suite][mode], after[suite][mode]) for suite, mode in shared]


def compare_runs(first: Json, second: Json) -> RunComparison:
    """Compares two runs of one suite and mode, or says why that makes no sense."""
    before, after = scored_tasks(first), scored_tasks(second)
    common = [identifier for identifier in before if identifier in after]
    refused = incomparable(first, second)
    if not common:
        refused.append(
            f"no problem is scored in both: the first has {len(before)} with all their samples, the second {len(after)}"
        )
    return RunComparison(
        suite=first["suite"],
        mode=first["mode"],
        title=first["title"],
        num_problems=len(common),
        num_problems_first=len(before),
        num_problems_second=len(after),
        num_samples=(first["num_samples"], second["num_samples"]),
        scores=()
        if refused
        else tuple(
            score_changes(
                [before[i] for i in common], [after[i] for i in common], sampled=not (_greedy(first) or _greedy(second))
            )
        ),
        refused=tuple(refused),
    )


def incomparable(first: Json, second: Json) -> list[str]:
    """What makes two runs incomparable, one sentence each: other problems, other sampling, another prompt, other helpers.

    The number of samples may differ: the estimates are unbiased for any. So may the policy, with the context that it takes,
    the seed, and how episodes were batched. Helpers may differ in a solo run but for what the prompt says of them.
    """
    return differences(_conditions(first), _conditions(second))


def _conditions(run: Json) -> dict[str, object]:
    sampling = {k: v for k, v in run["sampling"].items() if k not in ("batch_size", "context")}
    kept = {key: run[key] for key in ("suite", "mode", "env_id", "env_options", "rules", "data") if key in run}
    kept |= {"sampling": sampling, "prompt": run["prompt"], "helpers": run["helpers"]}
    if run["mode"] == "solo":
        said = {name: {"description": helper.get("description")} for name, helper in run["helpers"].items()}
        return {**kept, "helpers": said}
    return {**kept, "consult_timeout": run.get("consult_timeout")}


def _greedy(run: Json) -> bool:
    return bool(run["sampling"]["temperature"] == 0)


def score_changes(before: list[Json], after: list[Json], *, sampled: bool = True) -> list[ScoreChange]:
    """The changes of avg@n, pass@k and maj@n on the same tasks.

    Args:
        before: tasks of results.json, scored.
        after: the same tasks in the same order.
        sampled: whether either run drew samples at random; a greedy one has no sampling noise to estimate.
    """
    counts = [[(task["num_samples"], task["num_correct"]) for task in side] for side in (before, after)]
    fewest = min(n for side in counts for n, _ in side)
    found = []
    for k in [0, *(k for k in default_ks(fewest) if k > 1)]:
        values = [[pass_at_k(n, c, max(k, 1)) for n, c in side] for side in counts]
        change = _change(f"pass@{k}" if k else "avg@n", *values)
        if not k and sampled:
            noise = sample_difference(counts[1], counts[0], confidence=CONFIDENCE)
            change = dataclasses.replace(change, sample_low=noise.low, sample_high=noise.high)
        found.append(change)
    votes = [[task.get("maj") for task in side] for side in (before, after)]
    sizes = {n for side in counts for n, _ in side}
    if len(sizes) == 1 and fewest > 1 and all(v is not None for side in votes for v in side):
        majorities = [[task["maj"] for task in side] for side in (before, after)]
        found.append(_change(f"maj@{fewest}", *majorities))
    return found


def _change(score: str, first: list[float], second: list[float]) -> ScoreChange:
    means = [sum(side) / len(side) for side in (first, second)]
    return ScoreChange(score, means[0], means[1], paired_bootstrap(second, first, confidence=CONFIDENCE))


def comparison_markdown(first: Json, second: Json, compared: list[RunComparison]) -> str:
    """A page: what is compared, a table for each run, what was refused and why, what else differs."""
    lines = [
        f"# {_policy(second)} against {_policy(first)}",
        "",
        f"First: `{first['command']}`  ",
        f"Second: `{second['command']}`",
        "",
        "Change is second minus first, in percentage points, on the problems that both scored. Its 95 % interval is over "
        "problems (resampled in pairs): it says what to expect on other problems of this kind, and with few problems it is "
        "wide, since one problem in twenty may behave unlike all that were tried. The interval over samples says how well "
        "the change on these very problems is known. p is two-sided, of no change over problems, and not corrected for the "
        "number of comparisons.",
        "",
    ]
    for run in compared:
        lines += [f"## {run.title}, {run.mode}", ""]
        if run.refused:
            lines += ["Not compared, since the two differ in more than the policy:", ""]
            lines += [f"- {reason}" for reason in run.refused] + [""]
            continue
        lines += [_problems(run), ""]
        lines += table(
            ("score", "first", "second", "change", "95 % over problems", "95 % over samples", "p"),
            [
                (
                    score.score,
                    percent(score.first),
                    percent(score.second),
                    points(score.change.difference),
                    f"{points(score.change.low)} to {points(score.change.high)}",
                    ""
                    if score.sample_low is None or score.sample_high is None
                    else f"{points(score.sample_low)} to {points(score.sample_high)}",
                    _p(score.change.p_value),
                )
                for score in run.scores
            ],
        )
        lines.append("")
    notes = _notes(first, second)
    return "\n".join([*lines, *(["## What else differs", "", *notes, ""] if notes else [])])


def compare_files(a: Path, b: Path, out: Path | None) -> int:
    """Compares two results of `aipo eval`, prints the page, and writes it.

    Args:
        a: a results.json, or the folder of one: the first, such as the start policy.
        b: the second, such as the trained one.
        out: a folder for `comparison.md` and `comparison.json`; None to print alone.

    Returns:
        0 when every run that both hold was compared, 1 when one was refused.

    Raises:
        ConfigurationError: when they have no run in common.
        DataFormatError: when a file is no result.
        DataNotFoundError: when there is none.
    """
    first, second = load_results(a), load_results(b)
    compared = compare_results(first, second)
    page = comparison_markdown(first, second, compared)
    print(page)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "comparison.md").write_text(page, encoding="utf-8")
        report = {
            "format": 1,
            "kind": "aipo-comparison",
            "level": CONFIDENCE,
            "first": {"policy": first.get("policy"), "command": first.get("command")},
            "second": {"policy": second.get("policy"), "command": second.get("command")},
            "runs": [dataclasses.asdict(run) for run in compared],
        }
        (out / "comparison.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(run.refused for run in compared))


def _problems(run: RunComparison) -> str:
    samples = " and ".join(str(n) for n in dict.fromkeys(run.num_samples))
    words = f"{run.num_problems} problems, {samples} samples of each."
    left_out = (run.num_problems_first - run.num_problems, run.num_problems_second - run.num_problems)
    if any(left_out):
        words += f" Left out: {left_out[0]} that only the first scored, {left_out[1]} that only the second did."
    return words


def _notes(first: Json, second: Json) -> list[str]:
    found = differences(
        {"seed": first.get("seed"), "versions": first.get("versions")},
        {"seed": second.get("seed"), "versions": second.get("versions")},
    )
    found += [
        f"the {name} result is not complete"
        for name, r in (("first", first), ("second", second))
        if not r.get("complete")
    ]
    return [f"- {line}" for line in found]


def _policy(results: Json) -> str:
    return str(results["policy"]["name"])


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _runs(results: Mapping[str, Mapping[str, Json]]) -> str:
    return ", ".join(f"{suite} ({mode})" for suite, modes in results.items() for mode in modes) or "none"
