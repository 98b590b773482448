"""A trained helper by its folder: in Python and on the command line, and what is no such folder."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import aipo_env
from aipo_env import Source
from aipo_env.cli import main
from aipo_env.errors import ConfigurationError, DataNotFoundError
from aipo_env.protocol import ConsultRequest
from aipo_env.tasks.rulebook import expand
from algorithms.multi_agent import TrainedHelper
from algorithms.policies import load_policy
from tests.benchmarks.evaluation.running import aipo_eval, runs_of, words


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that are nobody else's, where a run leaves them."""
    policy = load_policy("embedded")
    policy.model.get_input_embeddings().weight.data.mul_(1.01)  # type: ignore[union-attr,operator]
    run = tmp_path_factory.mktemp("run")
    (run / "config.json").write_text("{}")  # the settings of a run, and no model's
    policy.save(run / "policy")
    return run / "policy"


def test_a_folder_is_the_helper_that_was_trained(folder: Path) -> None:
    env = aipo_env.make("rulebook-consult", agents={"knowledge": str(folder), "verify": "verify"})
    helper, request = env.agents["knowledge"], ConsultRequest("473@128", seed=3)
    assert isinstance(helper, TrainedHelper)
    assert helper.name == "knowledge"
    said = asyncio.run(helper.respond(request))
    assert said == asyncio.run(TrainedHelper.load("knowledge", folder).respond(request))
    assert said.logprobs != asyncio.run(TrainedHelper.load("knowledge", "embedded").respond(request)).logprobs


def test_what_is_no_policy_is_refused(folder: Path, tmp_path: Path) -> None:
    for wrong, found in (
        (folder.parent, "holds none"),
        (tmp_path / "none", "is not there"),
        ("Qwen/Qwen3-0.6B", "not there"),
    ):
        with pytest.raises(ConfigurationError, match=rf"{wrong}, which .*{found}.* runs/team/helpers/knowledge/policy"):
            aipo_env.make("rulebook-consult", agents={"knowledge": str(wrong)})
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(DataNotFoundError, match="nor a directory with a model"):
        aipo_env.make("rulebook-consult", agents={"knowledge": str(tmp_path)})


def test_it_trains_a_policy(folder: Path, tmp_path: Path) -> None:
    command = [
        "train",
        *words("--env-options level 2 operators @ style terse prompt bare --sampling.max-tokens 48 --quiet"),
    ]
    command += words("--steps 1 --prompts-per-step 2 --samples-per-prompt 4 --eval-tasks 1 --eval-samples 1")
    assert main([*command, "--agents", f"knowledge={folder}", "--out", str(tmp_path)]) == 0
    played = [t for t in aipo_env.read_traces(tmp_path / "traces.jsonl") if t.num_consults]
    assert played
    for trajectory in played:
        reply = next(s for s in trajectory.segments if s.source is Source.AGENT)
        assert reply.agent == "knowledge"
        assert (
            str(expand(str(trajectory.metadata["expression"]))) not in reply.text
        )  # as the embedded helper's would have


def test_an_evaluation_records_its_weights(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_policy("embedded").save(tmp_path / "start")
    weights = []
    for helper in (folder, tmp_path / "start"):
        sizes = words("--suite rulebook --mode assisted --num-tasks 1 --samples 1 --max-tokens 48")
        code, _, error = aipo_eval(capsys, *sizes, "--agents", f"knowledge={helper}", "--out", tmp_path / "evaluated")
        if weights:  # another helper's episodes do not go into the same results
            assert code != 0
            assert "helpers" in error
            code, *_ = aipo_eval(capsys, *sizes, "--agents", f"knowledge={helper}", "--out", tmp_path / "other")
        assert code == 0
        said = runs_of(tmp_path / ("other" if weights else "evaluated"))["rulebook.assisted"]["helpers"]["knowledge"]
        assert said["model"] == str(helper)
        weights.append(said["weights"])
    assert weights[0] != weights[1]
