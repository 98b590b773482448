from __future__ import annotations

import collections
import json
import random
from pathlib import Path

import numpy as np
import pytest

import aipo_env
from aipo_env.errors import ConfigurationError, DataFormatError, UnknownIdError
from aipo_env.tasks.base import Task
from aipo_env.tasks.gpqa import GpqaDiamondTasks
from aipo_env.testing import check_consult_env, check_taskset
from tests.tasks.fake_hub import COMMIT, FakeHub, run_with, serving
from tests.tasks.small_data import GPQA_FIELDS, gpqa_rows, write_csv, write_jsonl


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIPO_DATA", raising=False)


def choices(task: Task) -> dict[str, str]:
    """The choices of a problem by their letters."""
    lines = task.problem.split("\n\n")[-2].splitlines()
    return dict(line.split(") ", 1) for line in lines)


def test_the_gold_letter_names_the_right_choice(tmp_path: Path) -> None:
    tasks = GpqaDiamondTasks(data=write_csv(tmp_path / "rows.csv", gpqa_rows(40)))
    assert tasks.num_tasks == 40
    for index in range(40):
        task = tasks.task(index)
        shown = choices(task)
        assert sorted(shown) == list("ABCD")
        assert shown[task.gold] == f"{index} exactly"
        assert set(shown.values()) == {f"{index} exactly", *(str(index + i) for i in (1, 2, 3))}
        assert task.problem.startswith(f"Which number is {index}?\n\nA) ")
        assert [tasks.grade(task, letter).correct for letter in "ABCD"] == [letter == task.gold for letter in "ABCD"]
        assert tasks.grade(task, f"({task.gold})").correct
        assert not tasks.grade(task, f"{task.gold} or {'A' if task.gold != 'A' else 'B'}").correct


def test_csv_and_json_lines_are_the_same_tasks(tmp_path: Path) -> None:
    one = GpqaDiamondTasks(data=write_csv(tmp_path / "rows.csv", gpqa_rows()))
    two = GpqaDiamondTasks("train", data=write_jsonl(tmp_path / "rows.jsonl", gpqa_rows()))
    assert [one.task(i) for i in range(4)] == [two.task(i) for i in range(4)]
    assert one.task(1).id == "gpqa-diamond/recAbCdEfGhIj0001"
    assert one.task(1).metadata == {"domain": "Physics", "subdomain": "Quantum Mechanics"}


def test_the_order_is_a_function_of_the_seed_and_the_question_alone(tmp_path: Path) -> None:
    rows = gpqa_rows(60)
    whole = GpqaDiamondTasks(data=write_jsonl(tmp_path / "whole.jsonl", rows))
    reversed_rows = GpqaDiamondTasks(data=write_jsonl(tmp_path / "reversed.jsonl", rows[::-1]))
    part = GpqaDiamondTasks(data=write_jsonl(tmp_path / "part.jsonl", rows[7:9]))
    assert [whole.task(i) for i in range(60)] == [reversed_rows.task(59 - i) for i in range(60)]
    assert [part.task(0), part.task(1)] == [whole.task(7), whole.task(8)]
    other = GpqaDiamondTasks(data=tmp_path / "whole.jsonl", choice_seed=1)
    same = sum(whole.task(i).problem == other.task(i).problem for i in range(60))
    assert same < 15  # one in 24 by chance


def test_no_global_random_state_is_read_or_moved(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", gpqa_rows(20))
    found = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        before = random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[union-attr]  # noqa: NPY002
        tasks = GpqaDiamondTasks(data=path)
        found.append([tasks.task(i) for i in range(20)])
        assert random.getstate() == before[0]
        assert np.random.get_state()[1].tobytes() == before[1]  # type: ignore[union-attr]  # noqa: NPY002
    assert found[0] == found[1]


def test_no_letter_is_preferred(tmp_path: Path) -> None:
    tasks = GpqaDiamondTasks(data=write_jsonl(tmp_path / "rows.jsonl", gpqa_rows(800)))
    counts = collections.Counter(tasks.task(i).gold for i in range(800))
    # 200 each; five standard deviations are 61.
    assert set(counts) == set("ABCD")
    assert all(139 < count < 261 for count in counts.values())


def test_a_wrong_choice_that_reads_like_another_one_changes_nothing(tmp_path: Path) -> None:
    rows = [{**row, "Incorrect Answer 2": row["Incorrect Answer 1"]} for row in gpqa_rows(20)]
    tasks = GpqaDiamondTasks(data=write_jsonl(tmp_path / "rows.jsonl", rows))
    assert all(choices(tasks.task(i))[tasks.task(i).gold] == f"{i} exactly" for i in range(20))
    same = [{**row, "Incorrect Answer 1": row["Correct Answer"]} for row in gpqa_rows(20)]
    tasks = GpqaDiamondTasks(data=write_jsonl(tmp_path / "same.jsonl", same))
    later = 0
    for task in map(tasks.task, range(20)):
        alike = [letter for letter, choice in choices(task).items() if choice.endswith("exactly")]
        assert (len(alike), sum(tasks.grade(task, letter).correct for letter in "ABCD")) == (2, 1)
        later += task.gold == alike[1]
    assert 3 < later < 17  # by its place, not the first that reads so


@pytest.mark.parametrize("ids", [["", ""], ["rec1", "rec1"], ["What is the charge of a muon?", "recAbCdEfGhIj0001"]])
def test_ids_that_are_no_record_ids_are_not_shown(ids: list[str], tmp_path: Path) -> None:
    rows = [{**row, "Record ID": name} for row, name in zip(gpqa_rows(2), ids, strict=True)]
    tasks = GpqaDiamondTasks(data=write_jsonl(tmp_path / "rows.jsonl", rows))
    assert [tasks.task(i).id for i in range(2)] == ["gpqa-diamond/0", "gpqa-diamond/1"]


def test_only_the_fields_that_are_needed_have_to_be_there(tmp_path: Path) -> None:
    rows = [{name: row[name] for name in GPQA_FIELDS} for row in gpqa_rows(2)]
    task = GpqaDiamondTasks(data=write_jsonl(tmp_path / "rows.jsonl", rows)).task(0)
    assert (task.id, task.metadata, task.confidential) == ("gpqa-diamond/0", {}, True)


def test_options_are_checked(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", gpqa_rows())
    with pytest.raises(ConfigurationError, match="choice_seed"):
        GpqaDiamondTasks(data=path, choice_seed=-1)
    with pytest.raises(ConfigurationError, match="keep_texts"):
        GpqaDiamondTasks(data=path, keep_texts="False")  # type: ignore[arg-type]
    with pytest.raises(UnknownIdError, match="gpqa-diamond split"):
        GpqaDiamondTasks("dev", data=path)


def test_the_checks_for_families_and_environments(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", gpqa_rows())
    for env_id in ("gpqa-diamond", "gpqa-diamond-consult"):
        env = aipo_env.make(env_id, data=path)
        assert check_taskset(env.tasks) == []
        assert check_consult_env(env) == []


SECRET = "Why does the zygomorphic lamp hum?"


@pytest.mark.parametrize(
    "text",
    [
        f"{SECRET},\n{SECRET}\n",  # no header
        f'Question,Correct Answer\n"{SECRET}",x\n',
        f'Question,Correct Answer\n"{SECRET}',
        f"Question\n{SECRET}{'x' * 200_000}\n",
        json.dumps(dict.fromkeys(GPQA_FIELDS[:-1], SECRET)),
        json.dumps({**dict.fromkeys(GPQA_FIELDS, SECRET), "Question": [SECRET]}),
        json.dumps([SECRET]),
        json.dumps(SECRET),
        f'{{"Question": "{SECRET}",',
        f"{SECRET}",
    ],
)
def test_no_message_on_a_damaged_file_quotes_it(text: str, tmp_path: Path) -> None:
    for suffix in (".csv", ".jsonl"):
        path = tmp_path / f"rows{suffix}"
        path.write_text(text)
        with pytest.raises(DataFormatError) as caught:
            GpqaDiamondTasks(data=path)
        assert "zygomorphic" not in "".join(map(str, (caught.value, caught.value.__cause__, repr(caught.value))))
        assert str(path) in str(caught.value)
    path.write_bytes(SECRET.encode() + b"\xff\n")
    with pytest.raises(DataFormatError) as caught:
        GpqaDiamondTasks(data=path)
    assert "zygomorphic" not in str(caught.value)


def test_the_hub_gives_it_to_those_who_accepted_its_terms(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the extra 'eval' is not installed")
    rows = gpqa_rows()
    # What a reader of tables would take for missing values.
    rows[0] |= {"Incorrect Answer 1": "None", "Incorrect Answer 2": "NA", "Incorrect Answer 3": "null"}
    table = write_csv(tmp_path / "rows.csv", rows).read_bytes()
    card = b"---\nconfigs:\n- config_name: gpqa_diamond\n  data_files: gpqa_diamond.csv\n---\n"
    files = {"Idavidrein/gpqa": {"README.md": card, "gpqa_diamond.csv": table}}
    code = (
        "import json, aipo_env; tasks = aipo_env.make('gpqa-diamond', choice_seed=3).tasks; "
        "print(json.dumps([tasks.provenance(), [[tasks.task(i).gold, tasks.task(i).problem] for i in range(4)]]))"
    )
    with serving(FakeHub(files, gated=frozenset(files))) as hub:
        for token in ("", "hf_bad"):
            process = run_with(hub, code, tmp_path / f"home{token}", **({"HF_TOKEN": token} if token else {}))
            assert process.returncode == 1
            message = process.stderr.splitlines()[-1]
            assert message.startswith("aipo_env.errors.DataNotFoundError: gpqa-diamond is not here")
            for part in (
                "gated dataset",
                "accept",
                "https://huggingface.co/datasets/Idavidrein/gpqa",
                "HF_TOKEN",
                "hf auth login",
            ):
                assert part in message
        process = run_with(hub, code, tmp_path / "home", HF_TOKEN="hf_good")
        assert process.returncode == 0, process.stderr
    provenance, found = json.loads(process.stdout)
    local = GpqaDiamondTasks(data=tmp_path / "rows.csv", choice_seed=3)
    assert found == [[local.task(i).gold, local.task(i).problem] for i in range(4)]
    assert set(choices(local.task(0)).values()) == {"0 exactly", "None", "NA", "null"}
    assert provenance == {
        "source": "hub",
        "repository": "Idavidrein/gpqa",
        "revision": COMMIT,
        "config": "gpqa_diamond",
        "split": "train",
        "files": {},
        "rows": 4,
        "choice_seed": 3,
    }
