import asyncio
import dataclasses
from pathlib import Path

import pytest

from aipo_agents.middleware import Accounting, CostLimit, Ledger, Prices, Retry, RoleUsage, resilient
from aipo_env.errors import ConfigurationError, ServiceError
from aipo_env.protocol import Reply, Usage
from tests.agents.middleware.asking import Service, ask, in_threads, many, once, run


def test_it_counts_what_was_asked_and_what_it_cost() -> None:
    script = [
        Reply("a", usage=Usage(100, 10, 0.5)),
        Reply("b", usage=Usage(1, 1, 0.0), cached=True),
        Reply("", error="late"),
        TypeError("a bug"),
        Reply("c"),
    ]
    agent = Accounting(Service(script))
    many(agent, [ask()] * 5)
    assert agent.usage() == RoleUsage(
        calls=5, errors=2, cached=1, unmetered=2, prompt_tokens=100, completion_tokens=10, cost_usd=0.5
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        agent.usage().calls = 3  # type: ignore[misc]


def test_prices_make_the_cost_in_ledger_and_reply() -> None:
    agent = Accounting(Service(reply=Reply("a", usage=Usage(1_000_000, 500_000, 99.0))), Prices(2.0, 6.0))
    reply = once(agent)
    assert reply.usage == Usage(1_000_000, 500_000, 5.0)
    assert agent.usage().cost_usd == 5.0
    free = Accounting(Service(reply=Reply("a", usage=Usage(10, 10, 0.0), cached=True)), Prices(2.0, 6.0))
    assert once(free).usage == Usage(10, 10, 0.0)
    assert free.usage() == RoleUsage(calls=1, cached=1)


def test_a_cancelled_request_is_counted_as_such() -> None:
    agent = Accounting(Service(delay=30.0))

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await agent.respond(ask())

    run(main)
    assert agent.usage() == RoleUsage(calls=1, cancelled=1)


def test_repair_32_failures_that_were_billed_are_in_the_ledger_and_an_unknown_cost_is_no_zero() -> None:
    billed = ServiceError("cut", usage=Usage(40, 4))
    service = Service([billed, ServiceError("away"), Reply("a", usage=Usage(100, 10)), billed])
    agent = Accounting(Retry(service, 3, first_wait=0.001))
    assert once(agent).usage == Usage(140, 14)
    assert agent.usage() == RoleUsage(calls=1, unpriced=1, prompt_tokens=140, completion_tokens=14)
    assert str(agent.ledger).splitlines()[1].split()[-1] == "unknown"
    final = ServiceError("no", transient=False, usage=Usage(1, 2, 0.5))
    failing = Accounting(Retry(Service([billed, final]), 3, first_wait=0.001), Prices(1e6, 0.0))
    with pytest.raises(ServiceError):
        once(failing)
    assert failing.usage() == RoleUsage(calls=1, errors=1, prompt_tokens=41, completion_tokens=6, cost_usd=41.0)
    assert str(failing.ledger).splitlines()[1].split()[-1] == "41.0000"


def test_roles_share_a_ledger_from_several_threads() -> None:
    ledger = Ledger()
    roles = ("verify", "knowledge", "reasoning")
    agents = [Accounting(Service(name=role), ledger=ledger) for role in (*roles, "verify")]
    in_threads([lambda agent=agent: many(agent, [ask()] * 200) for agent in agents])  # type: ignore[misc]
    one = RoleUsage(calls=200, prompt_tokens=2000, completion_tokens=1000, cost_usd=50.0)
    assert ledger.table() == {"knowledge": one, "reasoning": one, "verify": one + one}
    assert ledger.total() == one + one + one + one
    assert agents[0].usage() == one + one
    lines = str(ledger).splitlines()
    assert lines[0].split()[:2] == ["role", "calls"]
    assert lines[3].split() == ["verify", "400", "0", "0", "0", "0", "0", "4,000", "2,000", "0", "100.0000"]
    assert lines[-1].startswith("total")
    assert len({len(line) for line in lines}) == 1


def test_arguments_are_checked() -> None:
    with pytest.raises(ConfigurationError, match=r"Accounting: prices .* got dict"):
        Accounting(Service(), {})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"Accounting: ledger .* got dict"):
        Accounting(Service(), ledger={})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"Prices: completion .* got -1"):
        Prices(1.0, -1.0)
    with pytest.raises(ConfigurationError, match="RoleUsage"):
        Ledger().add("verify", Usage())  # type: ignore[arg-type]


# -- a limit of cost -------------------------------------------------------------------------------------------------------


def test_nobody_is_asked_once_the_money_is_spent_and_what_is_kept_still_comes(tmp_path: Path) -> None:
    service = Service(reply=Reply("a", usage=Usage(1_000_000, 0)), greedy=False)
    agent = resilient(service, folder=tmp_path, prices=Prices(2.0, 0.0), max_cost_usd=3.0)
    assert [once(agent, ask(seed=seed)).text for seed in (0, 1)] == ["a", "a"]
    with pytest.raises(ServiceError, match=r"have cost 4\.0000 of 3 US dollars") as raised:
        once(agent, ask(seed=2))
    assert not raised.value.transient
    assert service.calls == 2
    assert once(agent, ask(seed=0)).cached
    assert agent.usage().cost_usd == 4.0


def test_helpers_that_share_a_ledger_share_the_limit() -> None:
    ledger = Ledger()
    shared = {"prices": Prices(1.0, 0.0), "ledger": ledger, "max_cost_usd": 1.0}
    one, two = (resilient(Service(reply=Reply("a", usage=Usage(1_000_000, 0)), name=n), **shared) for n in "ab")  # type: ignore[arg-type]
    once(one)
    with pytest.raises(ServiceError, match="b is not asked"):
        once(two)


def test_a_limit_needs_a_cost() -> None:
    with pytest.raises(ConfigurationError, match="max_cost_usd needs prices"):
        resilient(Service(), max_cost_usd=1.0)
    with pytest.raises(ConfigurationError, match="CostLimit: max_usd"):
        CostLimit(Service(), 0.0, Ledger())
