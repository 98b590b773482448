from __future__ import annotations

import re

import pytest

from aipo_env.errors import DataFormatError
from benchmarks.evaluation.markdown import escape, interval, percent, points, table
from benchmarks.evaluation.summary import summary_lines
from benchmarks.evaluation.tables import results_markdown
from tests.benchmarks.evaluation.example import example_results, example_run


def _cells(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table whose heading starts like this."""
    lines = page.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(heading))
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def test_every_table_has_as_many_cells_in_each_row() -> None:
    page = results_markdown(
        example_results(example_run(), example_run(mode="assisted", seed=1), example_run("gsm8k", num_samples=1))
    )
    rows = 0
    for block in page.split("\n\n"):
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1, block
        rows += len(widths)
    assert rows == 7  # scores, pass@k, subject, level, endings, consults, tokens


def test_the_headline_holds_the_scores_of_the_json() -> None:
    run = example_run(num_samples=8)
    average = run["metrics"]["avg_at_n"]  # type: ignore[index, call-overload]
    header, _, row = _cells(results_markdown(example_results(run)), "| suite | mode | tasks")
    cells = dict(zip(header, row, strict=True))
    assert cells["suite"] == "MATH-500"
    assert cells["mode"] == "solo"
    assert cells["tasks"] == "40"
    assert cells["samples"] == "8"
    assert cells["avg@n"] == interval(average["estimate"], average["low"], average["high"])
    assert cells["sampling noise"] == f"{percent(average['sample_low'])} to {percent(average['sample_high'])}"
    assert cells["pass@k"].endswith(" at 8")


def test_mg_pass_at_k_stands_beside_pass_at_k_for_even_k() -> None:
    run = example_run(num_samples=4)
    run["metrics"]["mg_pass_at_k"] = [{"k": k, "estimate": 0.25, "low": 0.125, "high": 0.5} for k in (2, 4)]  # type: ignore[index]
    header, _, *rows = _cells(results_markdown(example_results(run)), "| k |")
    shown = {row[0]: row[header.index("mG-Pass@k, solo")] for row in rows}
    assert shown == {"1": "", "2": interval(0.25, 0.125, 0.5), "4": interval(0.25, 0.125, 0.5)}


def test_help_against_alone_is_paired() -> None:
    page = results_markdown(example_results(example_run(skill=0.5), example_run(mode="assisted", skill=2.0, seed=1)))
    found = re.search(
        r"With help minus alone, avg@n on 40 problems: \+(\d+\.\d) points \(\+(\d+\.\d) to \+(\d+\.\d)", page
    )
    assert found is not None
    low, change, high = float(found[2]), float(found[1]), float(found[3])
    assert low < change < high
    assert "With help minus alone" not in results_markdown(example_results(example_run()))


def test_greedy_and_code_runs_leave_cells_empty() -> None:
    page = results_markdown(
        example_results(example_run("gsm8k", num_samples=1), example_run("livecodebench", code=True))
    )
    header, _, greedy, code = _cells(page, "| suite | mode | tasks")
    assert greedy[header.index("sampling noise")] == ""
    assert code[header.index("maj@n")] == ""
    assert "is\\_sandbox True" in page or "is_sandbox True" in page


def test_an_incomplete_run_says_so() -> None:
    page = results_markdown(
        example_results(example_run("aime24", num_tasks=5, unscored=5), example_run(num_tasks=10, unscored=2))
    )
    assert "**Not complete.**" in page
    header, _, none, some = _cells(page, "| suite | mode | tasks")
    assert none == ["AIME 2024", "solo", "0 of 5", "4", "25.0", "", "", "", ""]
    assert some[header.index("tasks")] == "8 of 10"
    assert some[header.index("faults")] == percent(2 / 40) == "5.0"
    assert r"5 ended by a fault: 5 x ServiceError: 503 \| \<busy\>" in page
    assert "**Not complete.**" not in results_markdown(example_results(example_run()))


def test_consults_tokens_and_cost() -> None:
    page = results_markdown(example_results(example_run(mode="assisted")))
    consults = _cells(page, "| suite | helper")
    assert consults[3] == ["MATH-500", "verify", "20.0", "0.25", "20", "20", "0", "0", "3"]
    assert consults[4] == ["MATH-500", "knowledge", "40.0", "0.50", "42", "40", "2", "5", "0"]
    header, _, tokens = _cells(page, "| suite | mode | prompt")
    cells = dict(zip(header, tokens, strict=True))
    assert cells["policy"] == "51,360"
    assert cells["helpers' own"] == "1,234"
    assert cells["cost, USD"] == "0.0125"
    assert "20 replies came from helpers that report neither tokens nor cost" in page
    assert "## Consults" not in results_markdown(example_results(example_run()))


def test_repair_29_asked_and_answered_stand_apart_on_the_terminal() -> None:
    (line,) = summary_lines(example_results(example_run(mode="assisted")))
    assert line.endswith("0.78 consults an episode, 0.75 answered")
    run = example_run(mode="assisted")
    run["consults"]["asked_per_episode"] = 0.75  # type: ignore[index]
    (line,) = summary_lines(example_results(run))
    assert line.endswith("0.75 consults an episode")


def test_breakdowns_show_both_modes() -> None:
    page = results_markdown(example_results(example_run(), example_run(mode="assisted", seed=1)))
    header, _, *rows = _cells(page, "| subject |")
    assert header == ["subject", "tasks", "avg@n, solo", "pass@n, solo", "avg@n, assisted", "pass@n, assisted"]
    assert [row[0] for row in rows][:2] == ["Algebra", "Counting & Probability"]
    assert sum(int(row[1]) for row in rows) == 40
    assert [row[0] for row in _cells(page, "| level |")[2:]] == ["1", "2", "3", "4", "5"]


def test_what_repeats_it() -> None:
    page = results_markdown(example_results(example_run(), example_run(mode="assisted", seed=1)))
    assert "    aipo eval --suite math500 --policy my-policy\n" in page
    assert "- seed: 0" in page
    assert "aipo 0.1.0, python 3.11.7" in page
    assert "revision 0123abc" in page
    assert "max_tokens 1024 instead of 32768" in page
    assert "which invites to consult:\n\n    Solve it.\n\n    {problem}\n    {agents}\n" in page
    # Both modes share their settings, which are shown once.
    assert page.count("### MATH-500, solo and assisted") == 1
    assert page.count("revision 0123abc") == 1


def test_figures_are_linked_by_name() -> None:
    page = results_markdown(example_results(example_run()))
    for name in ("pass_at_k.math500.png", "by_subject.math500.png", "by_level.math500.png"):
        assert f"({name})" in page


def test_foreign_text_opens_nothing() -> None:
    run = example_run()
    run["errors"] = [{"error": "a | b\n# title <script> [x](y) `code` *bold* _it_ a_b", "count": 1}]
    page = results_markdown(example_results(run))
    assert r"a \| b \# title \<script\> \[x\](y) \`code\` \*bold\* \_it\_ a_b" in page


def test_a_missing_field_is_named() -> None:
    run = example_run()
    del run["tokens"]
    with pytest.raises(DataFormatError, match="expected a field 'tokens'"):
        results_markdown(example_results(run))


def test_small_pieces() -> None:
    assert table(("a", "b", "c"), [("x", "1", "2")], num_left=2) == ["| a | b | c |", "|---|---|---:|", "| x | 1 | 2 |"]
    assert [points(x) for x in (0.0212, -0.0212, 0.0, -0.0001)] == ["+2.1", "−2.1", "0.0", "0.0"]
    assert interval(0.5, 0.25, 0.75) == "50.0 (25.0 to 75.0)"
    assert interval(None, None, None) == percent(None) == ""
    assert escape("max_tokens") == "max_tokens"
