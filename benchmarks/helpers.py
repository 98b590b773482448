"""How good the embedded helpers are on real questions: seeded, without a model, on GSM8K's and MATH-500's own texts.

- Verify: lines of GSM8K solutions that hold a marked calculation, with the marks and without them, as they are and
  corrupted (`corrupt`: a digit, an operator, a conversion factor, the base of a percentage, two numbers swapped), and
  sentences of MATH-500 solutions that hold a relation. A corrupted line is used only if its calculation is false by exact
  arithmetic of this program's own; a true one only if all its calculations are true, or rounded.
- Knowledge: the first hit for the queries of `helper_queries.json`, beside the titles that answer them.
- Reasoning: the next step for GSM8K problems. A step counts as useful if it states a calculation `a op b = c` that is true,
  whose c the problem does not state, and that stands among the marked calculations of the problem's own solution (as the same
  numbers and result). That is stricter than "true of the problem": another way to the answer does not count.
- Answers given away (`aipo_env.leaks`): how often a whole solution is found to state its gold, and how often a sentence of
  another one is.

Problems are split in halves by a hash of their text: `dev` to develop on, `test` to report. The data are read from `--data`
(or AIPO_DATA): a folder with gsm8k/test.jsonl and math500/test.jsonl.
"""

from __future__ import annotations

import ast
import asyncio
import collections
import dataclasses
import hashlib
import json as json_module
import operator
import os
import random
import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal

from aipo_agents import KnowledgeAgent, ReasoningAgent, VerifyAgent
from aipo_agents.verdicts import leading_verdict
from aipo_env.errors import DataNotFoundError
from aipo_env.grading import INTEGER, MATH500, GradingPolicy, grade_answer
from aipo_env.installation import DISTRIBUTION
from aipo_env.leaks import answer_in, states_gold
from aipo_env.protocol import Agent, ConsultRequest
from aipo_env.tasks.base import Task
from benchmarks import report

MARK: Final = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])(?<![0-9]\.)\s+(?=[A-Z$\\])|\n\n")
QUERIES: Final = Path(__file__).with_name("helper_queries.json")
_OPERATORS: Final[dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_CONFUSED: Final = ((60, 100), (12, 10), (7, 5), (24, 12), (100, 60), (16, 12), (52, 50), (365, 350), (3, 4))
_FACTORS: Final = {str(factor): str(wrong) for factor, wrong in _CONFUSED}
"""Conversion factors, and what each is confused with."""
_UNITS: Final = re.compile(
    r"\b(?:second|minute|hour|day|week|month|year|inch|inches|feet|foot|yard|cent|dozen|ounce|pound)s?\b"
)


NUM_LINES: Final = 1500
"""True GSM8K lines, at most."""
NUM_PROBLEMS: Final = 100
"""GSM8K problems for Reasoning."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(report.Settings):
    """What to measure, and on which rows."""

    data: Path | None = None
    """Folder with gsm8k/test.jsonl and math500/test.jsonl; AIPO_DATA if left out."""
    half: Literal["dev", "test"] = "test"
    """Half of the problems."""
    seed: int = 0
    """Of the choice of rows and of the corruptions."""


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One line of a solution, true or not."""

    text: str
    kind: str
    """`true`, or how it was corrupted."""


def read_rows(settings: Settings, name: str) -> list[dict[str, Any]]:
    """The chosen half of a data set.

    Raises:
        DataNotFoundError: if it is not there.
    """
    root = settings.data or Path(os.environ.get("AIPO_DATA") or "data")
    path = root / name / "test.jsonl"
    if not path.exists():
        raise DataNotFoundError(f"Expected {name}/test.jsonl in {root}; there is none. Name the folder with --data.")
    rows = [json_module.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [row for row in rows if half_of(row.get("question") or row["problem"]) == settings.half]


def half_of(problem: str) -> str:
    """The half that a problem belongs to, by a hash of its text."""
    return "dev" if hashlib.sha256(problem.encode()).digest()[0] % 2 else "test"


def exact(expression: str) -> Fraction | None:
    """The value of a marked expression, by arithmetic that shares nothing with the engine under test; None: unread."""

    def value(node: ast.AST) -> Fraction:
        match node:
            case ast.Expression(body):
                return value(body)
            case ast.Constant(int() | float()):
                return Fraction(ast.get_source_segment(text, node) or "")
            case ast.BinOp(left, op, right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.UnaryOp(ast.USub(), inner):
                return -value(inner)
        raise ValueError("outside the four operations")

    text = re.sub(r"([0-9.]+)%", r"(\1/100)", expression.replace("$", "").replace(",", "").replace(" ", ""))
    text = re.sub(r"(?<![0-9.])0+(?=[0-9])", "", text)
    try:
        return value(ast.parse(text, mode="eval"))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None


def true_line(text: str) -> bool:
    """Whether all marked calculations of a line are true, exactly or to half a per cent of rounding."""
    marks = MARK.findall(text)
    for left, right in marks:
        a, b = exact(left), exact(right)
        if a is None or b is None or abs(a - b) > abs(a) / 200:
            return False
    return bool(marks)


def corrupt(text: str, rng: random.Random) -> list[Line]:
    """All corruptions of a line that there are, one of each kind, false by exact arithmetic."""
    marks = [match for match in MARK.finditer(text) if re.search(r"[-+*/]", match[1])]
    if not marks:
        return []
    mark = rng.choice(marks)
    left, right = mark[1].replace(" ", ""), mark[2].strip()
    written = _written(text, mark, left)
    found: list[Line] = []

    def add(kind: str, new_left: str, new_right: str) -> None:
        a, b = exact(new_left), exact(new_right)
        if a is None or b is None or abs(a - b) <= max(abs(a), abs(b)) / 50:
            return
        before, after = text[: mark.start()], text[mark.end() :]
        if new_left != left:
            if written is None:
                return
            shown = new_left.replace("*", written[2])
            before = before[: written[0]] + shown + before[written[1] :]
        if new_right != right:
            grouped = re.match(r"\s*\$?[0-9,]*\.?[0-9]*", after)
            if grouped is None or exact(grouped[0]) != exact(right):
                return
            after = re.sub(r"[0-9][0-9,]*\.?[0-9]*|\.[0-9]+", lambda _: new_right, after, count=1)
        found.append(Line(f"{before}<<{new_left}={new_right}>>{after}", kind))

    places = [k for k, char in enumerate(right) if char.isdigit()]
    place = rng.choice(places) if places else 0
    if places:
        digit = rng.choice([d for d in "123456789" if d != right[place]])
        add("digit", left, right[:place] + digit + right[place + 1 :])
    signs = [k for k, char in enumerate(left) if char in "+-*/" and k]
    sign = rng.choice(signs)
    add("operator", left[:sign] + rng.choice([s for s in "+-*/" if s != left[sign]]) + left[sign + 1 :], right)
    numbers = list(re.finditer(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+", left))
    factor = next((n for n in numbers if n[0] in _FACTORS), None)
    if factor is not None and _UNITS.search(text):
        add("conversion", left[: factor.start()] + _FACTORS[factor[0]] + left[factor.end() :], right)
    if "%" in text and len(numbers) >= 2:
        base = max((n for n in numbers if n[0] != "100"), key=lambda n: Fraction(n[0]), default=None)
        if base is not None and Fraction(base[0]).denominator == 1:
            other = str(int(Fraction(base[0])) + rng.choice([-1, 1]) * max(int(Fraction(base[0])) // 5, 1))
            add("percentage base", left[: base.start()] + other + left[base.end() :], right)
    if len(numbers) == 2 and len(signs) == 1:
        a, b = numbers
        if left[signs[0]] in "-/":
            add("swapped", left[: a.start()] + b[0] + left[a.end() : b.start()] + a[0] + left[b.end() :], right)
        else:
            add("swapped", left[: a.start()] + right + left[a.end() :], a[0])
    return found


def _written(text: str, mark: re.Match[str], left: str) -> tuple[int, int, str] | None:
    """Where the marked calculation stands in words before the mark, and its sign for a product."""
    before = re.search(r"([0-9.,$()+*/x× %-]+?)\s*=\s*\$?\s*$", text[: mark.start()])
    if before is None:
        return None
    shown = before[1].strip()
    if re.sub(r"[x×]", "*", shown).replace("$", "").replace(",", "").replace(" ", "") != left:
        return None
    start = before.start(1) + before[1].index(shown)
    product = re.search(r"\s*[x×*]\s*", shown)
    return start, start + len(shown), product[0] if product is not None else "*"


def gsm8k_lines(rows: Sequence[dict[str, Any]], seed: int) -> list[Line]:
    """True lines of solutions, and after each all its corruptions, with calculator marks."""
    rng = random.Random(seed)
    texts = [line for row in rows for line in row["answer"].split("\n") if true_line(line)]
    rng.shuffle(texts)
    return [line for text in texts[:NUM_LINES] for line in (Line(text, "true"), *corrupt(text, rng))]


def math_sentences(rows: Sequence[dict[str, Any]]) -> list[Line]:
    """Sentences of MATH-500 solutions that hold a relation between pieces of mathematics."""
    found: list[Line] = []
    for row in rows:
        text = re.sub(r"\[asy\].*?\[/asy\]", " ", row["solution"], flags=re.DOTALL)
        for sentence in _SENTENCE_END.split(text):
            if re.search(r"[=<>]|\\(?:le|ge|equiv|approx)", sentence) and len(sentence) <= 1000:
                found.append(Line(sentence.strip(), "true"))
    return found


def solution_of(row: dict[str, Any]) -> tuple[Task, list[str]]:
    """The problem of a row with the sentences of its solution."""
    if "question" in row:
        solution, _, gold = row["answer"].rpartition("####")
        return Task("", row["question"], gold.strip().replace(",", "")), MARK.sub("", solution).strip().split("\n")
    return Task("", row["problem"], row["answer"]), _SENTENCE_END.split(row["solution"])


def ask(agent: Agent, query: str) -> str:
    """The text of one reply."""
    return asyncio.run(agent.respond(ConsultRequest(query))).text


def verify(lines: Iterable[Line]) -> dict[str, float]:
    """Shares of the verdicts: of true lines `correct` and `incorrect`, of corrupted ones `incorrect`, by kind too."""
    agent, totals, counts = VerifyAgent(), collections.Counter[str](), collections.Counter[tuple[str, str]]()
    for line in lines:
        verdict = leading_verdict(ask(agent, line.text)) or "none"
        for kind in {line.kind, "true" if line.kind == "true" else "corrupted"}:
            totals[kind] += 1
            counts[kind, verdict] += 1

    def share(kind: str, verdict: str) -> float:
        return counts[kind, verdict] / max(totals[kind], 1)

    result = {"true lines": float(totals["true"])}
    result |= {f"true, {verdict}": share("true", verdict) for verdict in ("correct", "incorrect")}
    if totals["corrupted"]:
        result["corrupted lines"] = float(totals["corrupted"])
        result["corrupted, caught"] = share("corrupted", "incorrect")
        result["corrupted, correct"] = share("corrupted", "correct")
        kinds = sorted(totals.keys() - {"true", "corrupted"})
        result |= {f"caught: {kind} ({totals[kind]})": share(kind, "incorrect") for kind in kinds}
    return result


def knowledge() -> dict[str, float]:
    """How often the first hit is a right one."""
    agent = KnowledgeAgent()
    queries: dict[str, list[str]] = json_module.loads(QUERIES.read_text(encoding="utf-8"))
    right = 0
    for query, titles in queries.items():
        reply = ask(agent, query)
        right += any(reply.startswith(f"{title}: ") or reply == title for title in titles)
    return {"queries": float(len(queries)), "first hit right": right / len(queries)}


def reasoning(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, float]:
    """How often the step is useful, wrong by the check, or none."""
    agent = ReasoningAgent()
    chosen = random.Random(seed).sample(list(rows), min(NUM_PROBLEMS, len(rows)))
    kinds = [judge_step(ask(agent, row["question"]), row["question"], row["answer"]) for row in chosen]
    shares = {kind: kinds.count(kind) / len(chosen) for kind in ("useful", "not in the solution", "none")}
    return {"problems": float(len(chosen)), **shares}


def leaks(solutions: Sequence[tuple[Task, Sequence[str]]], policy: GradingPolicy, seed: int) -> dict[str, float]:
    """How often a reply counts as giving the answer away.

    Args:
        solutions: problems, and the sentences of their solutions.
        policy: of grading.
        seed: of the choice of sentences.
    """
    rng = random.Random(seed)

    def found(task: Task, reply: str) -> bool:
        answer = answer_in(reply, "value")
        graded = answer is not None and grade_answer(task.gold, answer, policy).correct
        return graded or states_gold(reply, task, "", "")

    foreign = [(task, rng.choice(rng.choice(solutions)[1])) for task, own in solutions]
    return {
        "problems": float(len(solutions)),
        "whole solutions found": sum(found(task, " ".join(own)) for task, own in solutions) / len(solutions),
        "foreign sentences found": sum(found(*pair) for pair in foreign) / len(foreign),
    }


def judge_step(step: str, problem: str, answer: str) -> str:
    """`useful`, `not in the solution`, or `none` where the step holds no calculation."""
    found = re.search(r"([0-9.]+(?:/[0-9.]+)?(?:[-+*/()0-9.% ]+))=\s*([0-9.]+(?:/[0-9]+)?)", step)
    if found is None:
        return "none"
    left, right = exact(found[1]), exact(found[2])
    stated = {exact(number) for number in re.findall(r"[0-9][0-9,]*(?:\.[0-9]+)?", problem)}
    results = {exact(result) for _, result in MARK.findall(answer)}
    useful = left is not None and left == right and right not in stated and right in results
    return "useful" if useful else "not in the solution"


def benchmark(settings: Settings) -> report.Result:
    """Asks every helper."""
    gsm8k, math500 = read_rows(settings, "gsm8k"), read_rows(settings, "math500")
    lines = gsm8k_lines(gsm8k, settings.seed)
    bare = [dataclasses.replace(line, text=MARK.sub("", line.text)) for line in lines]
    results = {
        "Verify, GSM8K lines with marks": verify(lines),
        "Verify, GSM8K lines without marks": verify(bare),
        "Verify, MATH-500 sentences": verify(math_sentences(math500)),
        "Knowledge, own queries": knowledge(),
        "Reasoning, GSM8K problems": reasoning(gsm8k, settings.seed),
        "Answers given away, GSM8K": leaks([solution_of(row) for row in gsm8k], INTEGER, settings.seed),
        "Answers given away, MATH-500": leaks([solution_of(row) for row in math500], MATH500, settings.seed),
    }
    rows = [
        (part, name, f"{value:,.0f}" if value > 1 else f"{100 * value:.1f} %")
        for part, values in results.items()
        for name, value in values.items()
    ]
    table = report.Table("The embedded helpers", ["helper and rows", "measure", "value"], rows)
    return report.Result([table], {"results": results})


if __name__ == "__main__":
    raise SystemExit(report.run(Settings, benchmark, (DISTRIBUTION, "bm25s")))
