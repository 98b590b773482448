"""What holds for every middleware and for every order of them."""

import asyncio
import copy
from collections.abc import Callable
from pathlib import Path

import gymnasium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo_agents.middleware import (
    Accounting,
    Cache,
    CircuitBreaker,
    Coalesce,
    Middleware,
    Prices,
    RateLimit,
    Retry,
    Timeout,
    resilient,
)
from aipo_agents.verify import VerifyAgent
from aipo_env.consulting import consult
from aipo_env.errors import ConfigurationError, ServiceError
from aipo_env.protocol import Agent, Reply
from tests.agents.middleware.asking import Service, ask, in_threads, many, once, run

Layer = Callable[[Agent, Path], Agent]

LAYERS: dict[str, Layer] = {
    "nothing": lambda agent, folder: Middleware(agent),
    "timeout": lambda agent, folder: Timeout(agent, 20.0),
    "retry": lambda agent, folder: Retry(agent, 2, first_wait=0.001, max_wait=0.002),
    "rate limit": lambda agent, folder: RateLimit(agent, 6e6, 6e9),
    "cache": lambda agent, folder: Cache(agent, folder),
    "coalesce": lambda agent, folder: Coalesce(agent),
    "breaker": lambda agent, folder: CircuitBreaker(agent, failures=1000),
    "accounting": lambda agent, folder: Accounting(agent, Prices(1.0, 1.0)),
    "resilient": lambda agent, folder: resilient(
        agent, folder=folder, requests_per_minute=6e6, attempts=2, first_wait=0.001, failures=1000
    ),
}
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())


@each_layer
def test_two_hundred_at_once(layer: Layer, tmp_path: Path) -> None:
    service = Service(delay=0.01)
    replies = many(layer(service, tmp_path), [ask(str(index)) for index in range(200)])
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == ["ok"] * 200
    assert service.calls == 200
    assert service.running == 0


@each_layer
def test_two_hundred_cancelled_at_once(layer: Layer, tmp_path: Path) -> None:
    service = Service(delay=30.0)
    agent = layer(service, tmp_path)

    async def main() -> None:
        tasks = [asyncio.create_task(agent.respond(ask(str(index)))) for index in range(200)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        service.delay = 0.0
        assert (await agent.respond(ask("after"))).text == "ok"

    run(main)
    assert service.running == 0


@each_layer
def test_two_loops_one_after_the_other_and_two_threads_at_once(layer: Layer, tmp_path: Path) -> None:
    service = Service(delay=0.01)
    agent = layer(service, tmp_path)
    for batch in range(2):
        replies = many(agent, [ask(f"{batch}/{index}") for index in range(20)])
        assert all(isinstance(reply, Reply) for reply in replies)
    both = in_threads([lambda t=t: many(agent, [ask(f"{t}/{i}/t") for i in range(50)]) for t in range(2)])  # type: ignore[misc]
    assert all(isinstance(reply, Reply) for replies in both for reply in replies)
    assert service.calls == 140


@each_layer
def test_it_stands_for_the_agent(layer: Layer, tmp_path: Path) -> None:
    service = Service()
    agent = layer(service, tmp_path)
    assert isinstance(agent, Middleware)
    assert (agent.name, agent.description) == ("verify", "answers by the script")
    assert agent.request_key(ask("a")) == service.request_key(ask("a"))
    assert copy.deepcopy(agent) is agent
    run(agent.aclose)
    assert service.closed == 1


def test_an_agent_that_cannot_be_closed_will_do_as_well() -> None:
    agent = resilient(VerifyAgent())
    run(agent.aclose)
    assert once(agent, ask("17+25=43")).text.startswith("incorrect")


@each_layer
@pytest.mark.parametrize("wrong", [VerifyAgent, str.upper, "verify", None])
def test_only_agents_are_wrapped(layer: Layer, wrong: Agent, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"wraps an agent .* got "):
        layer(wrong, tmp_path)


orders = st.lists(st.sampled_from(sorted(LAYERS)), max_size=5)


@settings(max_examples=25, deadline=None)
@given(order=orders, queries=st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_any_order_gives_every_request_its_reply(
    order: list[str], queries: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    service = Service(delay=0.001)
    agent: Agent = service
    for name in order:
        agent = LAYERS[name](agent, folder)
    replies = many(agent, [ask(query) for query in queries])
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == ["ok"] * len(queries)
    # What was not shared was paid for: exactly one reply of each call is not marked.
    own = sum(not reply.cached for reply in replies if isinstance(reply, Reply))
    assert own == service.calls
    assert len(set(queries)) <= service.calls <= len(queries)


@settings(max_examples=25, deadline=None)
@given(
    order=orders,
    fault=st.sampled_from(
        [ServiceError("bad request", transient=False), TypeError("a bug"), ServiceError("down"), ConnectionError("cut")]
    ),
)
def test_any_order_hands_on_the_fault_itself(
    order: list[str], fault: Exception, tmp_path_factory: pytest.TempPathFactory
) -> None:
    agent: Agent = (service := Service(reply=fault))
    for name in order:
        agent = LAYERS[name](agent, tmp_path_factory.getbasetemp() / "never written")
    (result,) = many(agent, [ask()])
    assert result is fault
    retries = sum(name in ("retry", "resilient") for name in order)
    passing = fault.transient if isinstance(fault, ServiceError) else isinstance(fault, ConnectionError)
    assert service.calls == (2**retries if passing else 1)
    assert service.running == 0


def test_the_default_stack_rides_out_faults_and_pays_once(tmp_path: Path) -> None:
    service = Service([ServiceError("busy", retry_after=0.01), ConnectionResetError("cut")], delay=0.005)
    agent = resilient(service, folder=tmp_path, first_wait=0.001, prices=Prices(1.0, 2.0), requests_per_minute=60_000)
    replies = many(agent, [ask()] * 100)
    assert all(isinstance(reply, Reply) and reply.text == "ok" for reply in replies)
    assert service.calls == 3
    assert once(agent).cached
    usage = agent.usage()
    assert (usage.calls, usage.errors, usage.cached) == (101, 0, 100)
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 5)
    assert usage.cost_usd == pytest.approx(20e-6)


def test_the_default_stack_gives_a_dead_service_a_rest() -> None:
    service = Service(reply=ServiceError("down"))
    agent = resilient(service, failures=3, cooldown=60.0, attempts=4, first_wait=0.001)

    async def main() -> list[Reply]:
        return [await consult(agent, ask(str(index)), timeout=30.0) for index in range(20)]

    replies = run(main)
    assert {reply.error for reply in replies} == {"its service failed"}
    assert service.calls == 3
    assert agent.usage().errors == 20


def test_a_wrapped_helper_plays_in_an_environment() -> None:
    agent = Accounting(Timeout(VerifyAgent(), 20.0))
    env = gymnasium.make("aipo/rulebook-consult-v0", agents={"verify": agent})
    env.reset(seed=0)
    observation, *_ = env.step('<consult agent="verify">17+25=43</consult>')
    assert "incorrect" in str(observation)
    assert env.spec is not None
    env.close()
    assert agent.usage().calls == 1
