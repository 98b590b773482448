"""Puts the page together: one HTML file without a script, which loads nothing.

Every text from a run goes through `escape`; the page's own policy (CSP) forbids all scripts and any source but its one style.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from aipo_env.trajectory import Segment, Source, Trajectory
from algorithms.apps.html_pages import content_policy, escape, page_head, source_hash
from algorithms.apps.report.charts import Chart, Histogram, make_charts, make_histograms
from algorithms.apps.report.runs import TrainingRun
from algorithms.apps.report.summary import config_differences, final_values, shown
from algorithms.apps.report.svg import NUM_COLOURS, bin_label, draw_chart, draw_histogram, line_class

_MAX_CHARS = 4000
"""Of a segment that is shown; the viewer shows the rest."""


def policy() -> str:
    """The Content-Security-Policy of the page."""
    return content_policy({"style-src": source_hash(_style())})


def build_page(runs: Sequence[TrainingRun]) -> str:
    """The report as one HTML page.

    Args:
        runs: one, or several to compare.
    """
    names = [run.name for run in runs]
    title = f"aipo report: {', '.join(names)}"
    body = [
        f"<header><h1>Training report</h1><p>{_run_list(runs)}</p></header>",
        _section("final", "Final values", _final_table(runs)),
        _section("curves", "Curves", _curves(runs)),
    ]
    if histograms := make_histograms(runs):
        body.append(_section("coefficients", "Coefficients of helper tokens", _histograms(histograms, names)))
    body.append(_section("config", "Configuration", _config(runs)))
    body.append(
        _section("samples", "Transcripts", "".join(_samples(run, index, len(runs)) for index, run in enumerate(runs)))
    )
    sections = "".join(body)
    links = {
        "final": "Final values",
        "curves": "Curves",
        "coefficients": "Coefficients",
        "config": "Configuration",
        "samples": "Transcripts",
    }
    menu = "".join(f'<a href="#{name}">{text}</a>' for name, text in links.items() if f'id="{name}"' in sections)
    head = page_head(title, policy(), _style())
    return f'{head}<body>\n<nav aria-label="Sections">{menu}</nav>\n<main>\n{sections}\n</main>\n</body>\n</html>\n'


def _style() -> str:
    return (resources.files("algorithms.apps.report") / "style.css").read_text(encoding="utf-8")


def _section(name: str, title: str, inner: str) -> str:
    return f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>{inner}</section>\n'


def _key(index: int, num_runs: int) -> str:
    """The colour of a run in front of its name."""
    return f'<span class="key c{index % NUM_COLOURS}"></span>' if num_runs > 1 else ""


def _run_list(runs: Sequence[TrainingRun]) -> str:
    return "<br>".join(
        f"{_key(i, len(runs))}<b>{escape(run.name)}</b> <code>{escape(str(run.path))}</code>{_tracked(run)}"
        for i, run in enumerate(runs)
    )


def _tracked(run: TrainingRun) -> str:
    """Where else the run is shown: a link, or the command that shows it."""
    return "".join(
        f', <a href="{escape(where)}" rel="noreferrer">{escape(name)}</a>'
        if where.startswith(("https://", "http://"))
        else f", {escape(name)}: <code>{escape(where)}</code>"
        for name, where in run.tracked.items()
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML already."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    table = f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>'
    return f'<div class="wide" tabindex="0">{table}</div>'


def _heads(runs: Sequence[TrainingRun]) -> list[str]:
    return [f"{_key(i, len(runs))}{escape(run.name)}" for i, run in enumerate(runs)]


def _final_table(runs: Sequence[TrainingRun]) -> str:
    finals = [final_values(run) for run in runs]
    rows = [[escape(label), *(shown(final[label]) for final in finals)] for label in finals[0]]
    note = (
        "<p>Test accuracies: the evaluation before the first step, and the last one. The others: means over the last tenth of "
        "the steps, at least five.</p>"
    )
    return note + _table(["", *_heads(runs)], rows, "numbers")


def _curves(runs: Sequence[TrainingRun]) -> str:
    charts = make_charts(runs)
    if not charts:
        return "<p>No step is finished yet.</p>"
    return f'<div class="charts">{"".join(_chart(chart, [run.name for run in runs]) for chart in charts)}</div>'


def _chart(chart: Chart, names: Sequence[str]) -> str:
    legend = ""
    if len(chart.lines) > 1 or chart.unit == "share":  # a single helper has its name
        items = []
        for line in chart.lines:
            label = line.label if len(names) == 1 else f"{names[line.run]}: {line.label}"
            swatch = (
                f'<svg class="swatch" viewBox="0 0 26 8" aria-hidden="true"><g class="line {line_class(line, len(names))}">'
                '<polyline points="0,4 26,4"/></g></svg>'
            )
            items.append(f"<li>{swatch}{escape(label)}</li>")
        legend = f'<ul class="legend">{"".join(items)}</ul>'
    return (
        f"<figure><figcaption><h3>{escape(chart.title)}</h3><p>{escape(chart.note)}</p></figcaption>"
        f"{draw_chart(chart, names)}{legend}</figure>"
    )


def _histograms(histograms: Sequence[Histogram], names: Sequence[str]) -> str:
    figures = "".join(
        f"<figure><figcaption><h3>{_key(h.run, len(names))}{escape(names[h.run])}</h3></figcaption>"
        f"{draw_histogram(h, names[h.run])}</figure>"
        for h in histograms
    )
    edges = histograms[0].edges
    legend = "".join(
        f'<li><svg class="swatch" viewBox="0 0 26 8" aria-hidden="true"><rect class="b{i}" width="26" height="8"/></svg>'
        f"{escape(bin_label(edges, i))}</li>"
        for i in range(len(edges))
    )
    note = (
        "<p>Share of the helpers' tokens by the coefficient that weighs them in the loss, 0 outside of the trust region. "
        "Rollouts without an advantage, and runs that mask the replies, are left out.</p>"
    )
    return f'{note}<ul class="legend">{legend}</ul><div class="charts">{figures}</div>'


def _config(runs: Sequence[TrainingRun]) -> str:
    parts = []
    if len(runs) > 1:
        differences = config_differences(runs)
        rows = [[f"<code>{escape(n)}</code>", *(escape(v) for v in values)] for n, values in differences.items()]
        parts.append("<h3>What differs</h3>")
        parts.append(_table(["option", *_heads(runs)], rows) if rows else "<p>Nothing but the folder.</p>")
    names = sorted({name for run in runs for name in run.config})
    rows = [[f"<code>{escape(n)}</code>", *(escape(run.config.get(n, "-")) for run in runs)] for n in names]
    table = _table(["option", *_heads(runs)], rows)
    parts.append(f"<details{' open' if len(runs) == 1 else ''}><summary>All options</summary>{table}</details>")
    latest = [run.versions[-1] if run.versions else {} for run in runs]
    if any(latest):
        known = list(dict.fromkeys(name for row in latest for name in row if name != "step"))
        rows = [[escape(name), *(escape(row.get(name, "-")) for row in latest)] for name in known]
        parts.append("<h3>Versions</h3>" + _table(["", *_heads(runs)], rows))
        parts += [_resumed(run) for run in runs if len(run.versions) > 1]
    else:
        parts.append("<p>The versions were not noted by this run.</p>")
    return "".join(parts)


def _resumed(run: TrainingRun) -> str:
    """A word on the parts of a run that was resumed, and on the packages that changed meanwhile."""
    changed = sorted(
        name
        for name in {n for row in run.versions for n in row} - {"step", "started"}
        if len({row.get(name) for row in run.versions}) > 1
    )
    steps = ", ".join(row.get("step", "?") for row in run.versions[1:])
    words = f"{run.name} was resumed after step {steps}; the versions are those of its last part."
    if changed:
        words += f" Changed meanwhile: {', '.join(changed)}."
    return f"<p>{escape(words)}</p>"


def _samples(run: TrainingRun, index: int, num_runs: int) -> str:
    if not run.early:
        return f"<h3>{_key(index, num_runs)}{escape(run.name)}</h3><p>No trajectories were written (trace_every).</p>"
    columns = "".join(
        f"<div><h4>Step {escape(str(rows[0].metadata.get('step', '?')))}</h4>{''.join(map(_transcript, rows))}</div>"
        for rows in (run.early, run.late)
        if rows
    )
    return f'<h3>{_key(index, num_runs)}{escape(run.name)}</h3><div class="samples">{columns}</div>'


def _transcript(trajectory: Trajectory) -> str:
    right = trajectory.verdict == "correct"
    facts = [
        "with helpers" if trajectory.assisted else "self-help" if trajectory.self_help else "solo",
        f"{trajectory.num_consults} consult{'' if trajectory.num_consults == 1 else 's'}",
        f"reward {trajectory.reward:g}",
        trajectory.stop_reason,
    ]
    head = (
        f'<b class="{"right" if right else "wrong"}">{escape(trajectory.verdict or "no answer")}</b> '
        f"{escape(trajectory.task_id)} <small>{escape(', '.join(fact for fact in facts if fact))}</small>"
    )
    return f"<article><header>{head}</header>{''.join(map(_segment, trajectory.segments))}</article>"


def _segment(segment: Segment) -> str:
    if segment.withheld is not None:
        text = f"(withheld: {segment.num_tokens} tokens)"
    else:
        cut = len(segment.text) - _MAX_CHARS
        text = segment.text[:_MAX_CHARS] + (f"\n[{cut} further characters]" if cut > 0 else "")
    if not text:
        return ""
    who = segment.source.name.lower()
    label = f"{who}: {segment.agent}" if segment.agent and segment.source is Source.AGENT else who
    return f'<div class="segment {who}"><span>{escape(label)}</span><pre>{escape(text)}</pre></div>'
