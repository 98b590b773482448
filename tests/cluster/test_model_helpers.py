"""The helpers of examples/cluster that are models, asked through real sockets and a real model."""

from __future__ import annotations

import asyncio
import copy
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import aipo_env
from aipo_agents.middleware import Ledger
from aipo_env.protocol import Agent, ConsultRequest
from algorithms.codec import TransformersCodec
from algorithms.helpers_command import Trial, try_helpers
from algorithms.policies import Policy
from tests.algorithms.tiny import tiny_policy, tokenizer
from tests.cluster.recipes import FOLDER
from tests.helpers import CharacterCodec, SumTasks
from tests.misbehaving_server import MisbehavingServer

TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}a:{% endif %}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MisbehavingServer]:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("AIPO_HELPER_CACHE", str(tmp_path / "replies"))
    with MisbehavingServer(reply=lambda request: "correct: so it is") as running:
        monkeypatch.setenv("AIPO_HELPER_URL", running.base_url)
        monkeypatch.setenv("AIPO_HELPER_MODEL", "fake")
        yield running
    for name in ("served_helpers", "hosted_helpers", "self_helpers"):
        sys.modules.pop(name, None)


def ask(agent: Agent, codec: object, num_tasks: int = 1) -> list[Trial]:
    env = aipo_env.make("rulebook-consult", tasks=SumTasks(), agents={agent.name: agent}, codec=codec)

    async def collect() -> list[Trial]:
        try:
            return [trial async for trial in try_helpers(env.game, num_tasks)]
        finally:
            await agent.aclose()  # type: ignore[attr-defined]

    return asyncio.run(collect())


def roles(module: ModuleType) -> list[Agent]:
    return [getattr(module, name)() for name in ("verify", "knowledge", "reasoning")]


def test_served_helpers_sample_and_tell_mu(server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    served = importlib.import_module("served_helpers")
    # The server's tokens are characters.
    monkeypatch.setattr(served, "_codec", lambda model: CharacterCodec())
    for agent in roles(served):
        assert all(trial.knows_mu for trial in ask(agent, CharacterCodec()))
    assert {(r.body["temperature"], r.body["max_tokens"]) for r in server.requests} == {(1.0, 120)}
    assert len({r.body["seed"] for r in server.requests}) == 1


def test_hosted_helpers_stop_at_their_limit_and_pay_once(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosted = importlib.import_module("hosted_helpers")
    monkeypatch.setenv("AIPO_HELPER_USD", "0.0001")
    monkeypatch.setattr(hosted, "LEDGER", Ledger())
    trials = ask(hosted.reasoning(), None, 3)
    assert [trial.error for trial in trials] == [None, "its service failed", "its service failed"]
    assert server.num_requests == 1
    body = server.requests[0].body
    assert (body["max_completion_tokens"], body["temperature"], "max_tokens" in body) == (4000, 1.0, False)
    assert hosted.LEDGER.total().cost_usd > 0.0001
    # What was paid for is kept, limit or not.
    (again,) = ask(hosted.reasoning(), None)
    assert (again.reply, server.num_requests) == ("correct: so it is", 1)


def test_the_policy_is_its_own_helper_with_a_known_mu(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_template = copy.deepcopy(tokenizer())
    with_template.chat_template = TEMPLATE
    policy = Policy("tiny", tiny_policy().model, TransformersCodec(with_template))
    policy.model.config.max_position_embeddings = 8192
    policy.save(tmp_path / "policy")
    monkeypatch.setenv("AIPO_HELPER_MODEL", str(tmp_path / "policy"))
    agents = roles(importlib.import_module("self_helpers"))
    assert len({id(agent.backend) for agent in agents}) == 1  # type: ignore[attr-defined]
    replies = [asyncio.run(agents[2].respond(ConsultRequest("3+4", seed=seed))) for seed in range(3)]
    exact = [reply for reply in replies if reply.token_ids is not None]
    assert exact
    for reply in exact:
        assert reply.tokenizer == policy.codec.fingerprint
        assert reply.logprobs is not None
        assert max(reply.logprobs) < 0
    assert server.num_requests == 0
