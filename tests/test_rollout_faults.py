"""Hundreds of episodes in flight against a model server that misbehaves in every way it can."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import time
from pathlib import Path

import pytest

import aipo_env
from aipo_agents.backends.openai_server import OpenAIServer
from aipo_agents.llm import LLMAgent
from aipo_env import Source, Trajectory, read_traces
from aipo_env.registry import make_game
from aipo_env.tasks.base import Task
from algorithms.samplers.backend_policy import BackendPolicy
from tests.helpers import CharacterCodec, SumTasks
from tests.misbehaving_server import Fault, MisbehavingServer, Request

NUM_EPISODES = 512
ASK = '<consult agent="verify">is that so?</consult>'

FAULTS = (
    Fault("status", status=500),
    Fault("status", status=429, retry_after="1"),
    Fault("status", status=404),
    Fault("reset"),
    Fault("cut"),
    Fault("hang"),
    Fault("dribble", seconds=1.0),
    Fault("not_json"),
    Fault("body", payload={"choices": []}),
    Fault("body", payload=[1, 2]),
    Fault("raw_body", payload=b"\xff\xfe\x00"),
    Fault("huge"),
    Fault("huge_length"),
    Fault("not_http"),
)
SLOW, DRIBBLE = Fault("slow", seconds=0.05), Fault("dribble", seconds=1e-4)


class ManySums(SumTasks):
    """More of them."""

    num_tasks = NUM_EPISODES

    def task(self, index: int) -> Task:
        return Task(f"sums/{index}", f"{index}+1=", str(index + 1))


def task_of(request: Request) -> int:
    found = re.search(r"(\d+)\+1=", request.prompt)
    assert found is not None
    return int(found[1])


def reply(request: Request) -> str:
    if request.is_chat:
        return "yes, it is"
    return ASK if "</consult>" not in request.prompt else f"\\boxed{{{task_of(request) + 1}}}"


def victim(index: int) -> str:
    """Who meets the fault of an episode: the policy's first or second turn, its helper, or nobody."""
    return ("first", "second", "helper", "nobody")[index // len(FAULTS) % 4]


def fault(request: Request) -> Fault | None:
    index = task_of(request)
    who = "helper" if request.is_chat else "second" if "</consult>" in request.prompt else "first"
    if who == victim(index):
        return FAULTS[index % len(FAULTS)]
    # Those that are slow and right. Few dribble: each byte is a wake-up of both sides.
    return DRIBBLE if index % 97 == 0 else SLOW if index % 5 == 0 else None


def is_late(trajectory: Trajectory) -> bool:
    """Whether a time limit ended a request that no fault was made for, or one whose fault takes no time."""
    index = trajectory.task_index or 0
    who = victim(index)
    met = {
        "first": True,
        "second": len(trajectory.segments) > 1,
        "helper": trajectory.stop_reason != "error",
        "nobody": False,
    }[who]
    waits = met and FAULTS[index % len(FAULTS)].kind in ("hang", "dribble", "huge_length")
    said = str(trajectory.metadata.get("error", "")) + "".join(s.text for s in trajectory.segments[1:])
    return not waits and ("gave no answer within" in said or "no reply within" in said)


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def play(server: MisbehavingServer, path: Path) -> list[Trajectory]:
    codec = CharacterCodec()
    model = OpenAIServer(server.base_url, "fake", timeout=10.0, max_response_bytes=2**18)
    game = make_game(
        "rulebook-consult",
        tasks=ManySums(),
        agents={"verify": LLMAgent("verify", model, codec=codec)},
        prompt="bare",
        codec=codec,
        consult_timeout=10.0,
    )
    before = asyncio.all_tasks()
    async with aipo_env.rollout(
        game, BackendPolicy(model, codec), max_in_flight=NUM_EPISODES, max_tokens=600, traces=path
    ) as episodes:
        found = [trajectory async for trajectory in episodes]
    assert asyncio.all_tasks() == before
    await model.aclose()
    assert aipo_env.replay(path, game).faithful
    return found


@pytest.mark.slow
def test_512_episodes_against_every_fault(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    with MisbehavingServer(reply) as server:
        server.fault = fault
        files = num_open_files()
        start = time.monotonic()
        found = asyncio.run(play(server, path))
        assert time.monotonic() - start < 300
        assert server.wait_idle()
        # A finaliser that warns of a coroutine or a socket fails the test.
        gc.collect()
        assert num_open_files() <= files
        assert server.errors == []
        assert server.peak_connections > NUM_EPISODES // 3
    assert sorted(t.task_index or 0 for t in found) == list(range(NUM_EPISODES))
    # On a machine that is too busy a good answer comes too late, which is a fault like the others.
    late = [t for t in found if is_late(t)]
    assert len(late) < NUM_EPISODES // 2
    for t in found:
        if t in late:
            continue
        sources = [s.source for s in t.segments]
        who = victim(t.task_index or 0)
        assert t.stop_reason in ("answer", "error")
        named = (t.task_index, who, FAULTS[(t.task_index or 0) % len(FAULTS)], t.stop_reason, t.metadata.get("error"))
        if who == "first":
            assert (t.stop_reason, sources) == ("error", [Source.PROMPT]), named
        elif who == "second":
            assert (t.stop_reason, sources) == ("error", [Source.PROMPT, Source.POLICY, Source.AGENT]), named
        elif who == "helper":
            assert (t.stop_reason, t.reward, t.num_consults, sources[2]) == ("answer", 1.0, 0, Source.TEMPLATE), named
            assert "verify could not answer: " in t.segments[2].text
        else:
            assert (t.stop_reason, t.reward, t.num_consults, sources[2]) == ("answer", 1.0, 1, Source.AGENT), named
            assert t.segments[2].text == '<feedback agent="verify">yes, it is</feedback>'
        if t.stop_reason == "error":
            assert t.metadata["error"]
    finished = [t.stop_reason for t in read_traces(path)]
    assert finished == ["answer"] * sum(t.stop_reason == "answer" for t in found)
    assert len(list(read_traces(tmp_path / "traces.errors.jsonl"))) == NUM_EPISODES - len(finished)


def test_leaving_while_512_requests_hang(tmp_path: Path) -> None:
    async def main() -> None:
        codec = CharacterCodec()
        model = OpenAIServer(server.base_url, "fake")
        game = make_game("rulebook-consult", tasks=ManySums(), agents={"verify": str.upper}, prompt="bare", codec=codec)
        before = asyncio.all_tasks()
        async with aipo_env.rollout(game, BackendPolicy(model, codec), max_in_flight=NUM_EPISODES):
            while server.in_flight < NUM_EPISODES:
                await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == before
        # The client let go of every request that nobody waits for.
        assert await asyncio.to_thread(server.wait_idle, connections=0)
        await model.aclose()

    with MisbehavingServer() as server:
        server.fault = lambda request: Fault("hang")
        asyncio.run(asyncio.wait_for(main(), 30))
        assert server.disconnects == NUM_EPISODES
