"""`rg/...`: every data set makes tasks that can be repeated, and no answer, however it is written, runs or pays."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import aipo_env
from aipo_env.errors import ConfigurationError, GradingError, MissingDependencyError, UnknownIdError
from aipo_env.grading import Verdict
from aipo_env.grading.mathematics import NoValue, Unreadable
from aipo_env.installation import install_command
from aipo_env.registry import gymnasium_id
from aipo_env.tasks.reasoning_gym import names
from aipo_env.tasks.reasoning_gym.names import DATASETS
from aipo_env.tasks.reasoning_gym.process import PROCESS
from aipo_env.tasks.reasoning_gym.rules import RULES, arithmetic, follows_rule, guard
from aipo_env.tasks.reasoning_gym.tasks import ReasoningGymTasks
from aipo_env.testing import check_consult_env, check_taskset

needs_package = pytest.mark.skipif(
    not names.installed(), reason=f"reasoning-gym is not installed: {install_command('rg')}"
)


def numpy_state() -> bytes:
    return bytes(np.random.get_state()[1].tobytes())  # type: ignore[union-attr]  # noqa: NPY002


GOLDLESS = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
"""Several answers are right, and the package names none."""


@needs_package
def test_the_ids_are_those_of_the_package_and_importing_is_lazy() -> None:
    code = (
        "import sys, aipo_env; ids = aipo_env.list_envs(); assert 'reasoning_gym' not in sys.modules\n"
        "from reasoning_gym.factory import DATASETS\n"
        "print(sorted(DATASETS)); print([i for i in ids if i.startswith('rg/')])"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    theirs, ours = output.splitlines()
    assert json.loads(theirs.replace("'", '"')) == sorted([*DATASETS, "composite"])
    assert json.loads(ours.replace("'", '"')) == sorted(f"rg/{n}{end}" for n in DATASETS for end in ("", "-consult"))


@needs_package
@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_makes_and_grades_a_task(name: str) -> None:
    tasks = ReasoningGymTasks("test", dataset=name)
    task = tasks.task(1)
    assert task.problem
    assert task.metadata["dataset"] == name
    assert "answer" not in task.metadata
    if task.gold:
        assert tasks.grade(task, task.gold).correct
        assert tasks.grade(task, f" {task.gold}\n").correct
    else:
        assert name in GOLDLESS | {"intermediate_integration", "polynomial_equations"}
    start = time.monotonic()
    for answer in HOSTILE:
        grade = tasks.grade(task, answer)
        assert not grade.correct or answer == task.gold, answer
        assert grade.verdict is not Verdict.TIMEOUT
    assert time.monotonic() - start < 60


HOSTILE = (
    "",
    "__import__('os').system('touch ' + '/tmp/aipo-was-here')",
    "[].__class__.__base__.__subclasses__()",
    "9**9**9**9",
    "1e999999999",
    "(" * 2000 + ")" * 2000,
    "[" * 1900,
    "R999999999",
    "A+999999999 B-999999999",
    "nan+nanj",
    "nan",
    "{}",
    "[]",
    "null",
    "Integral(x, x)",
    "\ud800\x00",
    "x" * 300_000,
)


@needs_package
@pytest.mark.parametrize("name", ["binary_matrix", "spiral_matrix", "string_insertion", "n_queens", "countdown", "puzzle24",
                                  "polynomial_multiplication", "simple_integration", "intermediate_integration", "number_sorting",
                                  "bitwise_arithmetic"])  # fmt: skip
def test_no_answer_is_run(name: str, tmp_path: Path) -> None:
    tasks = ReasoningGymTasks(dataset=name)
    task = tasks.task(0)
    trace = tmp_path / "trace"
    for attack in (
        f"__import__('os').system('touch {trace}')",
        f"[open({str(trace)!r}, 'w')]",
        f"(lambda: open({str(trace)!r}, 'w'))()",
        f"sympify(\"__import__('os').system('touch {trace}')\")",
        f"[\"__import__('os').system('touch {trace}')\"]",
    ):
        assert not tasks.grade(task, attack).correct
    assert not trace.exists()


@needs_package
def test_the_scorers_that_this_guards_against_do_run_answers(tmp_path: Path) -> None:
    """The package's own scorer runs the same attack; without this, the test above could not fail."""
    trace = tmp_path / "trace"
    code = (
        "import sys, reasoning_gym\n"
        "data = reasoning_gym.create_dataset('spiral_matrix', seed=1, size=1)\n"
        f"data.score_answer(\"[open({str(trace)!r}, 'w')]\", data[0])"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert trace.exists()


@needs_package
@pytest.mark.slow
def test_tasks_are_a_function_of_the_index_alone() -> None:
    code = (
        "import hashlib, sys\n"
        "from aipo_env.tasks.reasoning_gym.tasks import ReasoningGymTasks as Tasks\n"
        "pairs = [(n, i) for n in sys.argv[2:] for i in (3, 11)]\n"
        "order = pairs if sys.argv[1] == 'forth' else pairs[::-1]\n"
        "found = {(n, i): Tasks(dataset=n).task(i) for n, i in order}\n"
        "print([hashlib.md5(repr(found[p]).encode()).hexdigest() for p in pairs])"
    )
    # Those that depend on hashes, on global random state, or share one instance for all seeds; and one ordinary.
    chosen = [
        "isomorphic_strings",
        "ransom_note",
        "word_ladder",
        "polynomial_multiplication",
        "list_functions",
        "pool_matrix",
        "acre",
        "survo",
        "gsm_symbolic",
        "rush_hour",
        "spell_backward",
        "chain_sum",
    ]
    elsewhere = subprocess.run(
        [sys.executable, "-c", code, "back", *chosen],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "2"},
    ).stdout
    here = [
        hashlib.md5(repr(ReasoningGymTasks(dataset=n).task(i)).encode()).hexdigest() for n in chosen for i in (3, 11)
    ]
    assert elsewhere.strip() == str(here)


@needs_package
def test_splits_seeds_and_indices_differ_and_never_share_a_seed() -> None:
    train, test = ReasoningGymTasks("train", dataset="chain_sum"), ReasoningGymTasks("test", dataset="chain_sum")
    seeds = [{tasks._request(i)["seed"] for i in range(3000)} for tasks in (train, test)]
    assert not seeds[0] & seeds[1]
    assert all(len(s) > 2990 for s in seeds)
    problems = {
        t.task(i).problem for t in (train, test, ReasoningGymTasks(dataset="chain_sum", seed=1)) for i in range(5)
    }
    assert len(problems) == 15


@needs_package
def test_global_random_state_is_untouched() -> None:
    before = random.getstate(), numpy_state()
    for name in ("list_functions", "pool_matrix", "chain_sum"):
        tasks = ReasoningGymTasks(dataset=name)
        tasks.grade(tasks.task(0), "5")
    assert before == (random.getstate(), numpy_state())


@needs_package
def test_only_the_whole_answer_pays() -> None:
    tasks = ReasoningGymTasks(dataset="simple_equations")
    task = tasks.task(0)
    for answer in (f"{task.gold}0", f"{task.gold} or 7", f"it is {task.gold}", f"{task.gold}.5"):
        assert tasks.grade(task, answer).verdict is Verdict.WRONG  # the package pays parts for each of them


@needs_package
def test_what_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "aipo_env.tasks.reasoning_gym.tasks"
    tasks = ReasoningGymTasks(dataset="chain_sum")
    task = tasks.task(0)
    hung = PROCESS._process
    monkeypatch.setattr(f"{module}.GENERATE_SECONDS", 0.5)
    with pytest.raises(GradingError, match="no problem was generated"):
        ReasoningGymTasks(dataset="chain_sum", config={"min_terms": 10**7, "max_terms": 10**7})
    assert hung is not None
    assert hung.poll() == -signal.SIGKILL
    monkeypatch.undo()
    monkeypatch.setattr(f"{module}.SCORE_SECONDS", 120.0)  # however slow the machine is
    assert tasks.grade(task, f"{task.gold}.0").correct  # by a new process
    hung = PROCESS._process
    assert hung is not None
    monkeypatch.setattr(tasks, "task", lambda index: task)  # the scorer is asked first
    monkeypatch.setattr(f"{module}.SCORE_SECONDS", 0.1)
    hung.send_signal(signal.SIGSTOP)
    assert tasks.grade(task, f"{task.gold}.0").verdict is Verdict.TIMEOUT
    assert hung.poll() == -signal.SIGKILL
    monkeypatch.setattr(f"{module}.SCORE_SECONDS", 120.0)
    assert tasks.grade(task, f"{task.gold}.0").correct


@needs_package
def test_configuration() -> None:
    env = aipo_env.make("rg/chain_sum", config={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1})
    plain = aipo_env.make("rg/chain_sum")
    assert env.tasks.task(0).id != plain.tasks.task(0).id
    assert env.tasks.task(0).problem.count("+") + env.tasks.task(0).problem.count("-") == 1
    with pytest.raises(ConfigurationError, match="made by another"):
        plain.tasks.grade(env.tasks.task(0), "1")
    for config, message in (
        ({"nosuch": 1}, "refuses the configuration"),
        ({"min_terms": 5, "max_terms": 2}, "max_terms must be"),
        ({"seed": 3}, "sets seed"),
        ({"min_terms": object()}, "what JSON cannot"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            aipo_env.make("rg/chain_sum", config=config)
    with pytest.raises(UnknownIdError, match="rg/chain_sum"):
        aipo_env.make("rg/chain_sun")
    with pytest.raises(UnknownIdError, match="not offered"):
        aipo_env.make("rg/chain_sum", dataset="composite")
    with pytest.raises(UnknownIdError, match="split"):
        aipo_env.make("rg/chain_sum", split="validation")


@needs_package
def test_the_faces_know_them() -> None:
    assert gymnasium_id("rg/chain_sum-consult") == "aipo/rg.chain_sum-consult-v0"
    ours, theirs = aipo_env.make("rg/chain_sum-consult"), gymnasium.make("aipo/rg.chain_sum-consult-v0")
    assert ours.reset(seed=3)[0]["prompt"] == theirs.reset(seed=3)[0]["prompt"]
    assert aipo_env.make("rg.chain_sum-consult").game.env_id == "rg/chain_sum-consult"
    check_consult_env("rg/chain_sum-consult")
    check_consult_env("rg/rubiks_cube")
    check_taskset(lambda: ReasoningGymTasks("test", dataset="countdown"))


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "installed", lambda: False)
    monkeypatch.setattr("aipo_env.tasks.reasoning_gym.tasks.installed", lambda: False)
    with pytest.raises(MissingDependencyError, match=r"pip install .*rg\]"):
        ReasoningGymTasks(dataset="chain_sum")
    monkeypatch.setattr("aipo_env.registry._envs", {})
    with pytest.raises(MissingDependencyError, match=r"pip install .*rg\]"):
        aipo_env.make("rg/chain_sum-consult")


def test_arithmetic() -> None:
    assert arithmetic("(1 + 2)*3/4 - -5") == (Fraction(29, 4), [1, 2, 3, 4, 5])
    for text in ("1/0", "2**3", "9**9**9", "x", "1.5", "1 if 2 else 3", "True", "(1,2)",
                 "(" * 999 + "1" + ")" * 999, "f(1)", "'a'", "1\n", "", "-" * 3999 + "1", "3(4)", "3 1/2", "(1)(2)", "(1) 2", "6//2", "4!"):  # fmt: skip
        with pytest.raises((ValueError, NoValue, Unreadable)):
            arithmetic(text)


POLYNOMIAL: dict[str, object] = {"answer": "2*x**2*y + 5*x/2 + 3", "metadata": {"variables": ["x", "y"]}}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("3 + 2*y*x*x + 2.5*x", True), ("2*x**2*y + 3*x - x/2 + 3", True), ("2x^2 y + 5x/2 + 3", False),
        ("2*x**2*y + 5*x/2 + 3.001", False), ("2*x**2*y + 5*x/2 + z", False), ("x*(2*x*y + 5/2) + 3", False),
        ("p = 2*x**2*y + 5*x/2 + 3", False), ("2*x**2*y + 5*x/2 + x.real", False), ("", False), ("x**9**9**9", False),
    ],
)  # fmt: skip
def test_polynomials(answer: str, right: bool) -> None:
    assert follows_rule("polynomial_multiplication", answer, POLYNOMIAL) is right


@pytest.mark.parametrize(
    ("answer", "integrand", "right"),
    [
        ("x**3/3 + C", "x**2", True),
        ("x**3/3", "x**2", True),
        ("x**3/3 + 1e-3*x", "x**2", False),
        ("2*x**3/6 - 7", "x**2", True),
        ("exp(x)*(sin(x)-cos(x))/2 + C", "exp(x)*sin(x)", True),
        ("E**x*(sin(x)-cos(x))/2", "exp(x)*sin(x)", True),
        ("exp(x)*sin(x)/2", "exp(x)*sin(x)", False),
        ("x*log(x) - x", "log(x)", True),
        ("x*asin(2*x) + sqrt(1-4*x**2)/2", "asin(2*x)", True),
        ("x*atan(3*x) - ln(1+9*x**2)/6", "atan(3*x)", True),
        ("-cos(2*x+1)**3/6", "cos(2*x+1)**2*sin(2*x+1)", True),
        ("cos(2*x+1)**3/6", "cos(2*x+1)**2*sin(2*x+1)", False),
        ("2*(3*x-2)**(3/2)/9", "sqrt(3*x-2)", True),
        ("x**x", "x**x*(log(x)+1)", True),
        ("C", "x", False),
        ("exp(exp(exp(9**9)))", "x", False),
        ("x**99999999999", "x", False),
    ],
)
def test_antiderivatives(answer: str, integrand: str, right: bool) -> None:
    entry = {"answer": "", "metadata": {"integrand": integrand, "variable": "x"}}
    assert follows_rule("simple_integration", answer, entry) is right


@pytest.mark.parametrize(
    "text",
    [
        "Integral(x,x)",
        "x^2",
        "x**2/2 + y",
        "exp",
        "exp(x, x)",
        "x.real",
        "lambda: x",
        "x if x else x",
        "diff(x)",
        "nan",
    ],
)
def test_what_is_no_elementary_function(text: str) -> None:
    assert not follows_rule("simple_integration", text, {"answer": "", "metadata": {"integrand": "x", "variable": "x"}})
    assert follows_rule("simple_integration", "x**2/2", {"answer": "", "metadata": {"integrand": "x", "variable": "x"}})


@pytest.mark.parametrize(
    ("name", "entry", "right", "wrong"),
    [
        ("binary_matrix", {"answer": "0 1\n1 0"}, "0 1 \n 1 0", "[[0, 1], [1, 0]]"),
        ("spiral_matrix", {"answer": "1 2 3"}, "1  2 3", "[1, 2, 3]"),
        ("n_queens", {"answer": "Q _", "metadata": {"valid_answers": ["Q _\n_ Q", "_ Q\nQ _"]}}, " _ Q \n Q _ ", "Q Q\n_ _"),
        ("countdown", {"answer": "1+2", "metadata": {"target": 7, "numbers": [2, 1, 3]}}, "2*3 + 1", "7"),
        ("puzzle24", {"answer": "6*4*1*1", "metadata": {"numbers": [8, 3, 1, 1]}}, "8*3*1*1", "6*4*1*1"),
        ("coin_flip", {"answer": "0.0009765625"}, "1/1024", "0.001"),
        ("figlet_font", {"answer": "ABCDEFGHIJK"}, "a b cdefghijk", "ABCDEFGHIJKL"),
        ("game_of_life", {"answer": "[[0,1],[1,0]]"}, "[[0, 1], [1, 0]]", "[[0,1,1],[1,0,1]]"),
        ("game_of_life_halting", {"answer": "False"}, "false", "True"),
        ("gsm_symbolic", {"answer": "1200"}, "$1,200.0", "1200 or 1300"),
        ("letter_jumble", {"answer": "a right"}, "A  Right", "a right wing"),
        ("number_sorting", {"answer": "['1.0', '2.5']"}, "[1, 2.50]", "[1.0, 2.6]"),
        ("polynomial_equations", {"answer": "-1.5, 2.0"}, "2, -1.5", "-1.5"),
        ("polynomial_equations", {"answer": ""}, '""', "hello"),
        ("word_sorting", {"answer": "a, b", "metadata": {"sorted_words": ["a", "b"]}}, "a,b", "a, b, c"),
        ("polynomial_multiplication", {"answer": "x**2 + 3*x + 2", "metadata": {"variables": ["x"]}}, "2+x*x+3*x", "(x+1)*(x+2)"),
        ("simple_integration", {"answer": "x**2 + C", "metadata": {"integrand": "2*x", "variable": "x"}}, "x**2 + 5", "Integral(2*x,x)"),
    ],
)  # fmt: skip
def test_rules(name: str, entry: dict[str, object], right: str, wrong: str) -> None:
    assert follows_rule(name, right, entry)
    assert not follows_rule(name, wrong, entry)
    assert not any(follows_rule(name, answer, entry) for answer in HOSTILE)


def test_the_guard() -> None:
    assert guard("chain_sum", "-12", "-12")
    assert not guard("chain_sum", "1e9999", "12")
    assert not guard("chain_sum", "5" * 5000, "12")
    assert not guard("complex_arithmetic", "nan+nanj", "1.0 + 2.0i")
    assert guard("word_ladder", "NAN,BAN", "TAN,BAN")
    assert guard("rush_hour", "A+12 B-3", "")
    assert not guard("rush_hour", "A+123", "")
    assert not guard("rubiks_cube", "R 2 U999", "")
    assert RULES.keys() <= set(DATASETS)
