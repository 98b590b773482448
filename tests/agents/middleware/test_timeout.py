import time

import pytest

from aipo_agents.middleware import Timeout
from aipo_env.errors import ConfigurationError
from tests.agents.middleware.asking import Service, ask, once


def test_a_late_reply_is_cancelled() -> None:
    service = Service(delay=30.0)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"verify was to reply within 0\.05 s"):
        once(Timeout(service, 0.05))
    assert 0.04 < time.monotonic() - started < 25.0
    assert service.cancelled == 1
    assert service.running == 0


def test_the_nearer_of_limit_and_deadline_counts_and_is_told() -> None:
    service = Service()
    once(Timeout(service, 9.0))
    once(Timeout(service, 9.0), ask(deadline=4.0))
    once(Timeout(service, 9.0), ask(deadline=40.0))
    assert [request.deadline for request in service.requests] == [9.0, 4.0, 9.0]
    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        once(Timeout(Service(delay=30.0), 30.0), ask(deadline=0.05))


def test_the_agents_own_time_out_keeps_its_message() -> None:
    with pytest.raises(TimeoutError, match="database"):
        once(Timeout(Service([TimeoutError("database")]), 5.0))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), True, "5"])
def test_seconds_are_checked(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match=r"Timeout: seconds .* got "):
        Timeout(Service(), seconds)
