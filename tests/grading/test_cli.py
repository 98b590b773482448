from __future__ import annotations

import json
from pathlib import Path

import pytest

from aipo_env.cli import main
from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from aipo_env.grading import grade_answer
from aipo_env.grading.cli import grade_file
from aipo_env.grading.verdicts import explain


def _write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_each_row_gets_a_verdict_and_the_file_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = _write(
        tmp_path / "pairs.jsonl",
        [
            {"gold": "3", "pred": "3", "equal": True},
            {"gold": "3", "pred": "4", "equal": True, "id": "second"},
            {"gold": "3", "pred": r"so \boxed{3}", "form": "text", "equal": False},
            {"gold": "10", "pred": "10%", "equal": False, "contested": "percent"},
            {"gold": "3", "pred": "\ud800"},
        ],
    )
    summary = grade_file(pairs, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["verdict"] for line in lines[:-1]] == ["correct", "wrong", "correct", "correct", "unparsable"]
    assert lines[1]["row"] == "second"
    assert lines[2]["extracted"] == "3"
    assert lines[-1]["summary"]["rows"] == summary.rows == 5
    assert (summary.scored, summary.false_positives, summary.false_negatives) == (3, 1, 1)
    assert summary.accuracy == pytest.approx(1 / 3)
    assert "5 rows under policy math500" in capsys.readouterr().out


def test_without_a_file_the_verdicts_go_to_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = _write(tmp_path / "pairs.jsonl", [{"gold": "A", "pred": "b"}, {"gold": "A", "pred": "a"}])
    summary = grade_file(pairs, limit=1, policy="choice")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["verdict"] == "wrong"
    assert lines[1]["summary"]["rows"] == summary.rows == 1
    assert summary.accuracy is None


def test_bad_input_says_where_and_what(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"none at .*missing\.jsonl"):
        grade_file(tmp_path / "missing.jsonl")
    with pytest.raises(DataFormatError, match=r"bad\.jsonl:1: expected the text fields"):
        grade_file(_write(tmp_path / "bad.jsonl", [{"gold": 3, "pred": "3"}]))
    with pytest.raises(DataFormatError, match="'form' must be"):
        grade_file(_write(tmp_path / "form.jsonl", [{"gold": "3", "pred": "3", "form": "poem"}]))
    (tmp_path / "broken.jsonl").write_text("{\n")
    with pytest.raises(DataFormatError, match="one JSON object per line"):
        grade_file(tmp_path / "broken.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"gold": "3", "pred": "\xe9"}\n')
    with pytest.raises(DataFormatError, match="in UTF-8"):
        grade_file(tmp_path / "latin.jsonl")
    with pytest.raises(ConfigurationError, match="can be written"):
        grade_file(_write(tmp_path / "fine.jsonl", []), tmp_path)
    with pytest.raises(ConfigurationError, match="policy must be one of"):
        grade_file(_write(tmp_path / "ok.jsonl", []), policy="nonsense")


def test_the_command_grades_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = _write(tmp_path / "pairs.jsonl", [{"gold": "3", "pred": "3"}, {"gold": "A", "pred": "B"}])
    output = tmp_path / "new" / "out.jsonl"
    assert main(["grade", str(pairs), "--json", str(output)]) == 0
    assert "2 rows under policy math500: 1 correct, 1 wrong" in capsys.readouterr().out
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line.get("verdict") for line in lines] == ["correct", "wrong", None]
    assert lines[0]["rule"] == "integer"
    assert lines[0]["why"] == "two whole numbers"
    assert sum(lines[-1]["summary"]["rules"].values()) == 2
    assert main(["grade", str(pairs), "--limit", "1", "--policy", "integer"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["summary"]["rows"] == 1


def test_the_command_tells_unreadable_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["grade", str(tmp_path / "missing.jsonl")]) == 2
    assert "there is none at" in capsys.readouterr().err
    assert main(["grade", str(_write(tmp_path / "bad.jsonl", [{"gold": "3"}]))]) == 2
    assert "bad.jsonl:1: expected the text fields 'gold' and 'pred'" in capsys.readouterr().err


def test_a_rule_is_explained_in_words() -> None:
    assert explain("interval/tuple/number.exact") == "sets of real numbers: items in order: two numbers (exact)"
    assert explain("guard.nesting") == "refused before it was read (nesting)"
    assert explain("percent.sign_dropped") == "a percent sign on one side (sign dropped)"
    pairs = (Path(__file__).parents[2] / "docs" / "grading.md").read_text(encoding="utf-8")
    for line in pairs.partition("## Rules")[2].splitlines():
        if " == " in line or " != " in line:
            gold, answer = line.split(" == " if " == " in line else " != ", 1)
            rule = grade_answer(gold, answer).rule
            assert explain(rule).partition(":")[0] not in rule.split("/"), rule  # no rule without words
