from __future__ import annotations

import json
from pathlib import Path

import pytest

from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from aipo_env.metrics import paired_bootstrap, pass_at_k
from benchmarks.evaluation.compare import compare_files, compare_results, compare_runs
from tests.benchmarks.evaluation.example import example_results, example_run


def _write(folder: Path, name: str, results: dict[str, object]) -> Path:
    path = folder / name
    path.write_text(json.dumps(results), encoding="utf-8")
    return path


def test_changes_are_paired_by_problem() -> None:
    first, second = example_run(skill=0.5), example_run(skill=1.5, seed=1)
    # The order of the tasks in the second file is another one.
    second["tasks"] = list(reversed(second["tasks"]))  # type: ignore[call-overload]
    (compared,) = compare_results(example_results(first), example_results(second, name="trained"))
    assert not compared.refused
    assert compared.num_problems == 40
    assert [s.score for s in compared.scores] == ["avg@n", "pass@2", "pass@4", "maj@4"]
    before = {t["id"]: t["num_correct"] for t in first["tasks"]}  # type: ignore[attr-defined]
    after = {t["id"]: t["num_correct"] for t in second["tasks"]}  # type: ignore[attr-defined]
    for score, k in zip(compared.scores, (1, 2, 4), strict=False):
        values = [[pass_at_k(4, side[i], k) for i in before] for side in (after, before)]
        assert score.change == paired_bootstrap(*values)
    average = compared.scores[0]
    assert average.second > average.first
    assert average.change.p_value < 0.05
    assert average.sample_low is not None
    assert average.sample_high is not None
    assert average.sample_low < average.change.difference < average.sample_high


def test_other_numbers_of_samples_compare_at_common_k() -> None:
    (compared,) = compare_results(
        example_results(example_run("aime24", num_samples=8)), example_results(example_run("aime24", num_samples=4))
    )
    assert compared.num_samples == (8, 4)
    # The majority of four and that of eight are different things.
    assert [s.score for s in compared.scores] == ["avg@n", "pass@2", "pass@4"]


def test_greedy_runs_have_no_sampling_noise() -> None:
    (compared,) = compare_results(
        example_results(example_run("gsm8k", num_samples=1)),
        example_results(example_run("gsm8k", num_samples=1, seed=2)),
    )
    assert [s.score for s in compared.scores] == ["avg@n"]
    assert compared.scores[0].sample_low is None


def test_only_problems_with_all_samples_count() -> None:
    compared = compare_runs(example_run(unscored=3), example_run(seed=1))
    assert (compared.num_problems, compared.num_problems_first, compared.num_problems_second) == (37, 37, 40)
    nothing = compare_runs(example_run(num_tasks=3, unscored=3), example_run())
    assert nothing.scores == ()
    assert "no problem is scored in both: the first has 0" in nothing.refused[0]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data", {"revision": "fff"}, 'data.revision was "0123abc" and is "fff"'),
        ("sampling", {"temperature": 1.0}, "sampling.temperature was 0.6 and is 1.0"),
        ("sampling", {"max_tokens": 99}, "sampling.max_tokens was 1024 and is 99"),
        ("prompt", {"template": "{problem}"}, "prompt.template was"),
        ("rules", {"max_consults": 1}, "rules.max_consults was 4 and is 1"),
        ("env_id", "math500", 'env_id was "math500-consult" and is "math500"'),
        (
            "helpers",
            {"verify": {"description": "lies"}},
            'helpers.verify.description was "checks a step" and is "lies"',
        ),
    ],
)
def test_what_is_not_comparable_is_refused(key: str, value: object, message: str) -> None:
    first, second = example_run(), example_run()
    second[key] = {**first[key], **value} if isinstance(value, dict) else value  # type: ignore[dict-item]
    compared = compare_runs(first, second)
    assert compared.scores == ()
    assert any(message in reason for reason in compared.refused), compared.refused


def test_what_does_not_change_scores_is_not_refused() -> None:
    first, second = example_run(), example_run(seed=1)
    second["sampling"] = {**second["sampling"], "batch_size": 4}  # type: ignore[dict-item]
    second["helpers"] = json.loads(json.dumps(second["helpers"]).replace("some-model", "another"))
    second["traces"] = "elsewhere.jsonl"
    assert compare_runs(first, second).refused == ()
    # With help, another helper's model is another condition.
    assisted, other = example_run(mode="assisted"), example_run(mode="assisted")
    other["helpers"] = second["helpers"]
    assert compare_runs(assisted, other).refused == ('helpers.knowledge.model was "some-model" and is "another"',)


def test_no_common_run_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"the first has math500 \(solo\), the second aime24 \(solo\)"):
        compare_results(example_results(example_run()), example_results(example_run("aime24")))
    with pytest.raises(ConfigurationError, match=r"math500 \(assisted\)"):
        compare_results(example_results(example_run()), example_results(example_run(mode="assisted")))


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = _write(tmp_path, "a.json", example_results(example_run(skill=0.5), example_run("gsm8k", num_samples=1)))
    (tmp_path / "b").mkdir()
    trained = example_results(example_run(skill=1.5, seed=1), name="trained")
    trained["seed"] = 7
    _write(tmp_path / "b", "results.json", trained)
    assert compare_files(a, tmp_path / "b", tmp_path / "out") == 0
    page = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == page + "\n"
    assert page.startswith("# trained against my-policy\n")
    assert "40 problems, 4 samples of each." in page
    assert "- seed was 0 and is 7" in page
    assert "GSM8K" not in page
    report = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert report["second"]["policy"]["name"] == "trained"
    assert report["runs"][0]["scores"][0]["change"]["difference"] > 0


def test_a_refused_run_is_in_the_page_and_in_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = example_run(seed=1)
    other["data"] = {**other["data"], "revision": "fff"}  # type: ignore[dict-item]
    a = _write(tmp_path, "a.json", example_results(example_run(), example_run("aime24")))
    b = _write(tmp_path, "b.json", example_results(other, example_run("aime24", seed=2)))
    assert compare_files(a, b, None) == 1
    page = capsys.readouterr().out
    assert 'data.revision was "0123abc" and is "fff"' in page
    assert page.count("| avg@n |") == 1


def test_files_that_are_no_results(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="there is no"):
        compare_files(tmp_path, tmp_path, None)
    other = tmp_path / "x.json"
    other.write_text('{"kind": "something"}')
    with pytest.raises(DataFormatError, match="no evaluation of format 1"):
        compare_files(other, other, None)
    other.write_text("not json")
    with pytest.raises(DataFormatError, match="is no JSON"):
        compare_files(other, other, None)
