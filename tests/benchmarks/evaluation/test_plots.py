from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from aipo_env.errors import MissingDependencyError
from benchmarks.evaluation.plots import DPI, WIDTH_INCHES, figure_names, write_plots
from tests.benchmarks.evaluation.example import example_results, example_run

pytest.importorskip("matplotlib")


def _size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def test_the_figures_of_two_modes(tmp_path: Path) -> None:
    results = example_results(example_run(), example_run(mode="assisted", seed=1), example_run("aime24", num_samples=8))
    paths = write_plots(results, tmp_path / "figures")
    assert [p.name for p in paths] == [
        "pass_at_k.math500.png",
        "by_subject.math500.png",
        "by_level.math500.png",
        "pass_at_k.aime24.png",
    ]
    assert [p.name for p in paths] == list(figure_names(results))
    for path in paths:
        width, height = _size(path)
        assert width == WIDTH_INCHES * DPI
        assert 0.3 * width < height < width


def test_equal_results_give_equal_files(tmp_path: Path) -> None:
    results = example_results(example_run())
    first, second = (write_plots(results, tmp_path / name)[0].read_bytes() for name in ("a", "b"))
    assert first == second
    other = write_plots(example_results(example_run(skill=2.0)), tmp_path / "c")[0].read_bytes()
    assert other != first


def test_without_matplotlib_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match="pip install matplotlib"):
        write_plots(example_results(example_run()), tmp_path)


def test_what_has_nothing_to_show_writes_nothing(tmp_path: Path) -> None:
    # One sample has no curve; a run without a scored task has neither curve nor bars.
    results = example_results(example_run("gsm8k", num_samples=1), example_run(num_tasks=5, unscored=5))
    assert write_plots(results, tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_one_mode_without_scores_leaves_the_other(tmp_path: Path) -> None:
    results = example_results(example_run("aime24"), example_run("aime24", "assisted", num_tasks=5, unscored=5))
    assert [p.name for p in write_plots(results, tmp_path)] == ["pass_at_k.aime24.png"]


def test_never_solved_and_always_solved(tmp_path: Path) -> None:
    never, always = example_run(skill=1e-9), example_run(mode="assisted", skill=1e9)
    assert never["metrics"]["avg_at_n"]["estimate"] == 0.0  # type: ignore[index, call-overload]
    assert always["metrics"]["avg_at_n"]["estimate"] == 1.0  # type: ignore[index, call-overload]
    assert len(write_plots(example_results(never, always), tmp_path)) == 3
