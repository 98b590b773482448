from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import aipo_env
from aipo_env.errors import DataFormatError, DataNotFoundError, UnknownIdError
from aipo_env.tasks.data_sets import DATA_SETS, DataSet
from aipo_env.tasks.questions import QuestionTasks, reveals
from aipo_env.testing import check_taskset
from tests.tasks.fake_hub import COMMIT, FakeHub, run_with, serving
from tests.tasks.small_data import (
    EVALUATION_ROWS,
    KNOWRL_ROW,
    MATH500,
    MATH_ROW,
    SCAF_ROW,
    TRAINING_ROWS,
    write_jsonl,
    write_small_data,
)


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIPO_DATA", raising=False)


def load(family: str, rows: list[dict[str, Any]], folder: Path, **options: Any) -> QuestionTasks:
    split = options.pop("split", DATA_SETS[family].splits[0])
    return QuestionTasks(split, family=family, data=write_jsonl(folder / "rows.jsonl", rows), **options)


def numbered(count: int, answer: str = "{}") -> list[dict[str, object]]:
    """Rows of `deepscaler` whose problems have nothing in common but their form."""
    words = [
        "apples",
        "pears",
        "plums",
        "nuts",
        "figs",
        "dates",
        "limes",
        "kiwis",
        "beans",
        "peas",
        "leeks",
        "corn",
        "rice",
        "oats",
        "rye",
    ]
    return [
        {"problem": f"{words[i % 15].title()} cost {i * 37} and {words[i // 15]} {i}; what?", "answer": answer.format(i), "solution": ""}
        for i in range(count)
    ]  # fmt: skip


GOLDS = {
    "aime26": "70", "hmmt-feb26": "\\frac{3}{4}", "beyondaime": "20160", "amc23": "27", "olympiadbench": "2,-2",
    "minerva": "1.5", "math": "28", "gsm8k": "7", "dapo-math": "34", "deepscaler": "\\frac{15}{2}",
    "acereason-math": "2\\sqrt{3}", "big-math": "x+1", "skywork-or1": "924", "polaris": "6", "deepmath": "\\frac{\\pi}{4}",
    "webinstruct": "1.4", "scaf-grpo": "21", "knowrl": "42",
}  # fmt: skip


@pytest.mark.parametrize("family", GOLDS)
def test_a_family_loads_from_rows_in_its_hubs_schema(family: str, tmp_path: Path) -> None:
    folder = write_small_data(tmp_path)
    split = "train" if family in TRAINING_ROWS else "test"
    tasks = QuestionTasks(split, family=family, data=folder)
    assert tasks.num_tasks == 1
    assert tasks.task(0).gold == GOLDS[family]
    assert tasks.grade(tasks.task(0), GOLDS[family]).correct
    assert asyncio.run(tasks.grade_async(tasks.task(0), GOLDS[family])).correct
    assert not tasks.grade(tasks.task(0), "-987654").correct
    assert all("boxed" not in remark for remark in check_taskset(tasks))
    known = tasks.provenance()
    assert json.loads(json.dumps(known)) == known
    assert (known.get("rows_read"), known.get("dropped")) == ((1, {}) if split == "train" else (None, None))


@pytest.mark.parametrize("family", GOLDS)
def test_a_changed_schema_is_refused_by_name(family: str, tmp_path: Path) -> None:
    (row,) = (EVALUATION_ROWS | TRAINING_ROWS)[family]
    for path in DATA_SETS[family].fields:
        column = path.partition(".")[0].partition("[")[0]
        changed = {("renamed" if name == column else name): value for name, value in row.items()}
        if column in DATA_SETS[family].spellings.values():
            continue
        with pytest.raises(DataFormatError, match=rf"{family}.*renamed.*{column}"):
            load(family, [changed], tmp_path)


def test_metadata_is_what_the_data_set_knows(tmp_path: Path) -> None:
    folder = write_small_data(tmp_path)
    found = {
        name: QuestionTasks("train", family=name, data=folder).task(0).metadata
        for name in TRAINING_ROWS
        if name in DATA_SETS
    }
    assert found["math"] == {"level": "Level 2", "subject": "Prealgebra"}
    assert found["big-math"] == {"source": "orca_math", "domain": ["Mathematics"], "llama8b_solve_rate": None}
    assert found["polaris"] == {"difficulty": "3/8"}
    assert found["deepmath"] == {"difficulty": 6.5, "topic": "Calculus"}


def test_math_is_math_without_math500(tmp_path: Path) -> None:
    held_out = {**MATH_ROW, "problem": "What is  $1 + 1$ ?", "solution": "\\boxed{2}"}
    unboxed = {**MATH_ROW, "problem": "No box here.", "solution": "It is 3."}
    write_jsonl(tmp_path / "math" / "train.jsonl", [held_out, MATH_ROW, unboxed])
    with pytest.raises(DataNotFoundError, match=r"math is what is left of EleutherAI/hendrycks_math without math500"):
        QuestionTasks(family="math", data=tmp_path)
    write_jsonl(tmp_path / "math500" / "test.jsonl", [MATH500])
    for mode in (None, "none"):  # without it, it would not be this data set
        tasks = QuestionTasks(family="math", data=tmp_path, decontaminate=mode)  # type: ignore[arg-type]
        assert [tasks.task(i).id for i in range(tasks.num_tasks)] == ["math/1"]
        assert tasks.provenance()["dropped"] == {"no answer, or none of the kind": 1, "stands in math500": 1}
        assert tasks.provenance()["decontaminated_against"] == ["math500"]


def test_rows_that_teach_nothing_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = numbered(10)
    rows[9]["answer"] = "x \\in"
    rows[1]["answer"] = "proof"
    rows[2]["answer"] = "1" * 101
    rows[3]["answer"] = "the larger of the two (see above"
    rows[4]["problem"] = "See ![](figure.png): what is its area?"
    rows[5]["problem"] = str(rows[0]["problem"]).upper() + " "
    rows[5]["answer"] = " 0 "
    rows[7]["problem"] = rows[6]["problem"]
    tasks = load("deepscaler", rows, tmp_path)
    assert dict(tasks.dropped) == {
        "no answer, or none of the kind": [1],
        "answer of over 100 characters": [2],
        "answer is a sentence": [3],
        "answer cannot be read": [9],
        "problem empty or with an image": [4],
        "duplicate": [5],
        "several answers to one problem": [6, 7],
    }
    assert [tasks.task(i).id for i in range(tasks.num_tasks)] == ["deepscaler/0", "deepscaler/8"]
    assert tasks.provenance()["rows_read"] == 10
    assert tasks.provenance()["rows"] == 2


def test_a_figure_in_words_is_no_image(tmp_path: Path) -> None:
    rows = [{**MATH_ROW, "problem": "Find it. [asy] draw((0,0)--(1,1)); [/asy]"}]
    write_jsonl(tmp_path / "math500" / "test.jsonl", [MATH500])
    write_jsonl(tmp_path / "math" / "train.jsonl", rows)
    assert QuestionTasks(family="math", data=tmp_path).num_tasks == 1


def test_two_spellings_of_one_answer_are_no_conflict(tmp_path: Path) -> None:
    (row,) = numbered(1)
    rows = [{**row, "answer": answer} for answer in ("\\frac{1}{2}", "0.5")]
    assert dict(load("deepscaler", rows, tmp_path).dropped) == {"duplicate": [1]}


def test_other_kinds_of_answers_are_left_out(tmp_path: Path) -> None:
    (row,) = TRAINING_ROWS["webinstruct"]
    other = {**row, "answer_type": "Boolean", "question": "Is it?", "answer": "True"}
    assert dict(load("webinstruct", [row, other], tmp_path).dropped) == {
        "not answer_type = Integer|Float|Fraction|Percentage|Expression": [1]
    }
    (dapo,) = TRAINING_ROWS["dapo-math"]
    half = {**dapo, "prompt": "Half of it?", "solution": "17.5"}
    assert dict(load("dapo-math", [dapo, half], tmp_path).dropped) == {"no answer, or none of the kind": [1]}


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="of 1 rows none is left: 1 no answer"):
        load("deepscaler", numbered(1, "proof"), tmp_path)


def test_evaluation_sets_are_taken_whole(tmp_path: Path) -> None:
    rows = [{"problem": "a", "answer": "see the proof (above"}] * 2
    tasks = load("math500", rows, tmp_path)
    assert (tasks.num_tasks, dict(tasks.dropped)) == (2, {})
    assert "dropped" not in tasks.provenance()


def test_any_of_several_golds_counts(tmp_path: Path) -> None:
    (row,) = EVALUATION_ROWS["minerva"]
    for answer in (["1.5", "1.6"], '["1.5", "1.6"]'):
        tasks = load("minerva", [{**row, "answer": answer}], tmp_path)
        task = tasks.task(0)
        assert (task.gold, task.alternatives) == ("1.5", ("1.6",))
        assert "1.6" not in repr(task)
        for given, correct in (("1.5", True), ("1.6", True), ("1.55", False)):
            assert tasks.grade(task, given).correct is correct
            assert asyncio.run(tasks.grade_async(task, given)).correct is correct


def test_all_of_several_golds_are_one_answer(tmp_path: Path) -> None:
    (row,) = EVALUATION_ROWS["olympiadbench"]
    tasks = load("olympiadbench", [{**row, "final_answer": ["2", "-2"]}], tmp_path)
    assert tasks.task(0).gold == "2, -2"
    assert tasks.grade(tasks.task(0), "-2, 2").correct
    assert not tasks.grade(tasks.task(0), "2").correct


def test_copies_of_test_problems_at_hand_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "math500" / "test.jsonl", [MATH500])
    rows = [*numbered(2), {"problem": "what is 1+1", "answer": "2", "solution": ""}]
    assert load("deepscaler", rows, tmp_path).num_tasks == 3  # no test set is at hand
    monkeypatch.setenv("AIPO_DATA", str(tmp_path))
    tasks = load("deepscaler", rows, tmp_path)
    assert dict(tasks.dropped) == {"stands in math500": [2]}
    (copy,) = tasks.copies
    assert (copy.row, copy.test_set, copy.test_id, copy.how) == (2, "math500", "own/1", "equal")
    assert tasks.provenance()["decontaminated_against"] == ["math500"]
    assert load("deepscaler", rows, tmp_path, decontaminate="none").num_tasks == 3


def test_a_problem_ends_where_its_prompt_begins_to_help(tmp_path: Path) -> None:
    assert load("knowrl", [KNOWRL_ROW], tmp_path).task(0).problem == "What is $6\\cdot 7$?"
    changed = {**KNOWRL_ROW, "prompt": [{"role": "user", "content": "What is $6\\cdot 7$? # Help: multiply"}]}
    with pytest.raises(DataFormatError, match="knowrl row 1: expected one of"):
        load("knowrl", [changed], tmp_path)
    with pytest.raises(DataFormatError, match="list of texts in 'kp_list'"):
        load("knowrl", [{**KNOWRL_ROW, "kp_list": [{"text": "Multiply."}]}], tmp_path)


@pytest.mark.parametrize(
    ("hint", "gold", "problem", "given"),
    [
        ("So \\boxed{3}.", "5", "", True),
        ("Then $x = 5$.", "5", "Solve $x+5=10$.", True),
        ("The answer, then, is 5", "5", "5 and 5", True),
        ("We get $\\frac{1}{2}$ in the end", "\\frac{1}{2}", "Toss a coin.", True),
        ("Add 5 to both sides", "5", "Solve $x+5=10$.", False),
        ("Use 15 and 5.5", "5", "", False),
        ("Add the digits.", "5", "", False),
        ("12 + 9 = 21", "21", "12 and 9", True),
    ],
)
def test_what_gives_an_answer_away(hint: str, gold: str, problem: str, given: bool) -> None:
    assert reveals(hint, gold, problem) is given


def test_hints_reach_the_helper_they_are_for_and_never_hold_the_answer(tmp_path: Path) -> None:
    task = load("scaf-grpo", [SCAF_ROW], tmp_path).task(0)
    assert task.hints["knowledge"] == tuple(SCAF_ROW["knowledge_components_parts"])  # type: ignore[arg-type]
    assert task.hints["reasoning"] == (
        "Count the red ones.", "Count the blue ones.", "Add.", "State the sum.", "There are $12$ red ones.",
        "There are $9$ blue ones.",
    )  # fmt: skip
    assert "Disjoint" not in repr(task)
    assert load("knowrl", [KNOWRL_ROW], tmp_path).task(0).hints == {"knowledge": ("A product is a repeated sum.",)}


def test_declarations_of_ones_own(tmp_path: Path) -> None:
    own = DataSet(
        family="riddles", repository="me/riddles", splits=("train",), description="", problem="q", answer="a.text",
        answer_type="exact",
    )  # fmt: skip
    path = write_jsonl(tmp_path / "r.jsonl", [{"q": "Who?", "a": {"text": "The  Sphinx"}}])
    tasks = QuestionTasks(family=own, data=path)
    assert [tasks.grade(tasks.task(0), text).correct for text in ("the sphinx ", "a sphinx", "")] == [
        True,
        False,
        False,
    ]
    with pytest.raises(UnknownIdError, match="deepscaler"):
        QuestionTasks(family="deepscalr", data=path)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_formats_of_files(suffix: str, tmp_path: Path) -> None:
    rows = [dict(SCAF_ROW), {**SCAF_ROW, "question": "Another one?"}]
    path = tmp_path / "scaf-grpo" / f"train.{suffix}"
    path.parent.mkdir()
    if suffix == "parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="the extra 'eval' is not installed")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if suffix == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    tasks = QuestionTasks(family="scaf-grpo", data=tmp_path)
    assert tasks.num_tasks == 2
    assert tasks.task(0).hints["knowledge"][0] == "Disjoint sets add up."


def test_several_configurations_and_splits_of_a_hub_are_one_set(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the extra 'eval' is not installed")
    files: dict[str, bytes] = {}
    card = "---\nconfigs:\n"
    for subject in DATA_SETS["math"].configs:
        card += f"- config_name: {subject}\n  data_files:\n"
        for split in ("train", "test"):
            row = {**MATH_ROW, "problem": f"{split} of {subject}?"}
            files[f"{subject}-{split}.jsonl"] = json.dumps(row).encode() + b"\n"
            card += f"  - split: {split}\n    path: {subject}-{split}.jsonl\n"
    files["README.md"] = (card + "---\n").encode()
    test = json.dumps({**MATH500, "problem": "Test of algebra"}).encode() + b"\n"
    hub = FakeHub({"EleutherAI/hendrycks_math": files, "HuggingFaceH4/MATH-500": {"test.jsonl": test}})
    code = "import json, aipo_env; print(json.dumps(aipo_env.make('math').tasks.provenance()))"
    with serving(hub):
        process = run_with(hub, code, tmp_path)
    assert process.returncode == 0, process.stderr
    known = json.loads(process.stdout)
    assert known["dropped"] == {"stands in math500": 1}
    assert (known["rows"], known["rows_read"], known["revision"]) == (13, 14, COMMIT)
    assert known["config"].startswith("algebra+counting_and_probability+")


def test_one_file_of_a_repository(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the extra 'eval' is not installed")
    rows = json.dumps(SCAF_ROW).encode() + b"\n"
    code = (
        "import dataclasses, json\n"
        "from aipo_env.tasks.data_sets import DATA_SETS\n"
        "from aipo_env.tasks.questions import QuestionTasks\n"
        "family = dataclasses.replace(DATA_SETS['scaf-grpo'], file='train.jsonl')\n"
        "print(json.dumps(QuestionTasks(family=family).provenance()))"
    )
    hub = FakeHub({"hkuzxc/scaf-grpo-dataset": {"train.jsonl": rows, "other.jsonl": b'{"a": 1}\n'}})
    with serving(hub):
        process = run_with(hub, code, tmp_path)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["files"] == {"train.jsonl": None}


def test_gold_answers_of_math500_are_read_off_its_solutions(data_folder: Path) -> None:
    math500 = DATA_SETS["math500"]
    solutions = dataclasses.replace(math500, family="math500", answer="solution", answer_from="boxed")
    plain, boxed = (QuestionTasks(family=family, data=data_folder) for family in (math500, solutions))
    assert sum(plain.task(i).gold == boxed.task(i).gold for i in range(500)) == 500


def test_the_environments_ids_are_the_declarations() -> None:
    for family, declared in DATA_SETS.items():
        for env_id in (family, f"{family}-consult"):
            assert aipo_env.registry.env_spec(env_id).splits == declared.splits
