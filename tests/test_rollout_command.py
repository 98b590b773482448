"""`aipo rollout` and `aipo replay`, through the command line."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from aipo_env import Source, read_traces, write_traces
from aipo_env.cli import main
from algorithms.servers import Servers
from tests.misbehaving_server import Fault, MisbehavingServer, Request

ASK = '<consult agent="knowledge">1@2</consult>'


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


class EmbeddedTokenizer(MisbehavingServer):
    """Speaks the ids of the embedded policy's tokenizer."""

    def __init__(self) -> None:
        from algorithms.rollout_command import load_codec

        super().__init__(reply=lambda request: "5+5+5" if request.is_chat else "")
        self.codec = load_codec("embedded")

    def _answer(self, request: Request) -> dict[str, object]:
        answer = super()._answer(request)
        if not request.is_chat:
            said = self.codec.decode(request.body["prompt"])
            text = "\\boxed{151515}" if "feedback" in said else ASK
            ids = (
                [*self.codec.encode_tag(text), *self.codec.eos_ids] if "boxed" in text else self.codec.encode_tag(text)
            )
            answer["choices"] = [
                {
                    "text": text,
                    "token_ids": ids,
                    "prompt_token_ids": request.body["prompt"],
                    "logprobs": {"tokens": [""] * len(ids), "token_logprobs": [-0.5] * len(ids)},
                    "finish_reason": "stop",
                    "stop_reason": None if "boxed" in text else "</consult>",
                }
            ]
        return answer


def test_a_policy_and_its_helpers_behind_servers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with EmbeddedTokenizer() as server:
        arguments = (
            "rollout", "--server", server.base_url, "--model", "fake", "--helper-server", server.base_url, "--helper-model",
            "fake", "--num-tasks", 3, "--samples", 2, "--max-tokens", 200, "--retries", 0, "--out", tmp_path,
        )  # fmt: skip
        server.script(Fault("status", status=500))
        code, out, err = run(capsys, *arguments)
        assert code == 1, err
        assert "of 5 correct" in out
        assert "1 episodes were ended by a fault" in out
        assert "the first of them by" in out
        code, out, err = run(capsys, *arguments)
        assert code == 0, err
        assert "5 episodes were there already" in out
        assert "0 of 6 correct (0.000); 1.00 consults an episode" in out
        assert server.wait_idle()
    traces = list(read_traces(tmp_path / "traces.jsonl"))
    assert {(t.task_index, t.sample) for t in traces} == {(task, sample) for task in range(3) for sample in range(2)}
    for trajectory in traces:
        assert [s.source for s in trajectory.segments] == [Source.PROMPT, Source.POLICY, Source.AGENT, Source.POLICY]
        assert "5+5+5" in trajectory.segments[2].text
    code, out, err = run(capsys, "replay", tmp_path / "traces.jsonl")
    assert (code, "6 episodes, all as recorded" in out) == (0, True), err


def test_repair_30_a_rollout_rides_out_what_may_pass(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with EmbeddedTokenizer() as server:
        server.script(
            *[Fault("status", status=500), None, Fault("status", status=429, retry_after="0.1"), Fault("reset")] * 2
        )
        arguments = (
            "rollout", "--server", server.base_url, "--model", "fake", "--helper-server", server.base_url, "--helper-model",
            "fake", "--num-tasks", 3, "--samples", 2, "--max-tokens", 200, "--requests-per-minute", 6000, "--out", tmp_path,
        )  # fmt: skip
        code, out, err = run(capsys, *arguments)
        assert (code, "of 6 correct" in out) == (0, True), err
        assert server.num_requests == 6 * 3 + 6


def test_repair_30_servers_are_asked_as_the_options_say() -> None:
    for options, expected in (((2, 30.0), (3, 30.0)), ((None, None), (5, None)), ((0, None), (1, None))):
        servers = Servers("http://h/v1", "m", "http://h/v1", "x", *options)
        (helper,) = (servers.agents(["verify"]) or {}).values()
        for backend in (servers.policy(), helper().backend):  # type: ignore[operator, union-attr]
            assert (backend.retries.attempts, backend.requests_per_minute) == expected


def test_options_that_do_not_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, message in (
        (("--server", "http://x/v1"), "--server and --model go together"),
        (("--helper-model", "x"), "--helper-server and --helper-model go together"),
        (("--server", "http://x/v1", "--model", "x", "--check"), "--check is for a policy that is loaded here"),
        (("--retries", "4"), "--retries and --requests-per-minute are for --server and --helper-server"),
        (("--requests-per-minute", "4"), "--retries and --requests-per-minute are for --server and --helper-server"),
        (
            ("--server", "http://x/v1", "--model", "x", "--retries", "-1", "--policy", "embedded"),
            "retries is how often",
        ),
        (("--server", "http://me:geheim@x/v1", "--model", "x"), "--server holds a user name or a password"),
        (("--helper-server", "http://x:y/v1", "--helper-model", "x"), "--helper-server is an address such as"),
        (("--server", "http://x/v1", "--model", "x", "--policy", "nowhere/at-all"), "no tokenizer"),
    ):
        code, _, err = run(capsys, "rollout", *arguments, "--out", tmp_path)
        assert (code, message in err) == (2, True), err


def test_replay_of_local_rollouts_finds_what_was_changed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    code, _, err = run(capsys, "rollout", "--num-tasks", 2, "--max-tokens", 60, "--out", tmp_path)
    assert code == 0, err
    code, out, err = run(capsys, "replay", path)
    assert (code, "4 episodes, all as recorded" in out) == (0, True), err
    traces = list(read_traces(path))
    path.unlink()
    write_traces(path, [traces[0], dataclasses.replace(traces[1], reward=5.0, verdict="wrong?"), *traces[2:]])
    code, out, _ = run(capsys, "replay", path)
    assert code == 1
    assert "4 episodes, 1 of them not as recorded" in out
    assert (
        f"line 2 ({traces[1].task_id}, sample {traces[1].sample}): verdict was 'wrong?', is {traces[1].verdict!r}"
        in out
    )
    code, out, _ = run(capsys, "replay", path, "--show", 1)
    assert (code, "and 1 differences more" in out) == (1, True)


def test_replay_of_a_training_run_and_of_arguments(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    run(capsys, "rollout", "--num-tasks", 2, "--max-tokens", 60, "--out", tmp_path)
    (tmp_path / "traces.run.json").unlink()
    code, _, err = run(capsys, "replay", path)
    assert (code, "pass --env" in err) == (2, True)
    options = ("--env", "rulebook-consult", "--env-options", "prompt", "bare", "style", "terse")
    code, _, err = run(capsys, "replay", path, *options)
    assert (code, "no tokenizer" in err) == (2, True)
    code, out, err = run(capsys, "replay", path, *options, "--policy", "embedded")
    assert (code, "all as recorded" in out) == (0, True), err
    config = {
        "env": "rulebook-consult",
        "env_options": {"prompt": "bare", "style": "terse"},
        "agents": [],
        "policy": "embedded",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, out, err = run(capsys, "replay", path)
    assert (code, "all as recorded" in out) == (0, True), err


def test_replay_of_what_is_no_trace(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "replay", tmp_path / "nothing.jsonl")
    assert (code, "there is no file" in err) == (2, True)
    path = tmp_path / "traces.jsonl"
    for content in (b"\xff\xfe\n", b"{}\n", b"[1]\n"):
        path.write_bytes(content)
        code, _, err = run(capsys, "replay", path, "--env", "rulebook-consult")
        assert (code, bool(re.search(r"line 1 is not a trajectory", err))) == (2, True), err
