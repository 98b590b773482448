from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo_env import Segment, Source, TraceWriter, Trajectory, read_traces, write_traces
from aipo_env.errors import DataFormatError
from aipo_env.trajectory import numbered_traces


def make_trajectory(task_id: str = "t/1") -> Trajectory:
    return Trajectory(
        env_id="rulebook-consult",
        task_id=task_id,
        segments=[
            Segment(Source.PROMPT, "47@12=", (1, 2)),
            Segment(Source.POLICY, "ask", (3, 4), (-0.5, -1.25)),
            Segment(Source.AGENT, "reply é数", (5,), (0.0,), agent="knowledge"),
            Segment(Source.TEMPLATE, "notice", (6, 7), agent="verify"),
        ],
        reward=1.0,
        reward_parts={"correct": 1.0},
        stop_reason="answer",
        verdict="correct",
        num_consults=1,
        seed=3,
        metadata={"level": 2},
    )


def test_ids_sources_and_logprobs_line_up() -> None:
    trajectory = make_trajectory()
    assert trajectory.token_ids == [1, 2, 3, 4, 5, 6, 7]
    assert [s.name[0] for s in trajectory.sources] == ["P", "P", "P", "P", "A", "T", "T"]
    assert trajectory.logprobs == [0.0, 0.0, -0.5, -1.25, 0.0, 0.0, 0.0]
    assert trajectory.count(Source.POLICY) == 2
    assert trajectory.text == "47@12=askreply é数notice"


segments = st.builds(
    lambda source, text, pairs, agent, known: Segment(
        source, text, tuple(i for i, _ in pairs), tuple(x for _, x in pairs), agent, known
    ),
    st.sampled_from(Source),
    st.text(st.characters(exclude_categories=("Cs",))),
    st.lists(st.tuples(st.integers(0, 200_000), st.floats(-100, 0)), max_size=5),
    st.sampled_from(["", "verify"]),
    st.booleans(),
)


@given(st.lists(segments, max_size=5))
def test_json_round_trip(parts: list[Segment]) -> None:
    trajectory = Trajectory("e", "t", parts, reward=0.1, metadata={"a": [1, None]})
    assert Trajectory.from_json(trajectory.to_json()) == trajectory


def test_files_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "traces.jsonl"
    write_traces(path, [make_trajectory("a"), make_trajectory("b")])
    write_traces(path, [make_trajectory("c")])
    assert [t.task_id for t in read_traces(path)] == ["a", "b", "c"]
    assert next(read_traces(path)) == make_trajectory("a")


@pytest.mark.parametrize("cut", [1, 20, 300])
def test_a_half_written_last_line_loses_only_that_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "traces.jsonl"
    write_traces(path, [make_trajectory("a"), make_trajectory("b")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert next(read_traces(path)).task_id == "a"
    with TraceWriter(path) as writer:
        writer.write(make_trajectory("c"))
    assert [t.task_id for t in read_traces(path)] == ["a", "c"]


def test_a_file_of_nothing_but_a_cut_line_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_text('{"env_id"')
    assert list(read_traces(path)) == []
    with TraceWriter(path) as writer:
        writer.write(make_trajectory("c"))
    assert [t.task_id for t in read_traces(path)] == ["c"]


def test_damage_elsewhere_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    write_traces(path, [make_trajectory("a")])
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(DataFormatError, match=r"traces\.jsonl, line 1"):
        list(read_traces(path))


@pytest.mark.parametrize(
    "row",
    [
        {"env_id": "e", "task_id": "t", "segments": 5},
        {"env_id": "e", "task_id": "t", "segments": [{"text": "x"}]},
        {"env_id": "e", "task_id": "t", "segments": [{"source": "nobody", "text": "x"}]},
        {"env_id": "e", "task_id": "t", "segments": [], "from_the_future": 1},
    ],
)
def test_rows_that_are_no_trajectories(row: dict[str, object]) -> None:
    with pytest.raises(DataFormatError):
        Trajectory.from_json(row)


def test_logprobs_must_match_ids() -> None:
    with pytest.raises(DataFormatError, match="2 ids came with 1"):
        Segment(Source.POLICY, "x", (1, 2), (0.0,))


def test_a_lone_surrogate_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    write_traces(path, [Trajectory("e", "t", [Segment(Source.AGENT, "a\ud800b∑", agent="verify")])])
    assert [t.text for t in read_traces(path)] == ["a\ud800b∑"]


def test_a_last_line_that_was_cut_inside_a_character_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    write_traces(path, [Trajectory("e", str(i), [Segment(Source.PROMPT, "∑∑")]) for i in range(2)])
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex("∑".encode()) + 1])
    assert [t.task_id for t in read_traces(path)] == ["0"]


def test_a_last_line_without_newline_counts_where_nothing_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    write_traces(path, [make_trajectory("a"), make_trajectory("b")])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert [t.task_id for t in read_traces(path)] == ["a", "b"]
    assert [(number, t.task_id) for number, t in numbered_traces(path)] == [(1, "a")]


def test_repair_27_the_repr_of_a_confidential_trajectory_quotes_nothing() -> None:
    trajectory = make_trajectory()
    trajectory.metadata["error"] = "ServiceError: about 47@12="
    assert "text='ask'" in repr(trajectory)
    trajectory.confidential = True
    shown = repr([trajectory])
    assert "task_id='t/1'" in shown
    assert "withheld=(3, 2)" in shown
    assert "ServiceError: (withheld)" in shown
    assert not any(text in shown for text in ("47@12=", "ask'", "reply", "notice"))
