"""A real vLLM server plays calls of functions, in a chat template that was written for a model whose own shows none.

The tags are played by test_rollouts.py; so is what both share, such as a server that is killed.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import aipo_env
from aipo_env import Source, TokenAction, Trajectory, TurnPolicy, TurnRequest, read_traces
from aipo_env.replay import replay
from algorithms.codec import TransformersCodec
from algorithms.policies import Policy
from tests.integration_vllm.reference import largest_difference, reference_logprobs
from tests.integration_vllm.server import TEMPLATE, VLLMServer
from tests.integration_vllm.test_rollouts import TOLERANCE, Table, table


class Watched:
    """A policy that keeps the ids that it was asked to go on from, and how it went on."""

    def __init__(self, policy: TurnPolicy) -> None:
        self.name, self.turns = policy.name, list[tuple[TurnRequest, TokenAction]]()
        self._policy = policy

    async def act(self, request: TurnRequest) -> TokenAction:
        action = await self._policy.act(request)
        assert isinstance(action, TokenAction)
        self.turns.append((request, action))
        return action


@pytest.fixture(scope="session")
def caller(policy: Policy, model_folder: Path) -> Policy:
    """The policy with the template that knows functions."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = TEMPLATE.read_text(encoding="utf-8")
    return Policy(policy.name, policy.model, TransformersCodec(tokenizer))


@pytest.fixture(scope="session")
def played(
    server: VLLMServer, caller: Policy, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Trajectory], Watched, Table]:
    at, path = table(server, caller, calls=True), tmp_path_factory.mktemp("calls") / "traces.jsonl"
    watched = Watched(at.guided)

    async def play() -> list[Trajectory]:
        env = at.env("rulebook-consult", path, caller, dialect="tools")
        async with asyncio.timeout(180):
            found = await aipo_env.rollout(env, watched, 3, seed=5, traces=path).collect()
        await at.backend.aclose()
        return found

    return path, asyncio.run(play()), watched, at


def tokens_of(server: VLLMServer, messages: list[dict[str, str]], tools: object) -> list[int]:
    """The ids that the server itself makes of a chat."""
    body = {"model": server.name, "messages": messages, "tools": tools, "add_generation_prompt": True}
    request = urllib.request.Request(
        f"{server.root}/tokenize", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        tokens: list[int] = json.load(response)["tokens"]
    return tokens


def test_a_call_goes_through_the_server_and_back(
    server: VLLMServer, caller: Policy, played: tuple[Path, list[Trajectory], Watched, Table]
) -> None:
    _, trajectories, watched, at = played
    dialect = at.env("rulebook-consult", Path(), caller, dialect="tools").game.dialect
    tools, end = dialect._tools, caller.codec.end_texts[0]  # type: ignore[attr-defined]
    assert all(t.num_consults >= 1 and t.stop_reason in ("answer", "max_turns", "length") for t in trajectories)
    for trajectory in trajectories:
        # The prompt is what the server's own rendering of the functions gives.
        problem = dialect.messages(trajectory.text.split("user\n")[1].split(end)[0], trajectory.segments)
        assert list(trajectory.segments[0].token_ids) == tokens_of(server, problem[:1], tools)
        # So is the text of the whole, though nothing was rendered again.
        whole = caller.tokenizer.apply_chat_template(problem, tools=tools, tokenize=False)
        assert whole.startswith(trajectory.text)
        assert whole.removeprefix(trajectory.text) in ("\n", f"{end}\n")  # the limit of tokens may cut the last turn
        # A turn that asks ends with its end token, which the template does not say again.
        own = [s for s in trajectory.segments if s.source is Source.POLICY]
        assert all(s.token_ids[-1] in caller.codec.eos_ids for s in own[:-1])
        assert end + end not in trajectory.text
    # Ids are appended: each turn went on from what the record holds, and is in it as it was sampled.
    records = {tuple(t.token_ids) for t in trajectories}
    for request, action in watched.turns:
        gone = (*request.token_ids, *action.ids)
        assert any(record[: len(gone)] == gone for record in records)
        assert request.stop_ids == tuple(sorted(caller.codec.eos_ids))


def test_its_logprobs_are_those_of_transformers(
    caller: Policy, played: tuple[Path, list[Trajectory], Watched, Table]
) -> None:
    _, trajectories, _, at = played
    largest, count, known = 0.0, 0, 0
    for trajectory in trajectories[::2]:
        prompt = len(trajectory.segments[0].token_ids)
        expected = [0.0] * prompt + reference_logprobs(caller, trajectory.token_ids, prompt)
        position = 0
        for segment in trajectory.segments:
            start, position = position, position + len(segment.token_ids)
            known += segment.source is Source.AGENT and segment.mu_known
            if segment.source is Source.POLICY:
                before, behind = at.guided.forced.get(segment.token_ids, (0, 0))
                sampled = slice(before, len(segment.logprobs) - behind)
                theirs = expected[start:position][sampled]
                largest = max(largest, largest_difference(segment.logprobs[sampled], theirs))
                count += len(theirs)
    print(f"{count} sampled policy tokens: largest difference of a log-probability {largest:.2e}")
    assert count >= 10
    assert largest < TOLERANCE
    # The helpers' own ids stand in the tool's message, with their log-probabilities.
    assert known


def test_its_traces_replay_exactly(caller: Policy, played: tuple[Path, list[Trajectory], Watched, Table]) -> None:
    path, trajectories, _, _ = played
    assert sorted(map(repr, read_traces(path))) == sorted(map(repr, trajectories))
    replayed = replay(path, codec=caller.codec)
    assert [str(mismatch) for mismatch in replayed.mismatches] == []
    assert replayed.num_trajectories == len(trajectories)
