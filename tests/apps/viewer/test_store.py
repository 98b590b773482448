"""The list and the chunks that the viewer makes of files of traces, and how it follows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aipo_env import Segment, Source, Trajectory, write_traces
from aipo_env.advantages import ScoredRollout
from aipo_env.errors import DataFormatError, DataNotFoundError
from algorithms.apps.viewer import RunInfo, TokenReader, TraceStore
from algorithms.apps.viewer.store import CHUNK
from algorithms.token_facts import LOGPROBS_KEY, Coefficients
from tests.apps.viewer.scripted import WordCodec, play

SEGMENTS = [
    Segment(Source.PROMPT, "2+2=", (1, 2)),
    Segment(Source.POLICY, "ask", (3, 9), (-0.25, -1.5)),
    Segment(Source.AGENT, "four", (4, 5), (0.0, 0.0), agent="verify"),
    Segment(Source.AGENT, "4!", (6,), (-0.7,), agent="mine", mu_known=True),
    Segment(Source.TEMPLATE, "", (7,)),
]


def trajectory(sample: int = 0, **values: object) -> Trajectory:
    whole: dict[str, object] = {
        "reward": 0.5,
        "verdict": "correct",
        "stop_reason": "answer",
        "num_consults": 2,
        "sample": sample,
    }
    metadata = {"step": 3, "level": 2, **values.pop("metadata", {})}  # type: ignore[dict-item]
    return Trajectory("env", "task", list(SEGMENTS), metadata=metadata, **{**whole, **values})  # type: ignore[arg-type]


class Halves:
    """A learner that weighs whole steps of two samples."""

    facts = {"agent_loss": "aipo"}  # noqa: RUF012

    def advantages(self, samples: list[ScoredRollout]) -> list[tuple[float, float]] | None:
        return None if len(samples) != 2 else [(s.reward, -s.reward) for s in samples]

    def coefficients(self, mu: object, logprobs: object, advantage: float) -> Coefficients:
        count = len(mu)  # type: ignore[arg-type]
        return Coefficients((advantage,) * count, (1.0,) * count, "f" * count)


def test_the_list_and_the_bodies(tmp_path: Path) -> None:
    traces = tmp_path / "run" / "traces.jsonl"
    write_traces(
        traces, [trajectory(), trajectory(1, reward=float("nan"), metadata={LOGPROBS_KEY: [-1.0, -2.0, -3.0]})]
    )
    names = {3: "ask", 9: "", 4: "fo", 5: "ur", 6: "4!", 7: ""}
    reader = TokenReader(lambda ids: "".join(names[i] for i in ids), lambda i: f"<{i}>")
    store = TraceStore([tmp_path], lambda path: RunInfo(reader, Halves()))
    index = json.loads(json.dumps(store.index(), allow_nan=False))
    columns, strings = index["columns"], index["strings"]
    assert columns["reward"] == [0.5, "nan"]
    assert (columns["step"], columns["policy"], columns["agent"]) == ([3, 3], [2, 2], [3, 3])
    assert [strings[i] for i in columns["agents"][0]] == ["verify", "mine"]
    assert strings[columns["level"][0]] == "2"
    assert columns["advantage"][0], columns["agent_advantage"][0] == (0.5, -0.5)
    assert index["runs"][0]["name"] == f"{tmp_path.name}/run"
    [(name, texts, tokens)] = store.chunks()
    assert name == "0.0"
    assert texts["prompts"] == ["2+2="]  # once for all samples
    assert texts["rows"][0][:3] == [[0, 0, ""], [1, "ask", ""], [2, "four", "verify"]]  # type: ignore[index]
    first, second = tokens["rows"]  # type: ignore[misc]
    prompt, policy, helper, known, template = first["segments"]
    assert prompt == {"n": 2}
    assert policy == {"n": 2, "ids": [3, 9], "lengths": [3, 0], "names": {9: "<9>"}, "logprobs": [-2500, -15000]}
    assert "logprobs" not in helper  # mu = 1 is no measurement
    assert (helper["mu_known"], helper["low"], helper["high"], helper["states"]) == (False, -0.5, 1.0, "ff")
    assert (known["mu_known"], known["logprobs"]) == (True, [-7000])
    assert template["names"] == {7: "<7>"}
    assert [s.get("pi") for s in second["segments"]] == [None, None, [-10000, -20000], [-30000], None]
    assert LOGPROBS_KEY not in second["metadata"]


def test_a_growing_file_is_followed(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    write_traces(traces, [trajectory()])
    store = TraceStore([tmp_path], lambda path: RunInfo(None, Halves()))
    key = store.files[0].key(0)
    assert store.files[0].rows[0].advantages is None  # the step is not whole
    assert not store.refresh()
    with traces.open("a") as file:
        file.write(json.dumps(trajectory(1).to_json())[:40])
        file.flush()
        assert not store.refresh()  # the line is being written
        file.write(json.dumps(trajectory(1).to_json())[40:] + "\n")
    assert store.refresh()
    assert [row.advantages for row in store.files[0].rows] == [(0.5, -0.5)] * 2
    assert store.files[0].key(0) != key
    write_traces(tmp_path / "later" / "traces.jsonl", [trajectory()])
    assert store.refresh()
    assert [file.run.name for file in store.files] == [tmp_path.name, f"{tmp_path.name}/later"]


def test_a_file_that_is_cut_or_written_anew_is_read_again(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    write_traces(traces, [trajectory(i) for i in range(3)])
    store = TraceStore([tmp_path])
    lines = traces.read_text().splitlines(keepends=True)
    traces.write_text("".join(lines[:2]))
    assert store.refresh()
    assert [row.sample for row in store.files[0].rows] == [0, 1]
    # Of the same length, but another run.
    traces.write_text("".join(lines[:2]).replace('"sample":1', '"sample":8'))
    assert store.refresh()
    assert [row.sample for row in store.files[0].rows] == [0, 8]
    traces.unlink()
    assert store.refresh()
    assert store.num_rows == 0
    write_traces(traces, [trajectory(5)])
    assert store.refresh()
    assert [row.sample for row in store.files[0].rows] == [5]


def test_a_limit_keeps_the_newest(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    write_traces(traces, [trajectory(i) for i in range(CHUNK + 10)])
    store = TraceStore([traces], limit=20)
    assert store.num_rows == 20
    chunks = list(store.chunks())
    assert [(name, texts["first"], len(texts["rows"])) for name, texts, _ in chunks] == [  # type: ignore[arg-type]
        ("0.0", CHUNK - 10, 10),
        ("0.1", CHUNK, 10),
    ]
    assert [name for name, *_ in TraceStore([traces], limit=5).chunks()] == ["0.1"]
    assert TraceStore([traces]).index()["columns"]["sample"] == list(range(CHUNK + 10))  # type: ignore[index]


def test_damage_is_told_with_its_line(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    write_traces(traces, [trajectory()])
    with traces.open("a") as file:
        file.write("{}\n")
    with pytest.raises(DataFormatError, match=r"traces\.jsonl, line 2 is not a trajectory"):
        TraceStore([traces])
    with pytest.raises(DataNotFoundError):
        TraceStore([tmp_path / "nothing"])


def test_confidential_texts_never_reach_the_page(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    secret = trajectory(confidential=True, metadata={"error": "ServiceError: 2+2= what", LOGPROBS_KEY: [-1.0] * 3})
    traces.write_text(json.dumps(secret.to_json()) + "\n")
    store = TraceStore([traces], lambda path: RunInfo(None, Halves()))
    everything = json.dumps([store.index(), list(store.chunks())])
    assert "2+2" not in everything
    assert "four" not in everything
    assert "ServiceError: (withheld)" in everything
    [(_, texts, tokens)] = store.chunks()
    assert texts["rows"] == [
        [[0, None, "", 4], [1, None, "", 3], [2, None, "verify", 4], [2, None, "mine", 2], [3, None, "", 0]]
    ]
    assert tokens["rows"][0]["segments"][1] == {"n": 2}  # type: ignore[index]


def test_real_episodes_with_their_faults(tmp_path: Path) -> None:
    codec = WordCodec()
    play(tmp_path, codec, 20, 4, faults_from=0)
    store = TraceStore([tmp_path], lambda path: RunInfo(TokenReader(codec.decode, codec.name)))
    assert [file.run.faults for file in store.files] == [False, True]
    assert store.num_rows == 80
    assert all(row.error for row in store.files[1].rows)
    for _, texts, tokens in store.chunks():
        for row, facts in zip(texts["rows"], tokens["rows"], strict=True):  # type: ignore[call-overload]
            for segment, numbers in zip(row, facts["segments"], strict=True):
                if segment[0] == Source.POLICY:  # every token of the policy has its piece and its number
                    assert sum(numbers["lengths"]) == len(segment[1])
                    assert len(numbers["logprobs"]) == numbers["n"] == len(numbers["lengths"])
