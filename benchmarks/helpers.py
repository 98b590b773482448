"""How good the embedded helpers are on real questions: seeded, without a model, on GSM8K's and MATH-500's own texts.

- Verify: lines of GSM8K solutions that hold a marked calculation, with the marks and without them, as they are and
  corrupted (`corrupt`: a digit, an operator, a conversion factor, the base of a percentage, two numbers swapped), and
  sentences of MATH-500 solutions that hold a relation. A corrupted line is used only if its calculation is false by exact
  arithmetic of this program's own; a true one only if all its calculations are true, or rounded.
- Knowledge: the first hit for the queries of `helper_queries.json`, beside the titles that answer them.
- Reasoning: the next step for GSM8K problems. A step counts as useful if it states a calculation `a op b = c` that is true,
  whose c the problem does not state, and that stands among the marked calculations of the problem's own solution (as the same
  numbers and result). That is stricter than "true of the problem": another way to the answer does not count.

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
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal

import tyro

from aipo_agents import KnowledgeAgent, ReasoningAgent, VerifyAgent
from aipo_agents.verdicts import leading_verdict
from aipo_env.errors import DataNotFoundError
from aipo_env.protocol import Agent, ConsultRequest
from benchmarks import report

MARK: Final = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")
QUERIES: Final = Path(__file__).with_name("helper_queries.json")
_OPERATORS: Final[dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_FACTORS: Final = {
    "60": "100",
    "12": "10",
    "7": "5",
    "24": "12",
    "100": "60",
    "16": "12",
    "52": "50",
    "365": "350",
    "3": "4",
}
_UNITS: Final = re.compile(
    r"\b(?:second|minute|hour|day|week|month|year|inch|inches|feet|foot|yard|cent|dozen|ounce|pound)s?\b"
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure, and on which rows."""

    data: Path | None = None
    """Folder with gsm8k/test.jsonl and math500/test.jsonl; AIPO_DATA if left out."""
    half: Literal["dev", "test"] = "test"
    """Half of the problems."""
    lines: int = 1500
    """True GSM8K lines, at most."""
    problems: int = 100
    """GSM8K problems for Reasoning."""
    seed: int = 0
    """Of the choice of rows and of the corruptions."""
    show: int = 0
    """So many failures of each kind are printed."""
    json: Path | None = None
    """Where to write the report."""


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
    root = settings.data or (Path(os.environ["AIPO_DATA"]) if os.environ.get("AIPO_DATA") else None)
    path = root / name / "test.jsonl" if root is not None else None
    if path is None or not path.exists():
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


def gsm8k_lines(rows: Sequence[dict[str, Any]], settings: Settings) -> list[Line]:
    """True lines of solutions, and after each all its corruptions, with calculator marks."""
    rng = random.Random(settings.seed)
    texts = [line for row in rows for line in row["answer"].split("\n") if true_line(line)]
    rng.shuffle(texts)
    return [line for text in texts[: settings.lines] for line in (Line(text, "true"), *corrupt(text, rng))]


def math_sentences(rows: Sequence[dict[str, Any]]) -> list[Line]:
    """Sentences of MATH-500 solutions that hold a relation between pieces of mathematics."""
    found: list[Line] = []
    for row in rows:
        text = re.sub(r"\[asy\].*?\[/asy\]", " ", row["solution"], flags=re.DOTALL)
        for sentence in re.split(r"(?<=[.!?])(?<![0-9]\.)\s+(?=[A-Z$\\])|\n\n", text):
            if re.search(r"[=<>]|\\(?:le|ge|equiv|approx)", sentence) and len(sentence) <= 1000:
                found.append(Line(sentence.strip(), "true"))
    return found


def ask(agent: Agent, query: str) -> str:
    """The text of one reply."""
    return asyncio.run(agent.respond(ConsultRequest(query))).text


def verify(lines: Iterable[Line], settings: Settings, title: str) -> dict[str, float]:
    """Shares of the verdicts: of true lines `correct` and `incorrect`, of corrupted ones `incorrect`, by kind too."""
    agent, counts, shown = VerifyAgent(), collections.Counter[str](), collections.Counter[str]()
    for line in lines:
        reply = ask(agent, line.text)
        verdict = leading_verdict(reply) or "none"
        counts[f"{line.kind}: {verdict}"] += 1
        wanted = "correct" if line.kind == "true" else "incorrect"
        failure = f"{title}, {'true' if line.kind == 'true' else 'corrupted'}: {verdict}"
        if verdict != wanted and shown[failure] < settings.show:
            shown[failure] += 1
            print(f"[{failure}, {line.kind}] {line.text}\n    {reply}")
    kinds = sorted({key.partition(":")[0] for key in counts} - {"true"})
    totals = {
        kind: sum(counts[f"{kind}: {v}"] for v in ("correct", "incorrect", "cannot tell", "none"))
        for kind in ["true", *kinds]
    }
    result = {
        "true lines": float(totals["true"]),
        "true, correct": counts["true: correct"] / max(totals["true"], 1),
        "true, incorrect": counts["true: incorrect"] / max(totals["true"], 1),
    }
    if kinds:
        result["corrupted lines"] = float(sum(totals[kind] for kind in kinds))
        result["corrupted, caught"] = sum(counts[f"{kind}: incorrect"] for kind in kinds) / result["corrupted lines"]
        result["corrupted, correct"] = sum(counts[f"{kind}: correct"] for kind in kinds) / result["corrupted lines"]
        result |= {f"caught: {kind} ({totals[kind]})": counts[f"{kind}: incorrect"] / totals[kind] for kind in kinds}
    return result


def knowledge(settings: Settings) -> dict[str, float]:
    """How often the first hit is a right one."""
    agent = KnowledgeAgent()
    queries: dict[str, list[str]] = json_module.loads(QUERIES.read_text(encoding="utf-8"))
    right = 0
    for number, (query, titles) in enumerate(queries.items()):
        reply = ask(agent, query)
        hit = any(reply.startswith(f"{title}: ") or reply == title for title in titles)
        right += hit
        if not hit and number < settings.show * 100:
            print(f"[knowledge] {query}\n    {reply[:160]}")
    return {"queries": float(len(queries)), "first hit right": right / len(queries)}


def reasoning(rows: Sequence[dict[str, Any]], settings: Settings) -> dict[str, float]:
    """How often the step is useful, wrong by the check, or none."""
    agent, counts, shown = ReasoningAgent(), collections.Counter[str](), collections.Counter[str]()
    chosen = random.Random(settings.seed).sample(list(rows), min(settings.problems, len(rows)))
    for row in chosen:
        step = ask(agent, row["question"])
        kind = judge_step(step, row["question"], row["answer"])
        counts[kind] += 1
        if kind != "useful" and shown[kind] < settings.show:
            shown[kind] += 1
            print(f"[reasoning: {kind}] {row['question']}\n    {step}\n    {MARK.findall(row['answer'])}")
    return {
        "problems": float(len(chosen)),
        **{kind: counts[kind] / len(chosen) for kind in ("useful", "not in the solution", "none")},
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


def benchmark(settings: Settings) -> dict[str, Any]:
    """Runs everything and returns the report."""
    gsm8k, math500 = read_rows(settings, "gsm8k"), read_rows(settings, "math500")
    about = report.machine(("aipo-rl", "bm25s"), threads=1) | {"half": settings.half, "seed": settings.seed}
    start = time.perf_counter()
    lines = gsm8k_lines(gsm8k, settings)
    bare = [dataclasses.replace(line, text=MARK.sub("", line.text)) for line in lines]
    results = {
        "Verify, GSM8K lines with marks": verify(lines, settings, "marks"),
        "Verify, GSM8K lines without marks": verify(bare, settings, "no marks"),
        "Verify, MATH-500 sentences": verify(math_sentences(math500), settings, "MATH"),
        "Knowledge, own queries": knowledge(settings),
        "Reasoning, GSM8K problems": reasoning(gsm8k, settings),
    }
    return {"about": about | {"seconds": round(time.perf_counter() - start, 1)}, "results": results}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark from the command line."""
    settings = tyro.cli(Settings, args=arguments, description=(__doc__ or "").split("\n", 1)[0])
    result = benchmark(settings)
    rows = [
        (part, name, f"{value:,.0f}" if value > 1 else f"{100 * value:.1f} %")
        for part, values in result["results"].items()
        for name, value in values.items()
    ]
    table = report.Table("The embedded helpers", ["helper and rows", "measure", "value"], rows)
    report.print_report(result["about"], [table])
    if settings.json is not None:
        report.write_json(settings.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
