import asyncio
import time

import pytest

from aipo_agents.middleware import Cache, RateLimit, RateLimitTimeout
from aipo_agents.middleware.rate_budget import Bucket, RateBudget
from aipo_env.errors import ConfigurationError, ServiceError
from aipo_env.protocol import Reply, Usage
from tests.agents.middleware.asking import Service, all_of, ask, in_threads, many, once, run


def test_requests_go_out_at_the_rate_and_in_order() -> None:
    service = Service()
    limit = RateLimit(service, requests_per_minute=6000, burst=0.05)  # 100 per second, 5 at once
    replies = many(limit, [ask(str(index)) for index in range(25)])
    assert all(isinstance(reply, Reply) for reply in replies)
    assert [request.query for request in service.requests] == [str(index) for index in range(25)]
    # The bucket's 5 at once, then one each 10 ms.
    for index, sent in enumerate(service.times):
        assert sent - service.times[0] >= (index - 5) * 0.01 - 0.002


def test_the_burst_goes_out_at_once_and_no_more() -> None:
    budget = RateBudget(1.0, None, 5.0)
    waits = [budget.reserve(0.0) for _ in range(8)]
    assert waits == pytest.approx([0.0] * 5 + [1.0, 2.0, 3.0], abs=0.3)


def test_tokens_are_estimated_before_and_set_right_after() -> None:
    # 10,000 tokens per second, 1,000 at once; each request is estimated at 500.
    def limited(taken: int) -> float:
        service = Service(reply=Reply("ok", usage=Usage(taken // 2, taken - taken // 2)))
        limit = RateLimit(service, tokens_per_minute=600_000, burst=0.1, estimate=lambda request: 500)

        async def main() -> None:
            for _ in range(6):
                await limit.respond(ask())

        started = time.monotonic()
        run(main)
        return time.monotonic() - started

    assert limited(taken=500) >= (6 * 500 - 1000) / 10_000 - 0.01
    # Six that took 1,500 each: the sixth waits for five times the excess as well.
    assert limited(taken=1500) >= (5 * 1500 + 500 - 1000) / 10_000 - 0.01


def test_unused_tokens_are_given_back() -> None:
    service = Service(reply=Reply("ok", usage=Usage(1, 0)))
    limit = RateLimit(service, tokens_per_minute=60, burst=100.0, estimate=lambda request: 50)

    async def main() -> None:
        for _ in range(20):
            await limit.respond(ask())

    started = time.monotonic()
    run(main)
    assert time.monotonic() - started < 300.0  # 900 s at the estimates
    assert service.calls == 20


def test_a_request_above_the_capacity_goes_out_and_is_paid_off() -> None:
    budget = RateBudget(None, 1000.0, 1.0)
    assert budget.reserve(5000.0) == 0.0
    # The next one waits until the bucket that is 4,000 below zero holds its 100.
    assert budget.reserve(100.0) == pytest.approx(4.1, abs=0.3)


def test_a_full_bucket_does_not_save_up_for_what_was_used_beyond_the_estimate() -> None:
    bucket = Bucket(100.0, 10.0)
    time.sleep(0.2)
    bucket.add(-10.0)
    assert bucket.wait_for(10.0) > 0.05


def test_the_default_estimate_is_a_quarter_of_the_characters_and_a_reply() -> None:
    limit = RateLimit(Service(), tokens_per_minute=1e9, completion_tokens=100)
    request = ask("x" * 400)
    assert limit.estimated_tokens(request) == (400 + len(request.transcript)) // 4 + 100


def test_a_cancelled_request_leaves_its_permit() -> None:
    service = Service()
    limit = RateLimit(service, requests_per_minute=300)  # 5 per second, 5 at once

    async def main() -> float:
        await all_of(limit, [ask(str(index)) for index in range(5)])
        waiting = [asyncio.create_task(limit.respond(ask(f"w{index}"))) for index in range(50)]
        await asyncio.sleep(0.02)
        for task in waiting:
            task.cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        for index in range(50):  # each of these is first in line, and has its permit when it is cancelled
            first = asyncio.create_task(limit.respond(ask(f"f{index}")))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        started = time.monotonic()
        await limit.respond(ask("last"))
        return time.monotonic() - started

    # 50 leaked permits would be 10 s.
    assert run(main) < 9.0


def test_who_has_no_turn_in_time_is_told_at_once_and_takes_nothing() -> None:
    service = Service()
    limit = RateLimit(service, requests_per_minute=60)

    async def main() -> None:
        at_once = RateLimit(service, requests_per_minute=3)
        await at_once.respond(ask("first"))
        started = time.monotonic()
        with pytest.raises(RateLimitTimeout, match=r"within 9 s"):
            await at_once.respond(ask("late", deadline=9.0))
        assert time.monotonic() - started < 8.0
        await limit.respond(ask("before"))
        # Behind one that waits longer, the time in the line counts too.
        slow = asyncio.create_task(limit.respond(ask("second")))
        await asyncio.sleep(0)
        with pytest.raises(RateLimitTimeout):
            await limit.respond(ask("late", deadline=0.05))
        assert (await slow).text == "ok"

    run(main)
    assert [request.query for request in service.requests] == ["first", "before", "second"]


def test_the_wait_is_taken_off_the_deadline() -> None:
    service = Service()
    limit = RateLimit(service, requests_per_minute=600, burst=0.1)

    async def main() -> None:
        await all_of(limit, [ask("a", deadline=9.0), ask("b", deadline=9.0)])

    run(main)
    assert (service.requests[1].deadline or 0.0) < 8.95


def test_a_service_that_is_crowded_stops_everybody() -> None:
    service = Service([ServiceError("busy", status=429, retry_after=0.2)])
    limit = RateLimit(service, requests_per_minute=60_000)

    async def main() -> None:
        with pytest.raises(ServiceError):
            await limit.respond(ask("a"))
        await all_of(limit, [ask(str(index)) for index in range(5)])

    run(main)
    assert min(service.times[1:]) - service.times[0] >= 0.19


def test_repair_30_a_service_that_asks_for_a_day_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    service = Service([ServiceError("busy", status=429, retry_after=86_400.0)])
    limit = RateLimit(service, requests_per_minute=60_000)

    async def main() -> None:
        with pytest.raises(ServiceError):
            await limit.respond(ask("a"))
        await all_of(limit, [ask(str(index), deadline=20.0) for index in range(5)])

    run(main)
    assert max(service.times) - service.times[0] < 10.0
    assert service.calls == 6
    assert "verify asks for no requests within 86400 s" in caplog.text


def test_a_cached_reply_gives_back_its_permit(tmp_path: object) -> None:
    service = Service()
    limit = RateLimit(Cache(service, str(tmp_path)), requests_per_minute=60, burst=2.0)

    async def main() -> None:
        for _ in range(30):
            await limit.respond(ask())

    started = time.monotonic()
    run(main)
    assert time.monotonic() - started < 25.0  # 28 s if each took one
    assert service.calls == 1


def test_threads_share_one_budget() -> None:
    service = Service()
    limit = RateLimit(service, requests_per_minute=6000, burst=0.05)  # 100 per second, 5 at once
    started = time.monotonic()
    in_threads([lambda: many(limit, [ask(str(index)) for index in range(20)]) for _ in range(2)])
    assert time.monotonic() - started >= 0.34
    assert service.calls == 40


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"requests_per_minute": 0.0},
        {"tokens_per_minute": -1.0},
        {"requests_per_minute": 5.0, "burst": 0.0},
        {"requests_per_minute": 5.0, "completion_tokens": -1},
    ],
)
def test_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"^RateLimit.* got "):
        RateLimit(Service(), **options)  # type: ignore[arg-type]


def test_one_alone_does_not_wait() -> None:
    started = time.monotonic()
    once(RateLimit(Service(), requests_per_minute=1.0, tokens_per_minute=1.0))
    assert time.monotonic() - started < 30.0  # a minute each
