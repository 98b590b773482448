from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

import pytest

import aipo_env
from aipo_env.errors import DataFormatError, DataNotFoundError, UnknownIdError
from aipo_env.tasks.questions import QuestionTasks
from tests.tasks.fake_hub import COMMIT, FakeHub, run_with, serving
from tests.tasks.small_data import write_small_data

Math500Tasks = functools.partial(QuestionTasks, family="math500")
Gsm8kTasks = functools.partial(QuestionTasks, family="gsm8k")


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIPO_DATA", raising=False)


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


OWN = {"problem": "What is $1+1$?", "answer": "2", "unique_id": "own/1", "level": 1, "subject": "Sums"}


def test_a_file_a_folder_and_the_variable_are_three_ways_to_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "math500" / "test.jsonl", OWN)
    for data in (path, tmp_path, path.parent, str(path)):
        tasks = Math500Tasks(data=data)
        assert tasks.num_tasks == 1
        assert tasks.task(0).id == "own/1"
        assert tasks.task(0).metadata == {"level": 1, "subject": "Sums"}
    monkeypatch.setenv("AIPO_DATA", str(tmp_path))
    assert aipo_env.make("math500").tasks.task(0).problem == OWN["problem"]


def test_gsm8k_takes_the_number_behind_the_marks(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {"question": "How much?", "answer": "1,000 + 8 = 1,008\n#### 1,008"})
    tasks = Gsm8kTasks("train", data=path)
    assert tasks.task(0).gold == "1008"
    assert tasks.grade(tasks.task(0), "1,008").correct
    assert not tasks.grade(tasks.task(0), "1009").correct
    with pytest.raises(DataFormatError, match="####"):
        Gsm8kTasks(data=write(tmp_path / "bad.jsonl", {"question": "q", "answer": "18"}))


def test_every_family_of_a_data_set_says_what_its_data_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIPO_DATA", str(write_small_data(tmp_path)))
    files = {
        "math500": "math500/test.jsonl",
        "gsm8k": "gsm8k/test.jsonl",
        "aime24": "aime24/train.jsonl",
        "aime25": "aime25/test.jsonl",
        "gpqa-diamond": "gpqa-diamond/test.csv",
        "livecodebench": "livecodebench/test.jsonl",
    }
    for env_id, name in files.items():
        tasks = aipo_env.make(f"{env_id}-consult").tasks
        provenance = tasks.provenance()  # type: ignore[attr-defined]
        path = tmp_path / name
        assert json.loads(json.dumps(provenance)) == provenance
        assert provenance["files"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
        expected = {"source": "file", "repository": None, "revision": None, "config": None, "split": None}
        assert provenance.items() >= expected.items()
        assert provenance["rows"] == tasks.num_tasks


def test_the_hubs_data_of_a_revision(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the extra 'eval' is not installed")
    row = {"question": "How many?", "answer": "#### 5"}
    card = b"---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: t.jsonl\n---\n"
    files = {"openai/gsm8k": {"README.md": card, "t.jsonl": json.dumps(row).encode() + b"\n"}}
    code = "import json, aipo_env; print(json.dumps(aipo_env.make('gsm8k', revision='v1').tasks.provenance()))"
    with serving(FakeHub(files)) as hub:
        process = run_with(hub, code, tmp_path)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == {
        "source": "hub",
        "repository": "openai/gsm8k",
        "revision": COMMIT,
        "config": "main",
        "split": "test",
        "files": {},
        "rows": 1,
    }
    assert any(asked.startswith("/datasets/openai/gsm8k/resolve/v1/") for asked in hub.asked)


def test_what_is_missing_names_both_ways(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"(?s)AIPO_DATA.*Hugging Face hub"):
        Math500Tasks(data=tmp_path)
    # The hub is switched off in the tests.
    with pytest.raises(DataNotFoundError, match=r"(?s)AIPO_DATA.*HuggingFaceH4/MATH-500"):
        Math500Tasks()


def test_bad_rows_name_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="line 2"):
        Math500Tasks(data=write(tmp_path / "a.jsonl", OWN, {"problem": "no answer"}))
    (tmp_path / "b.jsonl").write_text("{not json}\n")
    with pytest.raises(DataFormatError, match="line 1"):
        Math500Tasks(data=tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_text("\n")
    with pytest.raises(DataFormatError, match="no rows"):
        Math500Tasks(data=tmp_path / "c.jsonl")


def test_splits_and_indices_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", OWN)
    with pytest.raises(UnknownIdError, match="test"):
        Math500Tasks("train", data=path)
    with pytest.raises(IndexError, match="valid indices are 0 to 0"):
        Math500Tasks(data=path).task(1)


def test_the_public_files_load_and_grade(data_folder: Path) -> None:
    math, gsm = Math500Tasks(data=data_folder), Gsm8kTasks(data=data_folder)
    assert (math.num_tasks, gsm.num_tasks) == (500, 1319)
    for tasks in (math, gsm):
        sample = [tasks.task(i) for i in range(0, 500, 25)]
        assert all(tasks.grade(t, t.gold).correct for t in sample)
        assert not any(tasks.grade(t, "-987654.5").correct for t in sample)
