"""docs/objective.md agrees with the code: tables, names of tests, the example."""

import math
import re
from pathlib import Path

import pytest
import torch

from aipo_env.trajectory import Source
from algorithms.config import AGENT_LOSS_FIELDS, PRESETS, ObjectiveConfig
from algorithms.objective import _AGENT_COEFFICIENTS, Normalizer, objective_loss

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "objective.md").read_text(encoding="utf-8")


def table_below(marker: str) -> list[list[str]]:
    """The cells of the table's body that follows `marker`."""
    lines = TEXT[TEXT.index(marker) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.mark.parametrize("row", table_below("<!-- coefficients -->"), ids=lambda row: row[0])
def test_table_of_coefficients(row):
    label, *cells = row
    c_min = re.search(r"c_min ([\d.]+)", label)
    mu = re.search(r"mu ([\d.]+)", label)
    config = ObjectiveConfig(agent_loss=label.split("`")[1], **({"c_min": float(c_min.group(1))} if c_min else {}))
    advantage = -1.0 if "A < 0" in label else 1.0
    for pi, cell in zip((1e-4, 0.01, 0.1, 0.9), cells, strict=True):
        logprobs_T = torch.tensor([math.log(pi)], dtype=torch.float64, requires_grad=True)
        output = objective_loss(
            logprobs_T,
            None,
            torch.tensor([advantage], dtype=torch.float64),
            torch.tensor([int(Source.AGENT)]),
            torch.tensor([math.log(float(mu.group(1)) if mu else 1.0)], dtype=torch.float64),
            torch.tensor([0]),
            config,
            normalizer=Normalizer(1, 1, 1),
        )
        (gradient,) = torch.autograd.grad(output.loss + 0 * logprobs_T.sum(), logprobs_T)
        assert f"{abs(float(gradient)):.3g}" == cell


def test_table_of_presets():
    rows = {row[0].split("`")[1]: row[1:6] for row in table_below("### The POLICY term")}
    assert rows.keys() == PRESETS.keys()
    for name, rule in PRESETS.items():
        advantage, ratio, surrogate, clip, aggregation = (cell.strip("`") for cell in rows[name])
        assert (advantage, ratio, surrogate) == (rule.advantage, rule.ratio, rule.surrogate)
        assert [float(x) for x in clip.split("/")] == [rule.clip_low, rule.clip_high]
        assert aggregation == rule.aggregation


def test_table_of_variants():
    rows = {row[0].strip("`"): row[3] for row in table_below("## 6. The variants")}
    built_in = {name: fields for name, fields in AGENT_LOSS_FIELDS.items() if name in rows}
    assert rows.keys() == built_in.keys()
    assert {name for name, cell in rows.items() if cell == "yes"} == {n for n, f in built_in.items() if "delta" in f}


def test_named_tests_exist():
    code = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    names = re.findall(r"`(test_\w+\*?)`", TEXT)
    assert len(names) > 10
    for name in names:
        assert f"def {name.rstrip('*')}" in code, name


def test_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    try:
        exec(example, {"__name__": "example"})  # noqa: S102 - our own documentation
        assert "square_root" in _AGENT_COEFFICIENTS
    finally:
        AGENT_LOSS_FIELDS.pop("square_root", None)
        _AGENT_COEFFICIENTS.pop("square_root", None)
