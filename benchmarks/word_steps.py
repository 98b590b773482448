"""Fits the weights of `aipo_agents.word_steps` on half of GSM8K's problems; `benchmarks.helpers` reports the other half.

A softmax over the calculations of a problem; those whose result stands among the marked results of its solution are right.
Weights close to zero are dropped and the rest fitted again. `--data` (or AIPO_DATA) as in `benchmarks.helpers`.
"""

from __future__ import annotations

import collections
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from aipo_agents import word_steps
from benchmarks.helpers import MARK, Settings, exact, read_rows

DATA = Path(word_steps.__file__).with_name("word_steps.json")
MIN_COUNT, MIN_WEIGHT, PENALTY, STEPS, RATE = 15, 0.15, 5.0, 400, 0.05

Problems = list[list[tuple[bool, frozenset[str]]]]


def problems(settings: Settings) -> Problems:
    """For each problem that has a right candidate: whether each is right, and its features."""
    found: Problems = []
    for row in read_rows(settings, "gsm8k"):
        results = {exact(result) for _, result in MARK.findall(row["answer"])}
        rows = [
            (c.value in results, c.features) for c in word_steps.candidates(word_steps.normal_form(row["question"]))
        ]
        if any(right for right, _ in rows):
            found.append(rows)
    return found


def fit(data: Problems, names: Sequence[str]) -> dict[str, float]:
    """The weights of the named features, by Adam on the likelihood of the right candidates with a squared penalty."""
    place = {name: k for k, name in enumerate(names)}
    rows = [row for group in data for row in group]
    x = np.zeros((len(rows), len(names)), dtype=np.float32)
    for k, (_, features) in enumerate(rows):
        x[k, [place[name] for name in features if name in place]] = 1
    right = np.array([row[0] for row in rows], dtype=float)
    group = np.repeat(np.arange(len(data)), [len(rows) for rows in data])
    start = np.searchsorted(group, np.arange(len(data)))
    weights, mean, square = (np.zeros(len(names)) for _ in range(3))
    for step in range(1, STEPS + 1):
        score = x @ weights
        share = np.exp(score - np.maximum.reduceat(score, start)[group])
        wanted = share * right
        share /= np.add.reduceat(share, start)[group]
        wanted /= np.add.reduceat(wanted, start)[group]
        gradient = (x.T @ (wanted - share) - PENALTY * weights) / len(data)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        weights += RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
    return {name: round(float(weight), 2) for name, weight in zip(names, weights, strict=True)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Fits and writes the weights."""
    data = problems(tyro.cli(Settings, args=arguments, default=Settings(half="dev")))
    counts = collections.Counter(name for group in data for _, features in group for name in features)
    first = fit(data, sorted(name for name, count in counts.items() if count >= MIN_COUNT))
    weights = fit(data, [name for name, weight in first.items() if abs(weight) >= MIN_WEIGHT])
    DATA.write_text(json.dumps(weights, indent=0) + "\n", encoding="utf-8")
    print(f"{len(weights)} weights from {len(data)} problems are in {DATA}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
