r"""Answers that try to hang, crash, escape from or fool the grader."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo_env.grading import AIME, GSM8K, MATH500, Verdict, grade_answer, grade_text
from aipo_env.grading.clean import Refused, clean
from aipo_env.grading.parser import Unreadable, parse

BOMBS = [
    "9^9^9^9^9",
    r"2^{2^{2^{2^{2^{2}}}}}",
    "10^{10^{10}}",
    "1e999999",
    "100000!",
    "((10!)!)!",
    r"\binom{100000}{50000}",
    r"\sum_{a=1}^{1999}\sum_{b=1}^{1999}\sum_{c=1}^{1999} abc",
    r"\prod_{k=1}^{1999} k^k",
    "1" + "+1" * 900,
    "-" * 1900 + "1",
    "(" * 1900,
    "(" * 50 + "1" + ")" * 50,
    r"\frac{1}" * 250,
    r"\sqrt{" * 50 + "2" + "}" * 50,
    r"\text{" * 300,
    "x^" * 900 + "x",
    "1/" * 900 + "1",
    "|" * 1900,
    "%" * 1900,
    "'" * 1900,
    "9" * 1900,
    "0." + "0" * 1900 + "1",
    "1," * 900 + "1",
    r"\pm 1" * 60,
    "answer" + " " * 1900 + "x",
    r"\begin{pmatrix}" * 100,
    r"\begin{pmatrix}" + r"\\".join(["&".join([r"\sqrt{2}"] * 9)] * 9) + r"\end{pmatrix}",
    r"\{" + ",".join(map(str, range(400))) + r"\}",
    ",".join(rf"\sqrt{{{i}}}" for i in range(200)),
    r"\cup".join(f"({i},{i + 1})" for i in range(0, 200, 2)),
    r"(x+1)^{60}(x+y)^{60}(y+z)^{60}",
    r"\lim_{x\to 0}\lim_{y\to 0} (\sin x)^{\tan y}",
    r"\int_0^{\infty} \sin(x^x) e^{-x^2} dx",
    "=".join("abcdefghij" * 20),
    "<".join("abcdefghij" * 20),
    "x" * 5_000_000,
    " " * 5_000_000,
    # Found by fuzzing: recursion without brackets.
    "|" * 500,
    r"\|" * 250,
    r"\sin " * 300,
    r"\gcd" * 300,
    r"\frac" * 300,
    r"x^\sin " * 200 + "x",
    r"\$" * 300,
    "x" + "!" * 400,
    "x" + "'" * 400,
    r"\sqrt " * 300 + "2",
]
GOLDS = ["2", r"\{1,2\}", r"(1,\infty)", "x^2+1", r"\begin{pmatrix}1\\2\end{pmatrix}", r"\text{odd}"]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb[:20])
def test_bombs_get_a_verdict_in_time(bomb: str) -> None:
    for gold in GOLDS:
        started = time.perf_counter()
        grade = grade_answer(gold, bomb)
        assert time.perf_counter() - started < 20  # 1 s is promised; the limit is against what grows
        assert not grade.correct, (gold, grade)
    assert grade_answer("5", "10/2").correct


@pytest.mark.parametrize(
    "answer",
    [
        "3 or 4",
        "3, 4",
        "3,3",
        r"\{3, 4\}",
        "2=3",
        "3=4",
        "x",
        "x=3 or x=4",
        r"3 \pm 0.5",
        "3 (or maybe 4)",
        "3 but perhaps 4",
        r"3 \text{ or so } 4",
        r"2 \le x \le 4",
        r"x \in \mathbb{R}",
        "300",
        "0.03",
        r"\text{3}4",
        "3 4",
        "3_",
        "3\u0301",
        "\u0663",
        "\uff13",
        "\U0001d7d1",
        "\u2462",
        "3\x00",
        "\ud800",
        "None",
        "nan",
        "True",
        r"\boxed{2}\boxed{3}",
        r"\max(3, x)",
        "-3",
        "\u22123",
    ],
)
def test_hedges_and_lookalikes_are_not_accepted(answer: str) -> None:
    assert not grade_answer("3", answer).correct


@pytest.mark.parametrize(
    "code",
    [
        "__import__('os').system('touch {path}')",
        "open('{path}', 'w')",
        "[open('{path}', 'w')]",
        "().__class__.__base__.__subclasses__()",
        "exec(\"open('{path}','w')\")",
        "(lambda: open('{path}', 'w'))()",
        r"\write18{{touch {path}}}",
        r"\input{{{path}}}",
        "print(3) or open('{path}','w').close()",
        "f(open('{path}','w'))",
    ],
)
@pytest.mark.parametrize("gold", ["3", "x+1", r"\begin{pmatrix}1\\2\end{pmatrix}"])
def test_code_is_text(tmp_path: Path, code: str, gold: str) -> None:
    target = tmp_path / "written"
    assert not grade_answer(gold, code.format(path=target)).correct
    assert not target.exists()


def test_a_nearly_full_stack_is_no_crash() -> None:
    def deep(left: int) -> bool:
        return deep(left - 1) if left else grade_answer("x+1", "(" * 30 + "x" + ")" * 30).correct

    for depth in range(600, 960, 40):
        with contextlib.suppress(RecursionError):  # ours or the test's own, but never a broken grader
            assert not deep(depth)
    assert grade_answer("x+1", "1+x").correct


def test_a_gold_is_never_matched_by_what_is_unreadable() -> None:
    assert grade_answer("2", "((2").verdict is Verdict.UNPARSABLE
    assert grade_answer("2", r"\frac{2}").verdict is Verdict.UNPARSABLE


PIECES = st.sampled_from(
    [*"0123456789abxyz+-*/^_=<>(){}[]|,;:!'&%$.", " ", "\\", "\\\\", "\\frac", "\\sqrt", "\\text{", "\\sum_{k=1}^{n}",
     "\\int_0^1", "\\lim_{x\\to0}", "\\sin", "\\log_", "\\cup", "\\pm", "\\infty", "\\begin{pmatrix}", "\\end{pmatrix}",
     "\\binom", "\\left", "\\right", "^\\circ", "\\%", "dx", "cm", "and", "or", "\\overline{", "\\gcd", "\\mod", "é", "\x07"]
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(st.lists(PIECES, max_size=50).map("".join))
def test_cleaning_and_parsing_only_ever_refuse(text: str) -> None:
    try:
        cleaned = clean(text)
        parse(cleaned)
    except (Refused, Unreadable):
        pass


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=25).map("".join), st.sampled_from(["2", "x+1", "1,2", "(0,1)"]))
def test_grading_never_raises_and_everything_equals_itself(text: str, gold: str) -> None:
    grade = grade_answer(gold, text, timeout=0.5)
    assert grade.correct == (grade.verdict is Verdict.CORRECT)
    if text.strip():
        assert grade_answer(text, text).correct


MATRIX = r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"
SLOW = [
    (r"\begin{pmatrix}7&10\\15&22\end{pmatrix}", MATRIX * 24),
    (r"\begin{pmatrix}7&10\\15&22\end{pmatrix}", MATRIX.replace("1", "x") * 24),
    (r"\begin{pmatrix}7&10\\15&22\end{pmatrix}", MATRIX.replace("1", r"\sqrt{2}") * 24),
    (r"(-\infty,0)\cup(0,\infty)", r"\cup".join(rf"(\sum_{{k=1}}^{{1999}}\sqrt{{k}},{n})" for n in range(99, 119))),
    ("x=5", "=".join([r"\sum_{k=1}^{1999}\frac{1}{k}"] * 40)),
    (r"\sqrt{2}", r"\sum_{a=1}^{1999}\sum_{b=1}^{1999}\sqrt{ab}"),
    ("1,2,3", ",".join(rf"\sqrt{{{n}}}" for n in range(60))),
    (",".join(rf"\sqrt{{{n}}}" for n in range(60)), ",".join(rf"\sqrt{{{n}}}" for n in range(1, 61))),
    ("2^{60000}", "4^{30000}+1"),
    (r"\sqrt{2}", r"\sqrt{2}+10^{-4000}"),
    (r"\sqrt{2}", r"\sqrt{2+\frac{1}{7^{3000}}}"),
    ("x", r"x+\frac{1}{x^{900}}"),
    ("2", r"\exp(\exp(\exp(9^9)))"),
    ("2", r"\sin(e^{9^9})"),
    ("2", r"(1+i)^{e^{25}}"),
]


@pytest.mark.parametrize(("gold", "answer"), SLOW, ids=range(len(SLOW)))
def test_repair_06_every_decision_is_bounded_in_time(gold: str, answer: str) -> None:
    started = time.perf_counter()
    assert not grade_answer(gold, answer).correct
    assert time.perf_counter() - started < 20  # 1 s is promised; the limit is against what grows


def test_repair_06_powers_of_a_matrix_are_computed() -> None:
    assert grade_answer(r"\begin{pmatrix}7&10\\15&22\end{pmatrix}", MATRIX * 2).correct
    assert grade_answer(MATRIX + "^{12}", MATRIX * 12).correct


@pytest.mark.parametrize(
    "text",
    [
        "5 million", "5 incorrect", "5 squared", r"5\text{ divided by two}", r"\text{half of }5", "half of 5",
        r"\text{it is false that the answer is }5", "it is false that the answer is 5", "the opposite of 5",
        r"\text{a quarter of }5", "the square of the answer is 5", r"5\text{ fifths}", "5 cubed", r"5\text{ or so}",
        "5 apples^2", r"5\text{ apples}^2", "5 zorkmids", r"\text{anything but }5", "minus 5", r"5 \text{ to the power of two}", "5 dozen",
    ],
)  # fmt: skip
def test_repair_07_words_are_units_or_introductions_only_if_they_are_known(text: str) -> None:
    for policy in (MATH500, GSM8K, AIME):
        assert not grade_answer("5", text, policy).correct, policy
        for form in (f"Answer: {text}", rf"so \boxed{{{text}}}", f"So: {text}", f"<answer>{text}</answer>"):
            assert not grade_text("5", form, policy).correct, (form, policy)


def test_repair_07_zeros_behind_a_comma_are_an_answer_of_their_own() -> None:
    assert not grade_answer("5", "5,0").correct
    assert not grade_answer("0", "0,0000").correct
    assert grade_answer("0.5", "0,50").correct


def test_repair_07_number_words_multiply_and_a_golds_own_unit_counts() -> None:
    assert grade_answer("1000000", "1 million").correct
    assert not grade_answer("1000000", r"1\text{ million}^2").correct
    assert grade_answer("5", r"5\text{ cm}^2").correct
    assert grade_answer("3.5 million dollars", "3500000").correct
    assert grade_answer("24", "2 dozen eggs").correct
    assert grade_answer("25", "twenty-five").correct
    assert grade_answer(r"5 \text{ zorkmids}", "5 zorkmids").correct
    assert grade_answer("5", "5 green apples").correct
