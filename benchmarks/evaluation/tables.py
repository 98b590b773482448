"""`results.md`: an evaluation as a page of tables. Needs nothing but the JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.evaluation.fields import Json, as_fields, by_suite, scored_tasks
from benchmarks.evaluation.markdown import escape, interval, percent, points, table
from benchmarks.evaluation.plots import figure_names
from benchmarks.evaluation.repeat import repeat_section


def results_markdown(results: Json) -> str:
    """The whole page: scores, pass@k, breakdowns, how episodes ended, consults, tokens and cost, how to repeat it.

    Args:
        results: as in results.json.

    Raises:
        DataFormatError: when a field is missing.
    """
    results = as_fields(results)
    lines = [f"# Evaluation of {escape(results['policy']['name'])}", ""]
    if noted := results.get("trained_on"):
        lines += [f"Trained on {escape(noted['trained_on']['env'])} (training_data.json has its provenance).", ""]
    if not results.get("complete"):
        lines += ["**Not complete.** Scores cover the tasks all of whose samples are there.", ""]
    lines += _scores(results)
    figures = figure_names(results)
    for suite, runs in by_suite(results).items():
        parts = [*_gain(runs), *_pass_at_k(runs), *_breakdowns(runs)]
        shown = [f"![{escape(words)}]({name})" for name, words in figures.items() if name.endswith(f".{suite}.png")]
        if parts or shown:
            lines += [f"## {escape(next(iter(runs.values()))['title'])}", "", *parts]
            lines += [line for figure in shown for line in (figure, "")]
    lines += [*_endings(results), *_consults(results), *_tokens(results), *repeat_section(results)]
    return "\n".join(lines).rstrip() + "\n"


def _runs(results: Json) -> Iterator[tuple[list[str], Json]]:
    """Each run with the two cells that name it."""
    for run in results["runs"]:
        yield [escape(run["title"]), run["mode"]], run


def _scores(results: Json) -> list[str]:
    cells = []
    levels, tie_rules = set(), set()
    extractions = {run["rules"].get("extraction", "boxed") for run in results["runs"]}
    for name, run in _runs(results):
        metrics = run.get("metrics")
        scored, total = run["num_tasks_scored"], run["num_tasks"]
        tasks = str(total) if scored == total else f"{scored} of {total}"
        faults = percent(run["num_errors"] / max(1, run["num_episodes"]))
        row = [*name, tasks, str(run["num_samples"]), faults]
        if metrics is None:
            cells.append([*row, "", "", "", ""])
            continue
        levels.add(f"{100 * metrics['level']:g}")
        average = metrics["avg_at_n"]
        noise = (average.get("sample_low"), average.get("sample_high"))
        last = metrics["pass_at_k"][-1]
        majority = metrics["maj_at_n"][-1] if metrics.get("maj_at_n") else None
        if metrics.get("maj_tie_rule"):
            tie_rules.add(metrics["maj_tie_rule"])
        cells.append(
            [
                *row,
                _with_interval(average),
                "" if noise[0] is None else f"{percent(noise[0])} to {percent(noise[1])}",
                f"{_with_interval(last)} at {last['k']}",
                "" if majority is None else f"{_with_interval(majority)} at {majority['n']}",
            ]
        )
    level = " and ".join(sorted(levels)) or "95"
    lines = table(
        ("suite", "mode", "tasks", "samples", "faults", "avg@n", "sampling noise", "pass@k", "maj@n"), cells, num_left=2
    )
    notes = [
        f"In percent; in brackets the {level} % interval over problems: other problems of this kind could have been drawn "
        "(with few problems it stays wide, however many samples there are). Sampling noise: where avg@n of these very "
        "problems lies, over other samples. avg@n is the mean of correct / samples, the unbiased pass@1; pass@k is "
        "unbiased. Faults: the share of episodes that a dead server, helper or grader ended; no score counts them.",
        *(f"maj@n: {rule}." for rule in sorted(tie_rules)),
        f"Extraction of answers: {' and '.join(sorted(extractions))}.",
    ]
    return [*lines, "", *(line for note in notes for line in (note, ""))]


def _with_interval(row: Json) -> str:
    return interval(row["estimate"], row["low"], row["high"])


def _gain(runs: Mapping[str, Json]) -> list[str]:
    """What help adds, on the tasks that both modes scored."""
    from benchmarks.evaluation.compare import score_changes

    if not {"solo", "assisted"} <= set(runs):
        return []
    solo, assisted = scored_tasks(runs["solo"]), scored_tasks(runs["assisted"])
    common = [identifier for identifier in solo if identifier in assisted]
    if not common:
        return []
    first = score_changes([solo[i] for i in common], [assisted[i] for i in common])[0]
    change = first.change
    return [
        f"With help minus alone, avg@n on {len(common)} problems: {points(change.difference)} points "
        f"({points(change.low)} to {points(change.high)} over problems, in pairs).",
        "",
    ]


def _pass_at_k(runs: Mapping[str, Json]) -> list[str]:
    columns: dict[str, dict[int, str]] = {}
    for mode, run in runs.items():
        metrics = run.get("metrics")
        if metrics is None:
            continue
        columns[f"pass@k, {mode}"] = {row["k"]: _with_interval(row) for row in metrics["pass_at_k"]}
        if metrics.get("mg_pass_at_k"):
            columns[f"mG-Pass@k, {mode}"] = {row["k"]: _with_interval(row) for row in metrics["mg_pass_at_k"]}
        if metrics.get("maj_at_n"):
            columns[f"maj@k, {mode}"] = {row["n"]: _with_interval(row) for row in metrics["maj_at_n"]}
    ks = sorted({k for column in columns.values() for k in column})
    if len(ks) < 2:
        return []
    return [*table(("k", *columns), [(str(k), *(c.get(k, "") for c in columns.values())) for k in ks]), ""]


def _breakdowns(runs: Mapping[str, Json]) -> list[str]:
    lines: list[str] = []
    for key in dict.fromkeys(key for run in runs.values() for key in run["breakdowns"]):
        found = {
            mode: {str(row["value"]): row for row in run["breakdowns"][key]}
            for mode, run in runs.items()
            if key in run["breakdowns"]
        }
        columns = [f"{score}, {mode}" for mode in found for score in ("avg@n", "pass@n")]
        cells = []
        for value in dict.fromkeys(value for column in found.values() for value in column):
            shown = [column.get(value) for column in found.values()]
            num_tasks = max(row["num_tasks"] for row in shown if row is not None)
            scores = [
                cell
                for row in shown
                for cell in (
                    ("", "")
                    if row is None
                    else (
                        interval(row["avg"], row["low"], row["high"]),
                        percent(row["pass_at_n"]),
                    )
                )
            ]
            cells.append([escape(value), str(num_tasks), *scores])
        lines += [*table((escape(key), "tasks", *columns), cells), ""]
    return lines


def _endings(results: Json) -> list[str]:
    cells, details = [], []
    for name, run in _runs(results):
        rates = run["rates"]
        cells.append(
            [
                *name,
                f"{run['num_finished']} of {run['num_episodes']}",
                *(percent(rates.get(key)) for key in ("truncated", "no_answer", "unparsable", "correct")),
            ]
        )
        kinds = [
            f"{label} " + ", ".join(f"{escape(key or 'none')} {value}" for key, value in run[field].items())
            for label, field in (("ended by", "stop_reasons"), ("verdicts", "verdicts"))
        ]
        faults = [f"{e['count']} x {escape(e.get('error'))}" for e in run["errors"]]
        missing = run["num_missing"]
        if faults:
            kinds.append(f"{run['num_errors']} ended by a fault: {'; '.join(faults)}")
        if missing:
            kinds.append(f"{missing} not played yet")
        details.append(f"- {escape(run['title'])}, {run['mode']}: {'; '.join(kinds)}.")
    lines = table(("suite", "mode", "episodes", "truncated", "no answer", "unparsable", "correct"), cells, num_left=2)
    return ["## How episodes ended", "", "Shares of finished episodes, in percent.", "", *lines, "", *details, ""]


def _consults(results: Json) -> list[str]:
    cells = []
    for run in results["runs"]:
        consults = run.get("consults")
        if consults is None:
            continue
        title = escape(run["title"])
        keys = ("asked", "consults", "errors", "gave_away", "cached")
        every = {**consults, **{key: sum(row.get(key, 0) for row in _helpers(run).values()) for key in keys}}
        for helper, row in {"any": every, **_helpers(run)}.items():
            means = percent(row["rate"]), f"{row['per_episode']:.2f}"
            cells.append([title, escape(helper), *means, *(str(row.get(key, 0)) for key in keys)])
    if not cells:
        return []
    heads = (
        "suite", "helper", "episodes that asked, %", "answered per episode", "asked", "answered", "failed", "gave it away",
        "from cache",
    )  # fmt: skip
    lines = table(heads, cells, num_left=2)
    note = "Gave it away: replies that stated the gold answer before the policy did; the option `leak_filter` holds them back."
    return ["## Consults", "", *lines, "", note, ""]


def _tokens(results: Json) -> list[str]:
    cells = []
    for name, run in _runs(results):
        tokens = run["tokens"]
        helpers = _helpers(run).values()
        spent = sum(h["prompt_tokens"] + h["completion_tokens"] for h in helpers)
        metered = any(h["asked"] > h["unmetered"] for h in helpers)
        known = sum(h.get("cost_usd") or 0.0 for h in helpers)
        cost = f"{known:.4f}"
        if any(h["unpriced"] for h in helpers):
            cost = f"{cost} or more" if known else "unknown"
        per_episode = tokens.get("policy_per_episode")
        cells.append(
            [
                *name,
                *("" if tokens[s] is None else f"{tokens[s]:,}" for s in ("prompt", "policy", "agent", "template")),
                "" if per_episode is None else f"{per_episode:,.1f}",
                f"{spent:,.0f}" if metered else "",
                cost if metered else "",
                f"{run['timing']['seconds']:,.0f}",
            ]
        )
    heads = (
        "suite", "mode", "prompt", "policy", "helpers' replies", "template", "policy per episode", "helpers' own", "cost, USD",
        "seconds",
    )  # fmt: skip
    lines = table(heads, cells, num_left=2)
    unmetered = sum(h["unmetered"] for run in results["runs"] for h in _helpers(run).values())
    notes = [
        "Tokens of finished episodes, in the policy's tokens, by who wrote them; \"helpers' own\" are those that the "
        "helpers read and wrote by their own account."
    ]
    if unmetered:
        notes.append(
            f"{unmetered} replies came from helpers that report neither tokens nor cost, such as the embedded ones."
        )
    return ["## Tokens and cost", "", *lines, "", *(line for note in notes for line in (note, ""))]


def _helpers(run: Json) -> dict[str, Json]:
    """What the helpers of a run did, by name; none in a solo run."""
    return dict(run["consults"]["by_helper"]) if run.get("consults") else {}
