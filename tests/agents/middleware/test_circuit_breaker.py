import asyncio
import time

import pytest

from aipo_agents.middleware import CircuitBreaker, RateLimitTimeout
from aipo_env.errors import ConfigurationError, ServiceError
from aipo_env.protocol import Reply
from tests.agents.middleware.asking import Service, all_of, ask, run


async def failures(breaker: CircuitBreaker, number: int) -> None:
    for _ in range(number):
        with pytest.raises((ServiceError, ConnectionError, TimeoutError)):
            await breaker.respond(ask())


def test_it_opens_after_failures_in_a_row_and_closes_again() -> None:
    service = Service([ServiceError("down"), ConnectionResetError("cut"), TimeoutError("late")])
    breaker = CircuitBreaker(service, failures=3, cooldown=0.5)

    async def main() -> None:
        await failures(breaker, 3)
        assert breaker.state == "open"
        for _ in range(20):
            with pytest.raises(ServiceError, match="failed 3 times in a row") as caught:
                await breaker.respond(ask())
            assert caught.value.transient
            assert caught.value.retry_after is not None
            assert 0 < caught.value.retry_after <= 0.5
        assert service.calls == 3
        await asyncio.sleep(0.51)
        assert breaker.state == "half-open"
        assert (await breaker.respond(ask())).text == "ok"
        assert breaker.state == "closed"
        await all_of(breaker, [ask()] * 5)
        assert service.calls == 9

    run(main)


def test_an_answer_in_between_starts_the_count_anew() -> None:
    down = ServiceError("down")
    breaker = CircuitBreaker(Service([down, down, Reply("ok"), down, down]), failures=3)

    async def main() -> None:
        await failures(breaker, 2)
        await breaker.respond(ask())
        await failures(breaker, 2)

    run(main)
    assert breaker.state == "closed"


def test_half_open_lets_one_through_and_a_failure_opens_it_anew() -> None:
    service = Service([ServiceError("down")] * 2, delay=0.02)
    breaker = CircuitBreaker(service, failures=1, cooldown=0.3)

    async def main() -> None:
        await failures(breaker, 1)
        await asyncio.sleep(0.31)
        results = await all_of(breaker, [ask()] * 50)
        assert all(isinstance(result, ServiceError) for result in results)
        assert service.calls == 2
        assert breaker.state == "open"
        await asyncio.sleep(0.31)
        results = await all_of(breaker, [ask()] * 50)
        assert sum(isinstance(result, Reply) for result in results) == 1
        assert service.calls == 3
        assert breaker.state == "closed"

    run(main)


@pytest.mark.parametrize(
    "fault",
    [ServiceError("bad request", transient=False, status=400), TypeError("a bug"), RateLimitTimeout("no turn")],
)
def test_what_is_not_the_services_fault_does_not_count(fault: Exception) -> None:
    service = Service([ServiceError("down"), fault, ServiceError("down")])
    breaker = CircuitBreaker(service, failures=2, cooldown=60.0)

    async def main() -> None:
        await failures(breaker, 1)
        with pytest.raises(type(fault)):
            await breaker.respond(ask())
        assert breaker.state == "closed"
        await failures(breaker, 1)
        assert breaker.state == "open"  # nor does it wipe out what counted before

    run(main)


def test_a_cancelled_try_leaves_the_next_one_its_turn() -> None:
    service = Service([ServiceError("down")], delay=0.01)
    breaker = CircuitBreaker(service, failures=1, cooldown=0.05)

    async def main() -> None:
        await failures(breaker, 1)
        await asyncio.sleep(0.06)
        service.delay = 30.0
        task = asyncio.create_task(breaker.respond(ask()))
        await asyncio.sleep(0.01)
        with pytest.raises(ServiceError, match="being tried") as caught:
            await breaker.respond(ask())
        assert caught.value.retry_after is None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert breaker.state == "half-open"
        service.delay = 0.0
        assert (await breaker.respond(ask())).text == "ok"

    run(main)


def test_calls_from_before_it_opened_have_nothing_to_say() -> None:
    service = Service([Reply("slow"), ServiceError("down")], delay=0.1)
    breaker = CircuitBreaker(service, failures=1, cooldown=60.0)

    async def main() -> None:
        slow = asyncio.create_task(breaker.respond(ask()))
        await asyncio.sleep(0.01)
        service.delay = 0.0
        await failures(breaker, 1)
        assert breaker.state == "open"
        assert (await slow).text == "slow"
        assert breaker.state == "open"

    run(main)


def test_two_hundred_that_fail_together_open_it_once() -> None:
    service = Service(reply=ServiceError("down"), delay=0.05)
    breaker = CircuitBreaker(service, failures=5, cooldown=0.5)

    async def main() -> None:
        await all_of(breaker, [ask()] * 200)
        opened = time.monotonic()
        with pytest.raises(ServiceError) as caught:
            await breaker.respond(ask())
        # Stragglers did not push the end of the cooldown away.
        assert (caught.value.retry_after or 9.0) <= 0.5
        await asyncio.sleep(max(0.0, 0.51 - (time.monotonic() - opened)))
        assert breaker.state == "half-open"

    run(main)
    assert service.calls == 200


@pytest.mark.parametrize("options", [{"failures": 0}, {"failures": True}, {"cooldown": 0.0}])
def test_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=f"CircuitBreaker: {next(iter(options))} .* got "):
        CircuitBreaker(Service(), **options)
