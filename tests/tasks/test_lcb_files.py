from __future__ import annotations

import base64
import gc
import hashlib
import json
import os
import re
import tracemalloc
from pathlib import Path

import pytest

from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError, UnknownIdError
from aipo_env.tasks.lcb_files import files_of
from aipo_env.tasks.livecodebench import LiveCodeBenchTasks
from tests.tasks.fake_hub import COMMIT, FakeHub, run_with, serving
from tests.tasks.small_data import DOUBLE, FUNCTION, lcb_row, packed, stdin_test, write_jsonl


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIPO_DATA", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", [DOUBLE, FUNCTION])


def test_which_files_make_up_a_version() -> None:
    six = ("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl", "test6.jsonl")
    assert files_of("release_v1") == files_of("v1") == six[:1]
    assert files_of("release_v3") == files_of("v1_v3") == six[:3]
    assert files_of("release_v6") == files_of("release_latest") == six
    assert files_of("v5") == six[4:5]
    assert files_of("v4_v6") == six[3:]
    for wrong in ("release_v7", "v0", "v3_v1", "v2_v2", "v1_v7", "latest", "", "release_v1_v2"):
        with pytest.raises(UnknownIdError, match="LiveCodeBench version"):
            files_of(wrong)


def test_a_folder_with_the_hubs_files(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        name = "test.jsonl" if number == 1 else f"test{number}.jsonl"
        write_jsonl(tmp_path / "livecodebench" / name, [lcb_row(f"p{number}"), lcb_row(f"q{number}")])

    def ids(**options: str) -> list[str]:
        tasks = LiveCodeBenchTasks(data=tmp_path, **options)  # type: ignore[arg-type]
        return [tasks.task(i).id.removeprefix("livecodebench/") for i in range(tasks.num_tasks or 0)]

    assert ids() == ids(version="release_v3") == ["p1", "q1", "p2", "q2", "p3", "q3"]
    assert ids(version="release_v2") == ["p1", "q1", "p2", "q2"]
    assert ids(version="v2_v3") == ["p2", "q2", "p3", "q3"]
    assert LiveCodeBenchTasks(data=tmp_path).version == "release_v3"
    assert LiveCodeBenchTasks(data=tmp_path).task(0).metadata["release"] == "release_v3"
    assert LiveCodeBenchTasks(data=tmp_path / "livecodebench", version="v2").version == "v2"
    with pytest.raises(DataNotFoundError, match=r"looked for test4\.jsonl, test5\.jsonl, which version='v3_v5' takes"):
        LiveCodeBenchTasks(data=tmp_path, version="v3_v5")
    (tmp_path / "livecodebench" / "test2.jsonl").unlink()
    assert LiveCodeBenchTasks(data=tmp_path).version is None
    with pytest.raises(DataNotFoundError, match=r"looked for test\.jsonl"):
        LiveCodeBenchTasks(data=write_jsonl(tmp_path / "empty" / "other.jsonl", [DOUBLE]).parent)


def test_options_that_cannot_work(path: Path) -> None:
    for options, message in (
        ({"version": "release_v5"}, "is one file"),
        ({"revision": "main"}, "revision='main'"),
        ({"start_date": "yesterday"}, "start_date is an ISO date"),
        ({"end_date": 20240801}, "end_date is an ISO date"),
        ({"start_date": "2025-01-01"}, "the 2 problems are from 2024-08-01 to 2024-11-30"),
        ({"time_limit_s": 0}, "time_limit_s"),
        ({"allow_weak_isolation": "no"}, "allow_weak_isolation"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            LiveCodeBenchTasks(data=path, **options)  # type: ignore[arg-type]
    with pytest.raises(DataNotFoundError, match="no file or folder"):
        LiveCodeBenchTasks(data=path.with_name("missing.jsonl"))
    with pytest.raises(UnknownIdError, match="split"):
        LiveCodeBenchTasks("train", data=path)
    with pytest.raises(UnknownIdError, match="version"):
        LiveCodeBenchTasks(data=path, version="v9")


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, "abcde"),
        ("2024-08-01", None, "bcde"),  # a date is its midnight, and belongs to the window
        (None, "2024-09-01", "abc"),  # at both ends
        ("2024-08-01", "2024-09-01", "bc"),
        ("2024-09-02", None, "e"),
        (None, "2024-09-01T18:30:00", "abcd"),
    ],
)
def test_the_window_is_that_of_the_official_code(
    start: str | None, end: str | None, expected: str, tmp_path: Path
) -> None:
    dates = ["2024-07-31T23:59:59", "2024-08-01T00:00:00", "2024-09-01T00:00:00", "2024-09-01T18:30:00", "2024-10-05"]
    rows = [lcb_row(name, date=date) for name, date in zip("abcde", dates, strict=True)]
    tasks = LiveCodeBenchTasks(data=write_jsonl(tmp_path / "rows.jsonl", rows), start_date=start, end_date=end)
    assert "".join(tasks.task(i).id[-1] for i in range(tasks.num_tasks or 0)) == expected
    provenance = tasks.provenance()
    assert (provenance["start_date"], provenance["end_date"]) == (start, end)
    assert (provenance["rows"], provenance["rows_of_release"]) == (len(expected), 5)
    assert provenance["first_contest"] == dates["abcde".index(expected[0])][:10]
    assert provenance["last_contest"] == dates["abcde".index(expected[-1])][:10]


def test_problems_that_are_there_twice_have_ids_of_their_own(tmp_path: Path) -> None:
    tasks = LiveCodeBenchTasks(data=write_jsonl(tmp_path / "rows.jsonl", [DOUBLE, DOUBLE, FUNCTION]))
    assert [tasks.task(i).id[14:] for i in range(3)] == ["abc300_a", "abc300_a#2", "2777"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("contest_date", "soon", "expected an ISO date as 'contest_date'"),
        ("question_id", None, r"lacks \['question_id'\]"),
        ("private_test_cases", None, r"lacks \['private_test_cases'\]"),
    ],
)
def test_damaged_rows_name_the_line(field: str, value: object, message: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [DOUBLE, {**DOUBLE, field: value}])
    with pytest.raises(DataFormatError, match=rf"rows\.jsonl, line 2: .*{message}"):
        LiveCodeBenchTasks(data=path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataFormatError, match="no rows"):
        LiveCodeBenchTasks(data=tmp_path / "empty.jsonl")


def test_files_are_read_row_by_row(tmp_path: Path) -> None:
    """Twenty rows of 3 MB each: neither making the tasks nor looking at one takes the memory of more than a few rows."""
    noise = [stdin_test(base64.b64encode(os.urandom(1_500_000)).decode(), "x")]
    rows = [lcb_row(f"p{i}", private=packed(noise)) for i in range(20)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    size, row = path.stat().st_size, len(json.dumps(rows[0]))
    assert size > 20 * 1_500_000
    del rows, noise
    gc.collect()
    tracemalloc.start()
    try:
        tasks = LiveCodeBenchTasks(data=path)
        peak = tracemalloc.get_traced_memory()[1]
        assert all(tasks.task(i).problem for i in range(20))
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert peak < 5 * row < size / 3
    assert kept < row / 10


def test_a_file_that_was_changed_meanwhile_is_noticed(path: Path) -> None:
    tasks = LiveCodeBenchTasks(data=path)
    write_jsonl(path, [lcb_row("new"), FUNCTION])
    with pytest.raises(DataFormatError, match="expected the problem abc300_a"):
        tasks.task(0)
    assert LiveCodeBenchTasks(data=path).task(0).id == "livecodebench/new"


def test_private_tests_that_spell_the_name_of_their_field(tmp_path: Path) -> None:
    odd = '"private_test_cases": "abc" and \\"private_test_cases\\": \\"QUJD'
    rows = [{**DOUBLE, "question_content": odd}, {**DOUBLE, "question_id": "b", "starter_code": odd}]
    tasks = LiveCodeBenchTasks(data=write_jsonl(tmp_path / "rows.jsonl", rows))
    assert tasks.task(0).problem.startswith(odd)
    assert odd in tasks.task(1).problem


def test_tests_that_only_look_packed(tmp_path: Path) -> None:
    row = lcb_row("p", private='QUJD" is what it says, "private_test_cases": "\\')
    tasks = LiveCodeBenchTasks(data=write_jsonl(tmp_path / "rows.jsonl", [row]))
    assert tasks.task(0).id == "livecodebench/p"
    with pytest.raises(DataFormatError, match="private_test_cases is neither JSON nor base64"):
        tasks.grade(tasks.task(0), "print(1)")


def test_the_hubs_files_are_downloaded_and_pinned(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="the extra 'eval' is not installed")
    files = {
        name: "".join(json.dumps(lcb_row(f"{name[:-6]}_{i}")) + "\n" for i in range(2)).encode()
        for name in files_of("release_v6")
    }
    code = (
        "import json, sys, aipo_env; tasks = aipo_env.make('livecodebench', **json.loads(sys.argv[1])).tasks; "
        "print(json.dumps([tasks.provenance(), [tasks.task(i).id for i in range(tasks.num_tasks)]]))"
    )

    def made(hub: FakeHub, **options: str) -> tuple[dict[str, object], list[str]]:
        process = run_with(hub, f"import sys; sys.argv = ['', {json.dumps(json.dumps(options))}]; {code}", tmp_path)
        assert process.returncode == 0, process.stderr
        provenance, ids = json.loads(process.stdout)
        return provenance, ids

    with serving(FakeHub({"livecodebench/code_generation_lite": files})) as hub:
        provenance, ids = made(hub)
        assert len(ids) == 12
        assert (ids[0], ids[-1]) == ("livecodebench/test_0", "livecodebench/test6_1")
        assert provenance == {
            "source": "hub",
            "repository": "livecodebench/code_generation_lite",
            "revision": COMMIT,
            "config": None,
            "split": "test",
            "files": dict.fromkeys(files_of("release_v6"), None) | _digests(files),
            "rows": 12,
            "release": "release_v6",
            "rows_of_release": 12,
            "start_date": None,
            "end_date": None,
            "first_contest": "2024-08-01",
            "last_contest": "2024-08-01",
            "time_limit_s": 6.0,
        }
        # The first file decides the commit, and the others are of it.
        resolved = [re.sub(r"^.*/resolve/", "", asked) for asked in hub.asked if "/resolve/" in asked]
        assert resolved[0] == "main/test.jsonl"
        assert f"{COMMIT}/test6.jsonl" in resolved
        assert not any(asked.startswith("main/") for asked in resolved if not asked.endswith("/test.jsonl"))
        provenance, ids = made(hub, version="v5_v6", revision="v1")
        assert (provenance["release"], provenance["revision"], len(ids)) == ("v5_v6", COMMIT, 4)
        process = run_with(hub, "import aipo_env; aipo_env.make('livecodebench', revision='nope')", tmp_path)
        assert "DataNotFoundError: livecodebench is not here: test.jsonl could not be loaded" in process.stderr


def _digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def test_without_files_and_hub_both_ways_are_named() -> None:
    # The hub is switched off in the tests.
    with pytest.raises(DataNotFoundError, match=r"(?s)AIPO_DATA.*livecodebench/code_generation_lite"):
        LiveCodeBenchTasks()
