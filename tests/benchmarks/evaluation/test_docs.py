"""What docs/evaluation.md says is so; its commands are parsed by tests/docs/test_pages.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import commands
from benchmarks.evaluation import SUITES

DOCS = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_table_shows_the_defaults() -> None:
    for name, suite in SUITES.items():
        (row,) = [line for line in DOCS.splitlines() if line.startswith("| `") and f"`{name}`" in line.split("|")[1]]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        temperature, top_p = float(cells[3].split()[0]), float(cells[4])
        shown = (int(cells[2]), temperature, top_p, int(cells[5].replace(",", "")))
        assert shown == (suite.num_samples, suite.temperature, suite.top_p, suite.max_tokens), name
        assert cells[6] == ", ".join(suite.breakdowns), name


def test_every_option_that_is_named_exists() -> None:
    known = {parameter.replace("_", "-") for parameter in commands.EvaluationConfig.__dataclass_fields__}
    assert set(re.findall(r"--([a-z]+(?:-[a-z]+)*)", DOCS)) - known == {"help", "max-model-len"}


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL):
        exec(compile(block, "evaluation.md", "exec"), names)  # noqa: S102
    printed = capsys.readouterr().out
    assert re.match(r"rulebook solo \{'n': 4, 'estimate': .*\} True\n", printed)
    solo, assisted = re.findall(r"- dataset:\n    id: my-org/rulebook\n    task_id: default\n((?:  .*\n)+)", printed)
    assert "notes" not in solo
    assert "notes: 'with helpers: verify, knowledge, reasoning'" in assisted
