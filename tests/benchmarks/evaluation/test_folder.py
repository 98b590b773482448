from __future__ import annotations

from pathlib import Path

import pytest

from aipo_env.errors import ConfigurationError, DataFormatError
from benchmarks.evaluation.folder import EvaluationFolder, differences, read_json

SHARED = {"policy": {"name": "p"}, "seed": 0}
RUN = {"sampling": {"temperature": 0.6, "top_p": None}, "tasks": (1, 2)}


def test_the_same_settings_may_go_on_and_runs_may_be_added(tmp_path: Path) -> None:
    folder = EvaluationFolder(tmp_path / "new")
    folder.claim(SHARED, {"a.solo": RUN})
    folder.claim(SHARED, {"a.solo": RUN, "a.assisted": RUN})
    folder.claim(SHARED, {"b.solo": RUN})
    assert list(read_json(folder.settings)["runs"]) == ["a.solo", "a.assisted", "b.solo"]


def test_a_change_is_refused_and_named(tmp_path: Path) -> None:
    folder = EvaluationFolder(tmp_path)
    folder.claim(SHARED, {"a.solo": RUN})
    before = folder.settings.read_bytes()
    changed = {"sampling": {"temperature": 0.7, "top_p": 0.9}, "tasks": (1, 2), "more": True}
    with pytest.raises(ConfigurationError) as caught:
        folder.claim({"policy": {"name": "q"}, "seed": 0}, {"a.solo": changed})
    for words in (
        'policy.name was "p" and is "q"', "a.solo.sampling.temperature was 0.6 and is 0.7",
        "a.solo.sampling.top_p was null and is 0.9", "a.solo.more was null and is true", "another --out",
    ):  # fmt: skip
        assert words in str(caught.value)
    assert "seed" not in str(caught.value)
    assert folder.settings.read_bytes() == before


def test_long_values_are_shortened() -> None:
    (text,) = differences({"tasks": list(range(500))}, {"tasks": [1]})
    assert text.startswith("tasks was [0, 1, 2, ")
    assert text.endswith("(2390 characters) and is [1]")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = EvaluationFolder(tmp_path)
    folder.settings.write_text("{", encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"settings\.json cannot be read"):
        folder.claim(SHARED, {})
