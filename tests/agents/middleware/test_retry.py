import random
import time

import pytest

from aipo_agents.middleware import RateLimitTimeout, Retry
from aipo_env.errors import ConfigurationError, ServiceError
from aipo_env.protocol import Reply
from tests.agents.middleware.asking import Service, ask, many, once


def quick(service: Service, attempts: int = 5) -> Retry:
    return Retry(service, attempts, first_wait=0.002, max_wait=0.01)


def test_what_may_pass_is_tried_again() -> None:
    faults = [ServiceError("busy", status=503), ConnectionResetError("cut"), TimeoutError("late")]
    service = Service(faults)
    assert once(quick(service)).text == "ok"
    assert service.calls == 4


@pytest.mark.parametrize(
    "fault",
    [
        ServiceError("no such model", transient=False, status=404),
        TypeError("a bug"),
        OSError("disk"),
        RateLimitTimeout("no turn"),
    ],
)
def test_what_will_not_pass_is_raised_at_once_as_it_is(fault: Exception) -> None:
    service = Service(reply=fault)
    with pytest.raises(type(fault)) as caught:
        once(quick(service))
    assert caught.value is fault
    assert service.calls == 1


def test_the_last_error_is_raised_when_attempts_run_out() -> None:
    faults = [ServiceError(str(index)) for index in range(9)]
    service = Service(faults)
    with pytest.raises(ServiceError) as caught:
        once(quick(service, attempts=3))
    assert caught.value is faults[2]
    assert service.calls == 3


def test_a_reply_with_an_error_is_the_agents_word() -> None:
    service = Service(reply=Reply("", error="no idea"))
    assert once(quick(service)).error == "no idea"
    assert service.calls == 1


def test_waits_grow_to_their_bound_and_are_drawn() -> None:
    service = Service([ServiceError("busy")] * 5)
    once(Retry(service, 6, first_wait=0.02, max_wait=0.08))
    gaps = [later - earlier for earlier, later in zip(service.times, service.times[1:], strict=False)]
    for gap, bound in zip(gaps, [0.02, 0.04, 0.08, 0.08, 0.08], strict=True):
        assert gap >= bound / 2 - 0.002
    # Callers that failed together come back apart.
    crowd = Service([ServiceError("busy")] * 50)
    many(Retry(crowd, 2, first_wait=0.2), [ask(str(index)) for index in range(50)])
    again = sorted(crowd.times[50:])
    assert again[-1] - again[0] > 0.03


def test_the_services_own_wait_is_kept_even_above_the_largest() -> None:
    service = Service([ServiceError("busy", retry_after=0.15)])
    once(Retry(service, 2, first_wait=0.002, max_wait=0.002))
    assert service.times[1] - service.times[0] >= 0.149


@pytest.mark.parametrize("retry_after", [-5.0, 0.0, float("nan")])
def test_a_wait_that_is_no_wait_is_not_believed(retry_after: float) -> None:
    service = Service([ServiceError("busy", retry_after=retry_after)])
    once(Retry(service, first_wait=0.04))
    assert service.times[1] - service.times[0] >= 0.019


def test_it_never_sleeps_past_the_deadline_or_the_total() -> None:
    fault = ServiceError("busy", retry_after=60.0)
    for retry, request in (
        (Retry(Service(reply=fault)), ask(deadline=5.0)),
        (Retry(Service(reply=fault), max_total=5.0), ask()),
    ):
        started = time.monotonic()
        with pytest.raises(ServiceError) as caught:
            once(retry, request)
        assert caught.value is fault
        assert time.monotonic() - started < 4.5


def test_later_attempts_have_less_time() -> None:
    service = Service([ServiceError("busy", retry_after=0.1)])
    once(quick(service), ask(deadline=50.0))
    first, second = (request.deadline or 0.0 for request in service.requests)
    assert 49.0 < second <= first - 0.1 < 50.0


def test_the_global_generator_is_left_alone() -> None:
    random.seed(1)
    state = random.getstate()
    once(quick(Service([ServiceError("busy")] * 3)))
    assert random.getstate() == state


@pytest.mark.parametrize(
    "options",
    [{"attempts": 0}, {"attempts": 2.0}, {"first_wait": 0.0}, {"max_wait": -1.0}, {"max_total": float("nan")}],
)
def test_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=f"Retry: {next(iter(options))} .* got "):
        Retry(Service(), **options)  # type: ignore[arg-type]
