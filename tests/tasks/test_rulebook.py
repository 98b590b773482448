from __future__ import annotations

import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from aipo_env.errors import AipoError
from aipo_env.grading import Verdict
from aipo_env.tasks.rulebook import (
    COMPOUND,
    LEVELS,
    OPERATORS,
    RulebookTasks,
    chain_step,
    define,
    evaluate,
    evaluate_expansion,
    expand,
)


@pytest.mark.parametrize(
    ("expression", "expansion", "value"),
    [
        ("473@128", "4+4+1;7+7+2;3+3+8", "091614"),
        ("473#128", "4+1+1;7+2+2;3+8+8", "061119"),
        ("473~128", "4+1+2;7+2+8;3+8+1", "071712"),
        ("473&128", "4+3+1;7+7+2;3+4+8", "081615"),
        ("!473", "4+4+7;7+7+3;3+3+4", "151710"),
        ("?473", "4+3+3;7+7+7;3+4+4", "102111"),
        # 473@128 is 091614; # then adds each digit and twice the other: 0+1+1, 9+2+2, 1+8+8, 6+1+1, 1+2+2, 4+8+8
        ("473$128", "(473@128)#128128", "021317080520"),
    ],
)
def test_operators_by_hand(expression: str, expansion: str, value: str) -> None:
    assert expand(expression) == expansion
    assert evaluate(expression) == value
    if "@" not in expansion:
        assert evaluate_expansion(expansion) == value


@pytest.mark.parametrize(
    "text", ["", "47", "47@1", "4@@4", "@", "a@b", "47 @ 12", "12345678901234567890@1", "(47@12", "47*12"]
)
def test_other_text_is_not_expanded(text: str) -> None:
    assert expand(text) is None
    with pytest.raises(AipoError):
        evaluate(text)


def test_chains_by_hand() -> None:
    # Diagonals: the first digit of c, the second of a, the third of b; of b, of c, of a.
    assert chain_step("123|456|789") == "726@483"
    assert chain_step("47|12|35") == "37@15"
    assert evaluate("47|12|35") == evaluate("37@15") == "0719"
    for text in ("47|12", "47|12|3", "47|12|35|46", "(47|12|35)", "4a|12|35", ""):
        assert chain_step(text) is None
    tasks = RulebookTasks(level=5, digits=2)
    kinds = Counter(str(tasks.task(i).metadata["expression"]).count("|") for i in range(400))
    assert kinds.keys() == {0, 2}
    assert 150 < kinds[2] < 250


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_is_solvable_and_its_task_a_function_of_seed_and_index(level: int) -> None:
    tasks, again = RulebookTasks(level=level), RulebookTasks(level=level)
    for index in range(50):
        task = tasks.task(index)
        assert task == again.task(index)
        assert evaluate(str(task.metadata["expression"])) == task.gold
        assert tasks.grade(task, f" {task.gold} ").correct
        assert not tasks.grade(task, task.gold[:-1]).correct
    assert RulebookTasks(level=level, seed=1).task(0) != tasks.task(0)


def test_train_and_test_share_no_operands() -> None:
    def operands(split: str, level: int) -> set[tuple[str, ...]]:
        tasks = RulebookTasks(split, level=level, digits=2)  # type: ignore[arg-type]
        found = (re.findall(r"[0-9]+", str(tasks.task(i).metadata["expression"])) for i in range(1500))
        return {tuple(f[: 1 if level == 1 else 2]) for f in found}

    for level in (1, 2, 3):
        train, test = operands("train", level), operands("test", level)
        assert train
        assert test
        assert not train & test


def test_guessing_is_hopeless() -> None:
    tasks = RulebookTasks(operators="@")
    answers = Counter(tasks.task(i).gold for i in range(4000))
    # The likeliest single answer has (5 / 100) ** 3 = 1 / 8000.
    assert len(answers) > 3000
    assert answers.most_common(1)[0][1] <= 6
    # 28 sums at each of three places
    per_place = {f"{sum(d):02d}" for d in np.ndindex(10, 10, 10)}
    assert len(per_place) ** 3 >= 10_000


def test_problems_hold_neither_the_rule_nor_the_answer() -> None:
    tasks = RulebookTasks()
    for index in range(50):
        task = tasks.task(index)
        assert task.gold not in task.problem
        assert not any(define(s) in task.problem for s in OPERATORS)


def test_definitions_cover_every_operator() -> None:
    assert "add three digits: the digit of a at that place, the digit of a at that place, the digit of b" in define("@")
    assert all(symbol in define(symbol) for symbol in [*OPERATORS, *COMPOUND])
    with pytest.raises(AipoError, match="unknown rulebook operator"):
        define("*")


def test_grades_by_digits() -> None:
    tasks = RulebookTasks()
    task = tasks.task(0)
    assert tasks.grade(task, "").verdict is Verdict.NO_ANSWER
    assert tasks.grade(task, str(int(task.gold) + 1)).verdict is Verdict.WRONG


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 6}, "1 to 5"),
        ({"digits": 1}, "2 to 8"),
        ({"style": "short"}, "terse"),
        ({"operators": "!"}, "level 2 has the operators"),
        ({"split": "validation"}, "unknown rulebook split"),
    ],
)
def test_wrong_options_say_what_to_change(options: dict[str, object], message: str) -> None:
    with pytest.raises(AipoError, match=message):
        RulebookTasks(**options)  # type: ignore[arg-type]


def test_restricting_operators() -> None:
    tasks = RulebookTasks(level=3, operators="@")
    texts = [str(tasks.task(i).metadata["expression"]) for i in islice(range(100), 30)]
    assert all(set(re.sub(r"[0-9()]", "", t)) == {"@"} for t in texts)
