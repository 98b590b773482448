"""Trackers, through their own libraries where these are installed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from aipo_env import Source, Trajectory, read_traces
from aipo_env.errors import ConfigurationError, MissingDependencyError, UnknownIdError
from algorithms.trackers import TRACKERS, open_trackers
from algorithms.versions import note_versions

WRITE = """
import json, sys
from pathlib import Path
from algorithms.trackers import TRACKERS, open_trackers
from aipo_env import Segment, Source, Trajectory
def episode(**more):
    parts = [(Source.PROMPT, "3+4=", ""), (Source.POLICY, "<consult", ""), (Source.POLICY, ">add</consult>", "")]
    parts += [(Source.TEMPLATE, "<feedback>", "verify"), (Source.AGENT, "seven", "verify"), (Source.TEMPLATE, "</feedback>", "")]
    parts += [(Source.POLICY, "\\\\boxed{7}", "")]
    segments = [Segment(source, text, agent=agent) for source, text, agent in parts]
    return Trajectory("e", "t/1", segments, reward=1.0, verdict="correct", num_consults=1, **more)
with open_trackers([sys.argv[1]], Path(sys.argv[2]), 0, {"seed": 3, "out": Path("x"), "objective": {"c_max": 2.0}}) as trackers:
    for step in (1, 2, 3):
        for tracker in trackers:
            if step == 2:
                tracker.log_traces(step, [episode(), episode(confidential=True, sample=1)])
            tracker.log(step, {"step": step, "reward": step / 4, "train/solo_accuracy": 0.5})
"""
READ_WANDB = """
import json, struct, sys
from pathlib import Path
from wandb.proto.wandb_internal_pb2 import Record
(path,) = Path(sys.argv[2]).glob("wandb/offline-run-*/*.wandb")
data, position, parts, rows, name, config = path.read_bytes(), 7, [], [], None, {}
while position + 7 <= len(data):  # LevelDB's log format behind a header of 7 bytes
    left = 32768 - position % 32768
    if left < 7:
        position += left
        continue
    _, length, kind = struct.unpack("<IHB", data[position : position + 7])
    parts.append(data[position + 7 : position + 7 + length])
    position += 7 + length
    if kind in (1, 4):  # a whole record, or the last part of one
        record, parts = Record.FromString(b"".join(parts)), []
        if record.HasField("history"):
            rows.append({(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item})
        if record.HasField("run"):
            name = record.run.display_name
            config |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
(table,) = Path(sys.argv[2]).glob("wandb/offline-run-*/files/media/table/traces*.json")
table = json.loads(table.read_text())
traces = [dict(zip(table["columns"], values)) for values in table["data"]]
traces = [(t["task"], t["sample"], t["mode"], t["verdict"], t["episode"]) for t in traces]
print(json.dumps({"name": name, "config": config, "rows": rows, "traces": traces}))
"""
READ_TRACKIO = """
import json
from trackio.sqlite_storage import SQLiteStorage
(name,) = SQLiteStorage.get_runs("aipo")
rows = SQLiteStorage.get_logs("aipo", name)
traces = sorted(SQLiteStorage.get_traces("aipo", name), key=lambda trace: trace["index"])
said = ["\\n\\n".join(f"[{m.get('name', m['role'])}] {m['content']}" for m in trace["messages"]) for trace in traces]
facts = [trace["metadata"] for trace in traces]
traces = [(f["task"], f["sample"], f["mode"], f["verdict"], text) for f, text in zip(facts, said)]
rows = [row for row in rows if "reward" in row]
print(json.dumps({"name": name, "config": SQLiteStorage.get_run_config("aipo", name), "rows": rows, "traces": traces}))
"""


@pytest.mark.parametrize(("name", "read"), [("wandb", READ_WANDB), ("trackio", READ_TRACKIO)])
def test_a_library_keeps_the_metrics_on_this_machine(tmp_path: Path, name: str, read: str) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    out = tmp_path / "mine"
    out.mkdir()
    dead = "http://127.0.0.1:9"  # whatever asks a server fails
    environment = os.environ | {
        "WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1",
        "HOME": str(tmp_path), "HTTP_PROXY": dead, "HTTPS_PROXY": dead, "NO_PROXY": "127.0.0.1,localhost",
    }  # fmt: skip
    said = []
    for code in (WRITE, read):
        done = subprocess.run(
            [sys.executable, "-c", code, name, str(out)], env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
        assert "Warning" not in done.stderr
    assert said[0] == ""  # standard output is for results
    where = json.loads((out / "trackers.json").read_text())[name]
    assert where.startswith(
        "trackio show --project aipo" if name == "trackio" else f"wandb sync {out}/wandb/offline-run-"
    )
    told = json.loads(said[1].splitlines()[-1])
    assert told["name"] == "mine"
    assert {"seed": 3, "out": "x", "objective": {"c_max": 2.0}}.items() <= told["config"].items()
    assert [row["reward"] for row in told["rows"]] == [0.25, 0.5, 0.75]
    assert [row["train/solo_accuracy"] for row in told["rows"]] == [0.5] * 3
    assert [row.get("_step", row["step"]) for row in told["rows"]] == [1, 2, 3]
    shown, hidden = told["traces"]
    episode = "[user] 3+4=\n\n[assistant] <consult>add</consult><feedback>\n\n[verify] seven</feedback>\n\n[assistant] \\boxed{7}"
    assert shown == ["t/1", 0, "assisted", "correct", episode]
    assert hidden[:4] == ["t/1", 1, "assisted", "correct"]
    assert "(5 characters withheld)" in hidden[4]
    assert not any(text in hidden[4] for text in ("3+4", "add", "seven", "7"))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_is_a_further_one_by_the_name_of_its_folder(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, rows = [], []

    class Run:
        url = "https://here"

        def log(self, row: dict[str, float], step: int) -> None:
            rows.append((step, row))

    def init(**options: object) -> Run:
        named.append((options["name"], options.get("group")))
        return Run()

    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(init=init))  # type: ignore[arg-type]
    for step in (0, 3):
        TRACKERS[name](tmp_path / "mine", step, {}).log(step + 1, {"reward": 1.0})
    group = "mine" if name == "wandb" else None
    assert named == [("mine", group), ("mine-from-3", group)]
    assert rows == [(1, {"reward": 1.0}), (4, {"reward": 1.0})]


def test_tensorboard_replaces_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the extra 'train' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, value in ((0, 1.0), (1, 2.0)):
        with open_trackers(["tensorboard"], tmp_path, done, {}) as trackers:
            for step in range(done + 1, 4):
                trackers[0].log(step, {"reward": value})
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("reward")] == [(1, 1.0), (2, 2.0), (3, 2.0)]
    where = {"tensorboard": f"tensorboard --logdir {shlex.quote(str(tmp_path / 'tensorboard'))}"}
    assert json.loads((tmp_path / "trackers.json").read_text()) == where


def test_no_tracker_is_fine(tmp_path: Path) -> None:
    with open_trackers([], tmp_path, 0, {}) as trackers:
        assert list(trackers) == []
    assert list(tmp_path.iterdir()) == []


def test_wrong_names(tmp_path: Path) -> None:
    with (
        pytest.raises(UnknownIdError, match=r"unknown tracker 'wandbb'.*'wandb'"),
        open_trackers(["wandbb"], tmp_path, 0, {}),
    ):
        pass
    with pytest.raises(ConfigurationError, match="once"), open_trackers(["wandb", "wandb"], tmp_path, 0, {}):
        pass


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_library_that_is_not_installed_is_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as the import system marks what cannot be imported
    with pytest.raises(MissingDependencyError, match=f"pip install {name}"), open_trackers([name], tmp_path, 0, {}):
        pass


def test_versions_of_each_part_of_a_run(tmp_path: Path) -> None:
    for step in (0, 0, 5):
        note_versions(tmp_path, step)
    rows = [json.loads(line) for line in (tmp_path / "versions.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 5]
    assert rows[0]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"aipo-rl", "numpy", "started", "platform"} <= rows[0].keys()


class Noted:
    """Keeps what it is told."""

    rows: list[tuple[int, dict[str, float]]] = []  # noqa: RUF012
    traced: list[tuple[int, int]] = []  # noqa: RUF012
    closed = 0

    def __init__(self, out: Path, step: int, config: object) -> None:
        self.first = step

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.rows.append((step, dict(metrics)))

    def log_traces(self, step: int, trajectories: Sequence[Trajectory]) -> None:
        self.traced.append((step, len(trajectories)))

    def close(self) -> None:
        Noted.closed += 1


def test_the_trainer_tells_each_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the extra 'train' is not installed")
    from tests.algorithms.test_trainer import make

    monkeypatch.setitem(TRACKERS, "noted", Noted)
    make(tmp_path).train(trackers=["noted"])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert Noted.rows == [(row["step"], row) for row in rows]
    assert Noted.closed == 1
    assert Noted.traced == sorted(Counter(t.metadata["step"] for t in read_traces(tmp_path / "traces.jsonl")).items())
    assert Noted.traced[0][0] == 1
    assert not (tmp_path / "tensorboard").exists()
    assert not (tmp_path / "trackers.json").exists()  # it does not say where
    assert (tmp_path / "versions.jsonl").exists()
    traces = [t for t in read_traces(tmp_path / "traces.jsonl") if t.metadata["step"] == 1]
    logprobs = [x for t in traces for s in t.segments if s.source is Source.POLICY for x in s.logprobs]
    assert rows[1]["policy/entropy"] == pytest.approx(-sum(logprobs) / len(logprobs))
    bins = [[v for n, v in row.items() if n.startswith("agent/coefficient_from/")] for row in rows]
    assert any(bins)
    assert all(sum(shares) == pytest.approx(1) for shares in bins if shares)
