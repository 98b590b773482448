import asyncio
import dataclasses
import gc

import pytest

from aipo_agents.middleware import Coalesce
from aipo_env.errors import ServiceError
from aipo_env.protocol import ConsultRequest, Reply
from tests.agents.middleware.asking import Service, ask, in_threads, many, run


def test_identical_greedy_requests_share_one_call_and_one_pays() -> None:
    service = Service(delay=0.02)
    replies = many(Coalesce(service), [ask("a")] * 100 + [ask("b")] * 100)
    assert service.calls == 2
    for half in (replies[:100], replies[100:]):
        own, *others = half
        assert own == service.reply
        assert isinstance(own, Reply)
        assert own.usage is not None
        expected = dataclasses.replace(own, cached=True, usage=dataclasses.replace(own.usage, cost_usd=0.0))
        assert others == [expected] * 99


def test_sampled_requests_never_share() -> None:
    service = Service(delay=0.01, greedy=False)
    replies = many(Coalesce(service), [ask("a")] * 50)
    assert service.calls == 50
    assert not any(reply.cached for reply in replies if isinstance(reply, Reply))


def test_one_after_the_other_is_two_calls() -> None:
    service = Service()
    coalesce = Coalesce(service)

    async def main() -> None:
        await coalesce.respond(ask())
        await coalesce.respond(ask())

    run(main)
    assert service.calls == 2


@pytest.mark.parametrize("leaver", [0, 1, 4])
def test_a_cancelled_waiter_leaves_the_others_alone(leaver: int) -> None:
    service = Service(delay=0.05)
    coalesce = Coalesce(service)

    async def main() -> None:
        tasks = [asyncio.create_task(coalesce.respond(ask())) for _ in range(5)]
        await asyncio.sleep(0.01)
        tasks[leaver].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results.pop(leaver), asyncio.CancelledError)
        assert [result.cached for result in results if isinstance(result, Reply)].count(False) == 1
        assert len(results) == 4

    run(main)
    assert service.calls == 1
    assert service.cancelled == 0


def test_when_all_are_cancelled_so_is_the_call_and_nobody_joins_it() -> None:
    service = Service(delay=30.0)
    coalesce = Coalesce(service)

    async def main() -> None:
        tasks = [asyncio.create_task(coalesce.respond(ask())) for _ in range(5)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        service.delay = 0.0
        newcomer = asyncio.create_task(coalesce.respond(ask()))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert (await newcomer).text == "ok"

    run(main)
    assert service.cancelled == 1
    assert service.calls == 2
    assert service.running == 0


@pytest.mark.parametrize("fault", [ServiceError("down"), TypeError("a bug")])
def test_an_error_goes_to_all(fault: Exception) -> None:
    service = Service([fault], delay=0.01)
    coalesce = Coalesce(service)
    assert many(coalesce, [ask()] * 20) == [fault] * 20
    assert service.calls == 1
    assert many(coalesce, [ask()])[0] == service.reply  # the next one is asked anew


def test_a_time_limit_around_one_waiter_is_its_own() -> None:
    service = Service(delay=0.1)
    coalesce = Coalesce(service)

    async def main() -> None:
        async def hasty() -> None:
            async with asyncio.timeout(0.02):
                await coalesce.respond(ask())

        patient = asyncio.create_task(coalesce.respond(ask()))
        with pytest.raises(TimeoutError):
            await hasty()
        assert (await patient).text == "ok"
        service.delay = 30.0
        with pytest.raises(TimeoutError):
            await hasty()

    run(main)
    assert service.calls == 2
    assert service.cancelled == 1  # the second one: nobody else waited


def test_who_has_more_time_does_not_join_a_call_that_has_less() -> None:
    service = Service(delay=0.02)
    many(Coalesce(service), [ask(deadline=1.0), ask(deadline=60.0), ask(deadline=60.0), ask(deadline=2.0), ask()])
    # The first, one for those with up to 60 s, one without end.
    assert [request.deadline for request in service.requests] == [1.0, 60.0, None]


def test_loops_in_two_threads_do_not_meet() -> None:
    service = Service(delay=0.05)
    coalesce = Coalesce(service)
    in_threads([lambda: many(coalesce, [ask()] * 50)] * 2)
    assert service.calls == 2


def test_an_error_that_nobody_waits_for_makes_no_noise() -> None:
    class Clumsy(Service):
        async def respond(self, request: ConsultRequest) -> Reply:
            try:
                return await super().respond(request)
            except asyncio.CancelledError:
                raise ServiceError("fell over while it was stopped") from None

    coalesce = Coalesce(Clumsy(delay=30.0))
    noise: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context))
        task = asyncio.create_task(coalesce.respond(ask()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        gc.collect(1)

    run(main)
    assert noise == []
