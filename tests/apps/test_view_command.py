"""`aipo view` on what the other commands write."""

from __future__ import annotations

import base64
import gzip
import json
import re
import signal
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from aipo_env.errors import ConfigurationError, DataNotFoundError
from aipo_env.parsing import parse
from algorithms.train_config import SamplingConfig, TrainConfig
from algorithms.trainer import Trainer
from algorithms.view_command import run_info, view


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run of the embedded policy, two steps long."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    Trainer(
        TrainConfig(
            env_options={"prompt": "bare", "style": "terse"},
            steps=2,
            prompts_per_step=2,
            samples_per_prompt=4,
            trace_every=1,
            eval_tasks=1,
            eval_samples=1,
            sampling=SamplingConfig(max_tokens=48),
            out=out,
        )
    ).train()
    return out


def block(page: str, name: str) -> Any:
    found = re.search(f'id="{re.escape(name)}">([^<]*)<', page)
    assert found is not None
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


def test_a_training_run_with_its_tokens_and_advantages(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert view((run,)) == 0
    page = (run / "view.html").read_text()
    assert capsys.readouterr().out.startswith(f"{run / 'view.html'}: 16 trajectories, ")
    index = block(page, "index")
    assert index["columns"]["step"] == [1] * 8 + [2] * 8
    assert all(advantage is not None for advantage in index["columns"]["advantage"])
    assert index["runs"][0]["objective"]["agent_loss"] == "aipo"
    assert index["runs"][0]["notes"] == []
    texts, tokens = block(page, "texts-0.0"), block(page, "tokens-0.0")
    policy = [
        (segment, numbers)
        for row, facts in zip(texts["rows"], tokens["rows"], strict=True)
        for segment, numbers in zip(row, facts["segments"], strict=True)
        if segment[0] == 1
    ]
    assert policy
    for segment, numbers in policy:
        assert sum(numbers["lengths"]) == len(segment[1])
        assert len(numbers["logprobs"]) == numbers["n"]
    assert any("<eos>" in numbers["names"].values() for _, numbers in policy)


def test_its_options_on_a_command_line(run: Path, tmp_path: Path) -> None:
    arguments = [
        str(run),
        str(run / "traces.jsonl"),
        "--out",
        str(tmp_path / "x.html"),
        "--limit",
        "2",
        "--policy",
        "embedded",
    ]
    assert parse(view, arguments, "aipo view")() == 0
    assert len(block((tmp_path / "x.html").read_text(), "index")["runs"]) == 1  # named twice, shown once
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"]
    assert scripts["aipo.commands"]["view"] == "algorithms.view_command:view"


def test_another_place_and_fewer(run: Path, tmp_path: Path) -> None:
    assert view((run / "traces.jsonl",), out=tmp_path / "deep" / "page.html", limit=3) == 0
    assert len(block((tmp_path / "deep" / "page.html").read_text(), "index")["columns"]["step"]) == 3
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["page.html"]


def test_what_is_missing_is_told(run: Path, tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    traces.write_bytes((run / "traces.jsonl").read_bytes())
    info = run_info(traces)
    assert (info.reader, info.learner, info.notes) == (None, None, ())
    assert run_info(traces, "embedded").reader is not None
    (tmp_path / "config.json").write_text('{"cut')
    assert any("config.json is not JSON" in note for note in run_info(traces).notes)
    (tmp_path / "config.json").unlink()
    assert "no tokenizer 'nowhere/at-all'" in run_info(traces, "nowhere/at-all").notes[0]


def test_mistakes(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="name at least one run"):
        view(())
    with pytest.raises(ConfigurationError, match="--limit must be at least 1, got 0"):
        view((run,), limit=0)
    with pytest.raises(ConfigurationError, match="--out names a page"):
        view((run,), out=tmp_path / "x.html", serve=True)
    with pytest.raises(DataNotFoundError, match="no traces in"):
        view((tmp_path,))


def test_serving_until_ctrl_c(run: Path) -> None:
    """As a user does it: a process of its own, and Ctrl-C."""
    program = "import sys; from pathlib import Path; from algorithms.view_command import view; sys.exit(view((Path(sys.argv[1]),), serve=True, port=0))"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"16 trajectories at (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)", line)
        assert found is not None, line
        with urllib.request.urlopen(found[1], timeout=20) as answer:
            assert b"aipo view: mine" in answer.read()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.wait()
