"""Grade a file of answers: one verdict per row, and a summary."""

from __future__ import annotations

import contextlib
import json as json_module
import re
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from aipo_env.grading.grader import DEFAULT_TIMEOUT, grade_answer, grade_text
from aipo_env.grading.policy import PRESETS
from aipo_env.grading.verdicts import Grade, explain

FORMS = ("answer", "text")


@dataclass(slots=True)
class GradeSummary:
    """What grading a file came to. Rows with a field ``equal`` are scored, unless they are ``contested``."""

    rows: int = 0
    """Rows graded."""
    verdicts: dict[str, int] = field(default_factory=dict)
    """How often each verdict was given."""
    rules: dict[str, int] = field(default_factory=dict)
    """How often each rule decided, by its outermost name."""
    scored: int = 0
    """Rows that say whether the answer is right, and are not marked as contested."""
    accuracy: float | None = None
    """Share of the scored rows on which the grader agrees; None without such rows."""
    false_positives: int = 0
    """Scored rows graded correct that are not."""
    false_negatives: int = 0
    """Scored rows not graded correct that are."""
    median_ms: float = 0.0
    """Median time of one row."""
    slowest_ms: float = 0.0
    """Time of the slowest row."""
    policy: str = "math500"
    """The conventions used."""

    def count(self, row: dict[str, Any], grade: Grade) -> None:
        """Adds one row."""
        self.rows += 1
        rule = re.split("[./]", grade.rule)[0]
        self.verdicts[grade.verdict.value] = self.verdicts.get(grade.verdict.value, 0) + 1
        self.rules[rule] = self.rules.get(rule, 0) + 1
        equal = row.get("equal")
        if not isinstance(equal, bool) or row.get("contested"):
            return
        self.scored += 1
        self.false_positives += grade.correct and not equal
        self.false_negatives += equal and not grade.correct
        self.accuracy = 1 - (self.false_positives + self.false_negatives) / self.scored

    def __str__(self) -> str:
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in self.verdicts.items())
        parts = [f"{self.rows} rows under policy {self.policy}: {verdicts or 'none'}"]
        if self.accuracy is not None:
            parts.append(
                f"accuracy {100 * self.accuracy:.2f} % of {self.scored} scored "
                f"({self.false_positives} false positives, {self.false_negatives} false negatives)"
            )
        if self.rules:
            parts.append("decided by " + ", ".join(f"{rule} {count}" for rule, count in self.rules.items()))
        parts.append(f"median {self.median_ms:.3f} ms, slowest {self.slowest_ms:.1f} ms")
        return "; ".join(parts)


def grade_file(
    pairs: Path,
    json: Path | None = None,
    limit: int | None = None,
    *,
    policy: str = "math500",
    timeout: float = DEFAULT_TIMEOUT,
) -> GradeSummary:
    """Grade a JSON-lines file whose rows have ``gold`` and ``pred``.

    A row may have ``form``: ``answer`` (the default), an already extracted answer, or ``text``, a whole
    text that the policy wrote. With ``equal`` (true or false) the row is scored, unless it has ``contested``:
    there public graders disagree, and the policy decides.

    Args:
        pairs: the rows.
        json: where to write one verdict per row and, last, ``{"summary": ...}``; standard output if left out.
        limit: grade only the first rows.
        policy: name of the conventions, one of `PRESETS`.
        timeout: seconds that one row may take.

    Returns:
        The summary.

    Raises:
        ConfigurationError: for an unknown policy.
        DataNotFoundError: if there is no such file.
        DataFormatError: if a row is not what it should be.
    """
    conventions = PRESETS.get(policy)
    if conventions is None:
        raise ConfigurationError(f"policy must be one of {', '.join(PRESETS)}; got {policy!r}. Choose one of them.")
    if not pairs.is_file():
        raise DataNotFoundError(
            f"Expected a JSON-lines file of gold and pred; there is none at {pairs}. Check the path."
        )
    rows = list(_rows(pairs, limit))
    summary, times = GradeSummary(policy=policy), list[float]()
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(_writable(json)) if json is not None else sys.stdout
        for number, row in rows:
            started = time.perf_counter()
            graded = grade_text if row.get("form") == "text" else grade_answer
            grade = graded(row["gold"], row["pred"], conventions, timeout=timeout)
            times.append(1000 * (time.perf_counter() - started))
            summary.count(row, grade)
            said = {"verdict": grade.verdict.value, "rule": grade.rule, "why": explain(grade.rule)}
            line = {
                "row": row.get("id", number),
                "correct": grade.correct,
                **said,
                "extracted": grade.extracted and grade.extracted[:500],
            }
            output.write(json_module.dumps({**line, "ms": round(times[-1], 4)}) + "\n")
        if times:
            summary.median_ms, summary.slowest_ms = round(statistics.median(times), 4), round(max(times), 4)
        output.write(json_module.dumps({"summary": asdict(summary)}) + "\n")
    if json is not None:
        print(summary)
    return summary


def _writable(json: Path) -> TextIO:
    try:
        json.parent.mkdir(parents=True, exist_ok=True)
        return json.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--json must name a file that can be written; {json}: {error.strerror}.") from None


def _rows(pairs: Path, limit: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
    with pairs.open("rb") as lines:
        count = 0
        for number, data in enumerate(lines, 1):
            if not data.strip():
                continue
            if limit is not None and count >= limit:
                return
            count += 1
            try:
                row = json_module.loads(data.decode("utf-8"))
            except ValueError as error:
                raise DataFormatError(
                    f"{pairs}:{number}: expected one JSON object per line, in UTF-8; {error}. Mend or remove the line."
                ) from None
            if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("gold", "pred")):
                raise DataFormatError(
                    f"{pairs}:{number}: expected the text fields 'gold' and 'pred'. Add them to the row."
                )
            if row.get("form", "answer") not in FORMS:
                raise DataFormatError(
                    f"{pairs}:{number}: 'form' must be 'answer' or 'text'; got {row['form']!r}. Mend the row."
                )
            yield number, row
