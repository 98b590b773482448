"""Texts of confidential tasks are not written down: not in traces, records, renderings or messages, whoever quotes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aipo_env
from aipo_env import ConsultRequest, Reply, Segment, Source, TraceWriter, Trajectory, TurnRequest, read_traces
from aipo_env.errors import ConfigurationError, ServiceError
from aipo_env.game import ConsultGame
from aipo_env.grading import Grade
from aipo_env.tasks.base import Task, is_confidential
from aipo_env.tasks.gpqa import GpqaDiamondTasks
from aipo_env.testing import ConformanceError, check_taskset
from aipo_env.trace_files import errors_path
from benchmarks.evaluation.game import metered
from tests.helpers import CharacterCodec, SumTasks
from tests.tasks.small_data import gpqa_rows, write_jsonl

SECRET = "zygomorphic"
ASK = '<consult agent="verify">{}</consult>'


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three questions, each with the secret in it and in a choice."""
    rows = [
        {**row, "Question": f"Why is the {SECRET} lamp {i}?", "Incorrect Answer 1": f"a {SECRET} one"}
        for i, row in enumerate(gpqa_rows(3))
    ]
    return write_jsonl(tmp_path_factory.mktemp("data") / "rows.jsonl", rows)


class Quoting:
    """A helper that repeats what it sees."""

    name = "verify"

    async def respond(self, request: ConsultRequest) -> Reply:
        return Reply(request.transcript)


class QuotingPolicy:
    """Repeats the problem, asks, and answers; of the second task it only quotes the problem in a fault."""

    name = "quoting"

    async def act(self, request: TurnRequest) -> str:
        if " lamp 1" in request.transcript and request.turn == 1:
            raise ServiceError(f"cannot continue: {request.transcript}")
        return ASK.format(request.transcript[-80:]) if request.turn == 0 else f"{request.transcript[:300]} \\boxed{{A}}"


def nothing_quotes(folder: Path) -> bool:
    """Whether no file below a folder holds the secret."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return not any(SECRET.encode() in path.read_bytes() for path in files)


@pytest.mark.parametrize("codec", [None, CharacterCodec()])
def test_traces_of_a_rollout_hold_lengths_in_place_of_texts(
    data: Path, tmp_path: Path, codec: CharacterCodec | None
) -> None:
    traces = tmp_path / "traces.jsonl"
    env = aipo_env.make("gpqa-diamond-consult", data=data, agents={"verify": Quoting()}, codec=codec)
    whole = aipo_env.collect_rollouts(env, QuotingPolicy(), group_size=2, traces=traces)
    assert len(whole) == 6
    assert all(SECRET in t.text for t in whole)  # in memory nothing is missing
    assert nothing_quotes(tmp_path)
    written = {(t.group, t.sample): t for path in (traces, errors_path(traces)) for t in read_traces(path)}
    assert {key for key, t in written.items() if t.stop_reason == "error"} == {(1, 0), (1, 1)}
    assert written[1, 0].metadata["error"] == "ServiceError: (withheld)"
    for t in whole:
        record = written[t.group, t.sample]
        assert record.withheld
        assert record.confidential
        assert record == t.redacted() == record.redacted()
        for name in ("task_id", "task_index", "seed", "verdict", "reward", "stop_reason", "num_consults", "assisted"):
            assert getattr(record, name) == getattr(t, name)
        assert [s.source for s in record.segments] == [s.source for s in t.segments]
        assert [s.agent for s in record.segments] == [s.agent for s in t.segments]
        assert [(s.num_chars, s.num_tokens) for s in record.segments] == [
            (len(s.text), len(s.token_ids)) for s in t.segments
        ]
        assert all((s.text, s.token_ids, s.logprobs) == ("", (), ()) for s in record.segments)
        assert {source: record.count(source) for source in Source} == {source: t.count(source) for source in Source}
        assert record.metadata["domain"] in ("Physics", "Chemistry")


def test_a_run_goes_on_from_such_traces(data: Path, tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    env = aipo_env.make("gpqa-diamond", data=data)
    answer = lambda transcript: r"\boxed{B}"  # noqa: E731
    (first,) = aipo_env.collect_rollouts(env, answer, tasks=[0], traces=traces)
    again = aipo_env.collect_rollouts(env, answer, traces=traces)
    assert [(t.task_index, t.withheld) for t in again] == [(0, True), (1, False), (2, False)]
    assert again[0] == first.redacted()
    assert [t.task_index for t in read_traces(traces)] == [0, 1, 2]


def test_a_replay_says_why_it_cannot(data: Path, tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    env = aipo_env.make("gpqa-diamond", data=data)
    aipo_env.collect_rollouts(env, lambda transcript: r"\boxed{B}", traces=traces)
    with pytest.raises(ConfigurationError, match=r"line 1 \(gpqa-diamond/recAb.*confidential.*keep_texts=True"):
        aipo_env.replay(traces)
    with pytest.raises(ConfigurationError, match="confidential"):
        aipo_env.replay(read_traces(traces), env)


def test_who_asks_for_it_keeps_the_texts(data: Path, tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    options = {"data": data, "keep_texts": True, "agents": {"verify": Quoting()}}
    kept = aipo_env.collect_rollouts("gpqa-diamond-consult", QuotingPolicy(), traces=traces, **options)
    assert SECRET in traces.read_text()
    assert not any(t.confidential or t.withheld for t in kept)
    assert "confidential" not in json.loads(traces.read_text().splitlines()[0])
    result = aipo_env.replay(traces)
    assert (result.num_trajectories, result.faithful) == (2, True)
    # Against an environment that does not keep them, what differs is told without quoting it.
    strict = aipo_env.make("gpqa-diamond-consult", data=data, agents={"verify": Quoting()}, prompt="plain")
    result = aipo_env.replay(traces, strict)
    assert not result.faithful
    assert SECRET not in "".join(map(str, result.mismatches))
    assert "segments[0].text was '(withheld: " in str(result.mismatches[0])


def test_renderings_show_lengths(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"data": data, "agents": {"verify": Quoting()}}
    env = aipo_env.make("gpqa-diamond-consult", render_mode="ansi", **options)
    observation, _ = env.reset(seed=0)
    assert SECRET in observation["prompt"]
    env.step(ASK.format(observation["prompt"][-60:]))
    env.step(r"\boxed{A}")
    text = env.render()
    assert text is not None
    assert SECRET not in text
    sizes = [len(segment.text) for segment in env.episode.segments]
    assert text.count("(withheld: ") == len(sizes) == 4
    assert all(f"(withheld: {size:,} characters, 0 tokens)" in text for size in sizes)
    assert "ended by answer" in text
    vector = aipo_env.make_vec("gpqa-diamond-consult", 2, render_mode="ansi", **options)
    vector.reset(seed=0)
    assert SECRET not in "".join(vector.render() or ())
    turns = aipo_env.make_aec("gpqa-diamond-consult", render_mode="human", **options)
    turns.reset(seed=0)
    turns.render()
    assert SECRET not in capsys.readouterr().out
    kept = aipo_env.make("gpqa-diamond-consult", render_mode="ansi", keep_texts=True, **options)
    kept.reset(seed=0)
    assert SECRET in str(kept.render())


def test_a_task_shows_neither_problem_nor_gold(data: Path) -> None:
    task = GpqaDiamondTasks(data=data, keep_texts=True).task(0)
    assert SECRET in task.problem
    assert SECRET not in repr(task)
    assert repr(SumTasks().task(3)) == "Task(id='sums/3', metadata={'level': 1}, confidential=False)"


class SaysSo(SumTasks):
    """A family that says it once, and not in each task."""

    confidential = True


class Forgetful:
    """Wraps a family and forgets what it says."""

    def __init__(self, tasks: SumTasks) -> None:
        self._tasks, self.name, self.num_tasks = tasks, tasks.name, tasks.num_tasks

    def task(self, index: int) -> Task:
        return self._tasks.task(index)

    def sample_index(self, rng: np.random.Generator) -> int:
        return self._tasks.sample_index(rng)

    def grade(self, task: Task, answer: str) -> Grade:
        return self._tasks.grade(task, answer)


def test_the_family_or_the_task_says_it(data: Path) -> None:
    assert not is_confidential(SumTasks())
    assert not aipo_env.make("rulebook", tasks=SumTasks()).make_episode(0).trajectory().confidential
    assert aipo_env.make("rulebook", tasks=SaysSo()).make_episode(0).trajectory().confidential
    with pytest.raises(ConformanceError, match=r"confidential=True and task\(0\) says False"):
        check_taskset(SaysSo())
    game = aipo_env.make("gpqa-diamond", data=data).game
    wrapped = ConsultGame(Forgetful(game.tasks), {}, game.config)  # type: ignore[arg-type]
    assert wrapped.make_episode(0).trajectory().confidential


def test_what_the_family_says_holds_in_rollouts_and_evaluations(tmp_path: Path) -> None:
    env = aipo_env.make("rulebook", tasks=SaysSo())
    answer = lambda transcript: r"\boxed{1}"  # noqa: E731
    (played,) = aipo_env.collect_rollouts(env, answer, tasks=1, traces=tmp_path / "traces.jsonl")
    assert played.confidential
    assert next(read_traces(tmp_path / "traces.jsonl")).withheld
    assert metered(env).game.make_episode(0).trajectory().confidential


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        (f"ServiceError: HTTP 400 {SECRET}", "ServiceError: (withheld)"),
        ("TimeoutError", "TimeoutError"),
        (f"{SECRET} lamp: what?", "(withheld)"),
        ("not finished within 3 s", "(withheld)"),
        ("", "(withheld)"),
    ],
)
def test_of_a_fault_the_kind_is_kept(message: str, kept: str) -> None:
    trajectory = Trajectory("e", "t", [], metadata={"error": message, "level": 2}, confidential=True)
    assert trajectory.redacted().metadata == {"error": kept, "level": 2}
    assert trajectory.redacted().redacted() == trajectory.redacted()
    assert trajectory.metadata["error"] == message


def test_a_writer_leaves_out_the_texts_of_those_alone(tmp_path: Path) -> None:
    segments = [
        Segment(Source.PROMPT, SECRET, (1, 2, 3)),
        Segment(Source.AGENT, "é", (4,), (-1.0,), "verify", mu_known=True),
    ]
    path = tmp_path / "traces.jsonl"
    with TraceWriter(path) as writer:
        writer.write(Trajectory("e", "t", segments, confidential=True))
        writer.write(Trajectory("e", "t", segments))
    one, two = path.read_text().splitlines()
    assert json.loads(one)["segments"] == [
        {"source": "prompt", "text": "", "withheld": [11, 3]},
        {"source": "agent", "text": "", "agent": "verify", "mu_known": True, "withheld": [1, 1]},
    ]
    assert json.loads(one)["confidential"] is True
    assert json.loads(two)["segments"] == [segment.to_json() for segment in segments]
    first, second = read_traces(path)
    assert (first.withheld, second.withheld) == (True, False)
    assert first.token_ids == first.sources == first.logprobs == []
    assert second.segments == segments


def test_policies_that_are_loaded_here(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`aipo rollout`, and a training run that is cut and goes on."""
    pytest.importorskip("torch", reason="the extra 'train' is not installed")
    from aipo_env.cli import main
    from algorithms.train_config import SamplingConfig, TrainConfig
    from algorithms.trainer import Trainer
    from tests.algorithms.tiny import tiny_policy

    policy = tiny_policy()
    policy.save(tmp_path / "policy")
    out = tmp_path / "out"
    arguments = ["rollout", "--env", "gpqa-diamond-consult", "--policy", str(tmp_path / "policy"), "--num-tasks", "2"]
    arguments += ["--max-tokens", "12", "--env-options", "data", str(data), "prompt", "bare"]
    assert main([*arguments, "--out", str(out / "rollout")]) == 0
    captured = capsys.readouterr()
    assert "of 4 correct" in captured.out
    options = {"data": str(data), "prompt": "bare"}
    sampling = SamplingConfig(max_tokens=12)
    config = TrainConfig(
        env="gpqa-diamond-consult", allow_test_split=True, env_options=options, steps=2, prompts_per_step=2,
        samples_per_prompt=4, trace_every=1, checkpoint_every=1, eval_tasks=2, eval_samples=1, sampling=sampling, out=out / "train",
    )  # fmt: skip
    Trainer(config, policy=policy).train()
    traces = out / "train" / "traces.jsonl"
    before = traces.read_text()
    (out / "train" / "checkpoints").rename(out / "train" / "kept")
    newest = sorted((out / "train" / "kept").iterdir())[-1]
    (out / "train" / "checkpoints").mkdir()
    newest.rename(out / "train" / "checkpoints" / newest.name)
    Trainer(config, policy=tiny_policy()).train()  # resumes: the traces are read, cut and written again
    assert traces.read_text() == before
    assert nothing_quotes(out)
    assert SECRET not in captured.out + captured.err
    for path in (out / "rollout" / "traces.jsonl", traces):
        for trajectory in read_traces(path):
            assert trajectory.segments[0].withheld is not None
            assert trajectory.segments[0].num_tokens > 60
            assert "token_ids" not in trajectory.segments[0].to_json()
    assert main([*arguments, "keep_texts", "1", "--out", str(tmp_path / "kept")]) == 0
    assert SECRET in (tmp_path / "kept" / "traces.jsonl").read_text()


def test_policies_behind_servers(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("aiohttp", reason="the extra 'llm' is not installed")
    pytest.importorskip("transformers", reason="the extra 'train' is not installed")
    from aipo_env.cli import main
    from tests.misbehaving_server import Fault, MisbehavingServer, Request

    quote: Callable[[Request], Fault] = lambda request: Fault("status", status=400, message=f"bad prompt: {SECRET}")  # noqa: E731
    with MisbehavingServer() as server:
        server.fault = quote
        arguments = [
            "rollout",
            "--server",
            server.base_url,
            "--model",
            "fake",
            "--env",
            "gpqa-diamond",
            "--num-tasks",
            "2",
        ]
        arguments += ["--policy", str(_tokenizer(tmp_path)), "--env-options", "data", str(data), "prompt", "bare"]
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "the first of them by ServiceError: (withheld)" in captured.out
    assert SECRET not in captured.out + captured.err
    assert nothing_quotes(tmp_path / "out")


class Failing:
    """A helper whose service quotes what it was sent, the first time."""

    name = "verify"

    def __init__(self) -> None:
        self.calls = 0

    async def respond(self, request: ConsultRequest) -> Reply:
        self.calls += 1
        if self.calls % 2:
            raise ServiceError(f"HTTP 500: cannot answer {request.transcript}", status=500)
        return Reply(request.transcript)


def test_helpers_that_fail_and_helpers_that_are_cached(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from aipo_agents.middleware import Cache, Retry

    def play(keep_texts: bool) -> str:
        """The log of two episodes: one whose helper fails, one whose helper is asked again and then cached."""
        caplog.clear()
        helpers = (Failing(), Cache(Retry(Failing(), first_wait=0.001), tmp_path / "cache", namespace="x"))
        for helper in helpers:
            env = aipo_env.make("gpqa-diamond-consult", data=data, agents={"verify": helper}, keep_texts=keep_texts)
            env.reset(seed=0)
            *_, info = env.step(ASK.format("?"))
            assert info["num_consults"] == (helper is helpers[1])
        return "".join(record.getMessage() for record in caplog.records)

    with caplog.at_level("INFO"):
        log = play(keep_texts=False)
        assert "verify: ServiceError: (withheld)" in log
        assert "attempt 1 failed" in log
        assert SECRET not in log
        assert not list(tmp_path.rglob("*.reply"))
        log = play(keep_texts=True)
        assert SECRET in log
        assert len(list(tmp_path.rglob("*.reply"))) == 1


def test_prompt_files_of_a_cluster_are_refused(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the extra 'train' is not installed")
    from algorithms.cluster.prompts import export_prompts

    game = aipo_env.make("gpqa-diamond", data=data).game
    with pytest.raises(ConfigurationError, match=r"gpqa-diamond are confidential.*keep_texts 1"):
        export_prompts(game, range(2), tmp_path / "prompts")
    assert not (tmp_path / "prompts").exists()
    allowed = aipo_env.make("gpqa-diamond", data=data, keep_texts=1).game
    assert SECRET in export_prompts(allowed, range(2), tmp_path / "prompts").path.read_text()


def _tokenizer(folder: Path) -> Path:
    from algorithms.policies.embedded_model import build_tokenizer

    build_tokenizer().save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"
