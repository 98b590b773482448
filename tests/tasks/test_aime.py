from __future__ import annotations

import asyncio
import functools
import hashlib
import json
from pathlib import Path

import gymnasium
import pytest

import aipo_env
from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError, UnknownIdError
from aipo_env.tasks.questions import QuestionTasks
from aipo_env.testing import check_consult_env, check_taskset
from tests.tasks.fake_hub import COMMIT, FakeHub, run_with, serving
from tests.tasks.small_data import AIME24, AIME25, write_jsonl

Aime24Tasks = functools.partial(QuestionTasks, family="aime24")
Aime25Tasks = functools.partial(QuestionTasks, family="aime25")


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIPO_DATA", raising=False)


def test_rows_in_the_schema_of_the_hub(tmp_path: Path) -> None:
    tasks = Aime24Tasks(data=write_jsonl(tmp_path / "rows.jsonl", AIME24))
    assert tasks.num_tasks == 3
    first = tasks.task(0)
    assert (first.id, first.problem, first.gold) == ("aime24/60", "Find the least $n$.", "25")
    assert first.metadata == {"year": 2024, "url": "https://example.org/60"}
    assert [tasks.task(i).gold for i in range(3)] == ["25", "204", "0"]
    later = Aime25Tasks(data=write_jsonl(tmp_path / "later.jsonl", AIME25))
    assert [later.task(i).id for i in range(2)] == ["aime25/0", "aime25/1"]
    assert later.task(1).metadata == {"year": 2025}


@pytest.mark.parametrize("answer", ["025", "25", 25, 25.0, "25.0", " 25 "])
def test_answers_of_every_type_and_capitalised_columns(answer: object, tmp_path: Path) -> None:
    row = {"ID": "2024-II-4", "Problem": "What?", "Solution": "...", "Answer": answer}
    task = Aime24Tasks(data=write_jsonl(tmp_path / "rows.jsonl", [row])).task(0)
    assert (task.id, task.problem, task.gold) == ("aime24/2024-II-4", "What?", "25")


@pytest.mark.parametrize("answer", ["1000", 1000, "-1", "2.5", 2.5, "x", "", "١٢", float("nan")])
def test_what_is_no_answer_of_an_aime_names_the_row(answer: object, tmp_path: Path) -> None:
    rows = [AIME24[0], {**AIME24[1], "answer": answer}]
    with pytest.raises(DataFormatError, match="aime24 row 2: expected an integer from 0 to 999"):
        Aime24Tasks(data=write_jsonl(tmp_path / "rows.jsonl", rows))


@pytest.mark.parametrize("answer", [None, True, ["25"]])
def test_what_is_neither_text_nor_number_names_the_line(answer: object, tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"line 1: .*lacks \['answer'\]"):
        Aime24Tasks(data=write_jsonl(tmp_path / "rows.jsonl", [{**AIME24[0], "answer": answer}]))


@pytest.mark.parametrize(
    ("answer", "correct"),
    [("25", True), ("025", True), ("25.0", True), ("$25$", True), ("26", False), ("1025", False), ("-25", False), ("250", False)],
)  # fmt: skip
def test_integers_are_compared(answer: str, correct: bool, tmp_path: Path) -> None:
    tasks = Aime24Tasks(data=write_jsonl(tmp_path / "rows.jsonl", AIME24))
    assert tasks.grade(tasks.task(0), answer).correct is correct
    assert asyncio.run(tasks.grade_async(tasks.task(0), answer)).correct is correct


def test_ids_that_are_there_twice_give_way_to_the_rows_numbers(tmp_path: Path) -> None:
    tasks = Aime24Tasks(data=write_jsonl(tmp_path / "rows.jsonl", [AIME24[0], AIME24[0]]))
    assert [tasks.task(i).id for i in range(2)] == ["aime24/0", "aime24/1"]


def test_the_split_has_two_names_and_no_third(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "aime24" / "train.jsonl", AIME24)
    assert Aime24Tasks("train", data=tmp_path).num_tasks == Aime24Tasks("test", data=tmp_path).num_tasks == 3
    with pytest.raises(UnknownIdError, match="aime24 split 'tset'"):
        Aime24Tasks("tset", data=tmp_path)
    with pytest.raises(UnknownIdError, match="train"):
        Aime25Tasks("train", data=tmp_path)
    with pytest.raises(DataNotFoundError, match=r"aime25/test\.jsonl"):
        Aime25Tasks(data=tmp_path)


def test_an_episode_through_gymnasium(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", AIME24)
    env = gymnasium.make("aipo/aime24-consult-v0", data=str(path))
    env.reset(options={"task_index": 1})
    *_, info = env.step('<consult agent="verify">200+4=204</consult>')
    assert info["num_consults"] == 1
    _, reward, terminated, _, info = env.step(r"\boxed{204}")
    assert (reward, terminated, info["verdict"]) == (1.0, True, "correct")


def test_the_checks_for_families_and_environments(tmp_path: Path) -> None:
    for year, rows in (("24", AIME24), ("25", AIME25)):
        env = aipo_env.make(f"aime{year}-consult", data=write_jsonl(tmp_path / f"{year}.jsonl", rows))
        assert check_taskset(env.tasks) == []
        assert check_consult_env(env) == []
        assert check_consult_env(aipo_env.make(f"aime{year}", data=tmp_path / f"{year}.jsonl")) == []


def test_provenance_of_a_file(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", AIME24)
    assert Aime24Tasks(data=path).provenance() == {
        "source": "file",
        "repository": None,
        "revision": None,
        "config": None,
        "split": None,
        "files": {"rows.jsonl": hashlib.sha256(path.read_bytes()).hexdigest()},
        "rows": 3,
    }
    with pytest.raises(ConfigurationError, match="revision='main' is one of the hub's"):
        Aime24Tasks(data=path, revision="main")


def test_the_hubs_data_through_datasets(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the extra 'eval' is not installed")
    rows = "".join(json.dumps(row) + "\n" for row in AIME24).encode()
    code = (
        "import json, aipo_env; tasks = aipo_env.make('aime24').tasks; "
        "print(json.dumps([tasks.provenance(), [tasks.task(i).gold for i in range(3)], tasks.task(0).metadata]))"
    )
    with serving(FakeHub({"HuggingFaceH4/aime_2024": {"train.jsonl": rows}})) as hub:
        process = run_with(hub, code, tmp_path)
        assert process.returncode == 0, process.stderr
        provenance, golds, metadata = json.loads(process.stdout)
        assert golds == ["25", "204", "0"]
        assert metadata == {"year": 2024, "url": "https://example.org/60"}
        assert provenance == {
            "source": "hub",
            "repository": "HuggingFaceH4/aime_2024",
            "revision": COMMIT,
            "config": None,
            "split": "train",
            "files": {},
            "rows": 3,
        }
        missing = run_with(hub, "import aipo_env; aipo_env.make('aime25')", tmp_path)
        assert "DataNotFoundError: aime25 is not here: it could not be loaded from the hub" in missing.stderr
        assert "make math-ai/aime25 reachable" in missing.stderr
