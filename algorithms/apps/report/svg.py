"""Figures as SVG text: classes for every colour, so that the page's style decides them in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Sequence

from algorithms.apps.html_pages import escape
from algorithms.apps.report.charts import Chart, Histogram, Line
from algorithms.apps.report.summary import shown

NUM_COLOURS = 8
NUM_DASHES = 5
_WIDTH, _HEIGHT = 400, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 42


def line_class(line: Line, num_runs: int) -> str:
    """One run: a colour for each curve. Several: a colour for each run, and a dash for each curve."""
    if num_runs == 1:
        return f"c{line.series % NUM_COLOURS} d0"
    return f"c{line.run % NUM_COLOURS} d{line.series % NUM_DASHES}"


def draw_chart(chart: Chart, names: Sequence[str]) -> str:
    """The figure of a chart.

    Args:
        chart: what is drawn.
        names: of the runs.
    """
    xs = [x for line in chart.lines for x, _ in line.points]
    ys = [y for line in chart.lines for _, y in line.points]
    y_ticks = nice_ticks(0.0, 1.0) if chart.unit == "share" else nice_ticks(min(0.0, *ys), max(ys))
    x_low, x_high = _x_range(xs)
    scale = _Scale(x_low, x_high, y_ticks[0], y_ticks[-1])
    parts = [_axes(scale, y_ticks, percent=chart.unit == "share")]
    for line in chart.lines:
        label = line.label if len(names) == 1 else f"{names[line.run]}: {line.label}"
        path = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in line.points)
        dots = "".join(
            f'<circle cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="{2.5 if len(line.points) <= 40 else 1.2}">'
            f"<title>{escape(label)}, step {x:g}: {shown(y)}</title></circle>"
            for x, y in line.points
        )
        parts.append(f'<g class="line {line_class(line, len(names))}"><polyline points="{path}"/>{dots}</g>')
    return _figure("".join(parts), chart.title)


def draw_histogram(histogram: Histogram, name: str) -> str:
    """Stacked bars: for each step the share of each bin, the small coefficients below."""
    steps = histogram.steps
    x_low, x_high = _x_range(steps)
    half = (x_high - x_low) / max(1, len(steps) - 1) / 2 if len(steps) > 1 else 0.5
    scale = _Scale(x_low - half, x_high + half, 0.0, 1.0)
    width = max(1.0, (scale.x(x_low + 2 * half) - scale.x(x_low)) - 1)
    parts = [_axes(scale, nice_ticks(0.0, 1.0), percent=True)]
    for step, shares in zip(steps, histogram.shares, strict=True):
        bottom = 0.0
        for index, share in enumerate(shares):
            if share > 0:
                top = min(1.0, bottom + share)
                parts.append(
                    f'<rect class="b{index}" x="{scale.x(step) - width / 2:.1f}" y="{scale.y(top):.1f}" width="{width:.1f}" '
                    f'height="{scale.y(bottom) - scale.y(top):.1f}"><title>step {step:g}: {share:.1%} '
                    f"{escape(bin_label(histogram.edges, index))}</title></rect>"
                )
                bottom = top
    return _figure("".join(parts), f"Coefficients of helper tokens, {name}")


def bin_label(edges: Sequence[float], index: int) -> str:
    """A bin in words."""
    return f"{edges[index]:g} to {edges[index + 1]:g}" if index + 1 < len(edges) else f"{edges[index]:g} and more"


def nice_ticks(low: float, high: float) -> list[float]:
    """Four to six or so round numbers, the first at most `low`, the last at least `high`."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


class _Scale:
    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self.x_low, self.x_high, self.y_low, self.y_high = x_low, x_high, y_low, y_high

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (_HEIGHT - _TOP - _BOTTOM)


def _x_range(xs: Sequence[float]) -> tuple[float, float]:
    low, high = min(xs), max(xs)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _axes(scale: _Scale, y_ticks: Sequence[float], *, percent: bool) -> str:
    parts = []
    for tick in y_ticks:
        y, text = scale.y(tick), f"{tick:.0%}" if percent else _short(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    ticks = [x for x in nice_ticks(scale.x_low, scale.x_high) if scale.x_low <= x <= scale.x_high]
    if ticks and ticks[0] - scale.x_low > 0.15 * (scale.x_high - scale.x_low):
        ticks.insert(0, scale.x_low)
    for tick in ticks:
        if tick == int(tick):  # a step is a whole number
            x = scale.x(tick)
            # The last number ends where the figure does.
            x, anchor = (x, "middle") if x < _WIDTH - 3 * _RIGHT else (_WIDTH - 2.0, "end")
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="{anchor}">{_short(tick)}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 3}" text-anchor="middle">step</text>')
    return "".join(parts)


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / min(size, 1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:.6g}"


def _figure(inner: str, title: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{inner}</svg>'
