from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import aipo_env
from aipo_env.errors import ConfigurationError, DataFormatError
from aipo_env.tasks.base import is_for_evaluation
from aipo_env.tasks.decontamination import is_test_set
from aipo_env.testing import check_taskset
from tests.tasks.fake_hub import COMMIT, FakeHub, run_with, serving
from tests.tasks.small_data import write_csv, write_jsonl

ROWS = [{"question": f"What is {i} plus {i}?", "final_answer": str(2 * i), "level": i} for i in range(5)]


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIPO_DATA", raising=False)


def make(data: Path, **options: Any) -> Any:
    return aipo_env.make("dataset-consult", data=data, **options).tasks


def test_one_line_and_the_columns_are_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    tasks = make(path, metadata="level")
    assert "problem='question', answer='final_answer' (guessed)" in capsys.readouterr().err
    assert (tasks.num_tasks, tasks.task(3).problem, tasks.task(3).gold) == (5, "What is 3 plus 3?", "6")
    assert tasks.task(3).metadata == {"level": 3}
    assert tasks.task(3).id == "dataset/3"
    assert all("metadata" in remark for remark in check_taskset(tasks))
    env = aipo_env.make("dataset-consult", data=path, problem="question", answer="final_answer")
    env.reset(options={"task_index": 2})
    assert env.step(r"\boxed{4}")[1] == 1.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"problem": "a", "question": "b", "answer": "1"},
            "which field is the problem? problem and question could be it",
        ),
        ({"text": "a", "answer": "1"}, "none of problem, question"),
        ({"problem": "a", "answer": "1", "label": "2"}, "answer and label could be it"),
    ],
)
def test_a_guess_between_two_is_refused(row: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(write_jsonl(tmp_path / "rows.jsonl", [row]))
    assert message in str(caught.value)


def test_a_solution_is_a_text_with_a_box_if_there_is_no_answer(tmp_path: Path) -> None:
    row = {"problem": "Half of 5?", "solution": r"It is $\boxed{2}$, no, \boxed{\frac{5}{2}}."}
    assert make(write_jsonl(tmp_path / "a.jsonl", [row])).task(0).gold == r"\frac{5}{2}"
    assert make(write_jsonl(tmp_path / "b.jsonl", [{**row, "answer": "2.5"}])).task(0).gold == "2.5"
    plain = make(write_jsonl(tmp_path / "c.jsonl", [{**row, "solution": "5/2"}]), answer="solution")
    assert plain.task(0).gold == "5/2"


def test_paths_lead_into_lists_and_texts_of_json(tmp_path: Path) -> None:
    row = {"prompt": json.dumps([{"content": "Who?"}]), "reward_model": {"ground_truth": '["Ann", "Anna"]'}}
    path = write_jsonl(tmp_path / "rows.jsonl", [row])
    tasks = make(path, problem="prompt[0].content", answer="reward_model.ground_truth", answer_type="exact")
    assert tasks.task(0).problem == "Who?"
    assert [tasks.grade(tasks.task(0), name).correct for name in ("ann", "ANNA", "Bea")] == [True, True, False]
    with pytest.raises(DataFormatError, match=r"lacks \['prompt\[1\].content'\]"):
        make(path, problem="prompt[1].content", answer="reward_model.ground_truth")


@pytest.mark.parametrize("answer", ["B", "1", "a dog"])
def test_choices(answer: str, tmp_path: Path) -> None:
    row = {"question": "Which barks?", "options": ["a cat", "a dog", "a fish"], "answer": answer}
    tasks = make(write_jsonl(tmp_path / "rows.jsonl", [row]), choices="options", answer_type="choice")
    assert tasks.task(0).gold == "B"
    assert (
        tasks.task(0).problem
        == "Which barks?\n\nA) a cat\nB) a dog\nC) a fish\n\nAnswer with the letter of the right choice."
    )
    assert [tasks.grade(tasks.task(0), letter).correct for letter in ("B", "(b)", "C")] == [True, True, False]


def test_choices_that_do_not_hold_the_answer_are_left_out(tmp_path: Path) -> None:
    rows = [{"question": "Which?", "options": ["x", "y"], "answer": a} for a in ("A", "C", "z", "5")]
    for number, row in enumerate(rows):
        row["question"] = f"Which of {number}?"
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    options = {"choices": "options", "answer_type": "choice"}
    with pytest.raises(ConfigurationError, match=r"of 4 rows only 1 are left .*allow_loss"):
        make(path, **options)
    assert dict(make(path, allow_loss=True, **options).dropped) == {"no answer, or none of the kind": [1, 2, 3]}
    with pytest.raises(ConfigurationError, match="belong together"):
        make(path, answer_type="choice")


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*ROWS, {**ROWS[0], "question": "Prove it.", "final_answer": "proof"}, ROWS[1]]
    tasks = make(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert "7 rows, 5 left; left out: 1 duplicate, 1 no answer" in capsys.readouterr().err
    assert tasks.provenance()["dropped"] == {"duplicate": 1, "no answer, or none of the kind": 1}


def test_data_has_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="say data="):
        aipo_env.make("dataset")
    write_jsonl(tmp_path / "dataset" / "train.jsonl", ROWS)
    monkeypatch.setenv("AIPO_DATA", str(tmp_path))
    assert aipo_env.make("dataset").tasks.num_tasks == 5


def test_csv_and_types_of_answers(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", [{"question": "How many?", "answer": "1,008.0"}])
    assert make(path, answer_type="integer").task(0).gold == "1008"
    with pytest.raises(ConfigurationError, match="answer_type is one of math, integer"):
        make(path, answer_type="maths")


def test_what_a_split_is_for(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    named = {"train": False, "sft_v2": False, "test": True, "validation": True, "Test[:2]": True, "train+test": True}
    assert {split: is_for_evaluation(make(path, split=split)) for split in named} == named
    with pytest.raises(ConfigurationError, match="allow_test_split"):
        aipo_env.require_training_split(make(path, split="validation"), "dataset-consult")


def test_repair_02_the_hub_calls_test_sets_training_sets(tmp_path: Path) -> None:
    assert is_test_set("idavidrein/gpqa")
    assert not any(map(is_test_set, ("openai/gsm8k", "me/own", "EleutherAI/hendrycks_math")))
    pytest.importorskip("datasets", reason="the extra 'eval' is not installed")
    files = {"train.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode()}
    code = "import aipo_env; print(aipo_env.make('dataset', data='hub:{}').tasks.split)"
    with serving(FakeHub({"MathArena/aime_2026": files, "me/own": files})) as hub:
        of_both = [run_with(hub, code.format(name), tmp_path / name) for name in ("MathArena/aime_2026", "me/own")]
    assert [process.stdout.strip() for process in of_both] == ["test", "train"], of_both


def test_from_the_hub_with_revision_and_configuration(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the extra 'eval' is not installed")
    card = b"---\nconfigs:\n- config_name: hard\n  data_files:\n  - split: validation\n    path: v.jsonl\n---\n"
    rows = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    code = (
        "import json, aipo_env; tasks = aipo_env.make('dataset', data='hub:me/own@v1:hard', split='validation').tasks; "
        "print(json.dumps([tasks.provenance(), tasks.split]))"
    )
    with serving(FakeHub({"me/own": {"README.md": card, "v.jsonl": rows}})) as hub:
        process = run_with(hub, code, tmp_path)
    assert process.returncode == 0, process.stderr
    known, split = json.loads(process.stdout)
    assert (known["repository"], known["config"], known["split"], known["revision"]) == (
        "me/own",
        "hard",
        "validation",
        COMMIT,
    )
    assert split == "test"
