from __future__ import annotations

from pathlib import Path

import pytest

from aipo_env.errors import ConfigurationError, DataFormatError
from aipo_env.tasks.questions import QuestionTasks
from aipo_env.tasks.selection import conditions
from aipo_env.training_split import evaluation_env
from tests.tasks.small_data import TRAINING_ROWS, write_jsonl
from tests.tasks.test_curriculum import evaluated

ROW = {"rate": 0.5, "k": "3/8", "level": "Level 3", "date": "2024-07-31", "none": None, "info": {"a.b": 7, "c": [1, 7]}}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("rate <= 0.5", True), ("rate<0.5", False), ("rate >= 0.5", True), ("rate > 0.5", False), ("rate = 0.50", True),
        ("k < 0.4", True), ("k < 3/9", False), ("k=3/8", True), ("level >= Level 3", True), ("level = Level 4|Level 3", True),
        ("level = Level 4", False), ("date < 2024-08-01", True), ("date < 2024-07-01", False), ("none < 1", False),
        ("none = None", False), ("other > 0", False), ("info.a.b = 7", True), ("info.c[1] = 7", True),
        ("info.c[2] = 7", False), ("info.a = 7", False),
        ("rate > 0.1 and rate < 0.6", True), ("rate > 0.1 and rate < 0.4", False), ("", True),
    ],
)  # fmt: skip
def test_conditions(text: str, holds: bool) -> None:
    assert all(condition.holds(ROW) for condition in conditions(text)) is holds
    assert conditions(" and ".join(map(str, conditions(text)))) == conditions(text)


@pytest.mark.parametrize("text", ["rate", "rate <", "< 1", "rate ~ 3", "a < 1 and ", "0.1 < rate < 0.6", "rate == 1"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="conditions are written as"):
        conditions(text)


def big_math(folder: Path, **options: object) -> QuestionTasks:
    (row,) = TRAINING_ROWS["big-math"]
    rates = (0.1, 0.5, 0.9, None)
    rows = [{**row, "problem": f"Problem of {rate}.", "llama8b_solve_rate": rate} for rate in rates]
    data = write_jsonl(folder / "rows.jsonl", rows)
    return QuestionTasks("train", family="big-math", data=data, **options)  # type: ignore[arg-type]


def test_rows_are_kept_by_a_column_and_the_others_are_counted(tmp_path: Path) -> None:
    tasks = big_math(tmp_path, keep="llama8b_solve_rate <= 0.5")
    assert [tasks.task(i).id for i in range(tasks.num_tasks)] == ["big-math/0", "big-math/1"]
    assert tasks.provenance()["keep"] == "llama8b_solve_rate <= 0.5"
    assert tasks.provenance()["dropped"] == {"not llama8b_solve_rate <= 0.5": 2}
    with pytest.raises(DataFormatError, match="none is left: 4 not solve_rate < 1"):
        big_math(tmp_path, keep="solve_rate < 1")


def test_rows_are_kept_by_what_the_policy_solves_alone(tmp_path: Path) -> None:
    rates = evaluated(
        tmp_path / "results.json",
        ("big-math/1", 1, {"solo": (0, 4), "assisted": (2, 4)}),
        ("big-math/2", 2, {"solo": (1, 4), "assisted": (1, 4)}),
        ("big-math/3", 3, {"solo": (0, 4), "assisted": (0, 4)}),
    )
    tasks = big_math(tmp_path, keep="solo = 0 and assisted > 0", rates=rates)
    assert [tasks.task(i).id for i in range(tasks.num_tasks)] == ["big-math/1"]
    assert tasks.provenance()["dropped"] == {"not assisted > 0": 1, "not solo = 0": 2}  # one was not measured
    assert len(str(tasks.provenance()["rates"])) == 64


def test_evaluations_of_a_run_leave_nothing_out() -> None:
    options = {"keep": "solo < 0.5", "rates": "x", "split": "train", "level": 2}
    assert evaluation_env("gsm8k", options, None, {"split": "test"}) == ("gsm8k", {"split": "test", "level": 2})
    assert evaluation_env("gsm8k", options, None, {"keep": "a > 1"})[1]["keep"] == "a > 1"
