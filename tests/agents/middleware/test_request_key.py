import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from aipo_agents.middleware import Accounting, Timeout
from aipo_agents.request_key import key_digest, request_key
from tests.agents.middleware.asking import Plain, Service, ask


def test_an_agents_own_key_is_taken_through_any_middleware() -> None:
    service = Service()
    own = service.request_key(ask("a", seed=3))
    assert own.deterministic
    assert request_key(service, ask("a", seed=3)) == own
    assert request_key(Accounting(Timeout(service, 1.0)), ask("a", seed=3)) == own


def test_the_key_of_an_agent_without_one_tells_requests_and_agents_apart() -> None:
    request = ask("a")
    key = request_key(Plain(), request)
    assert not key.deterministic
    assert key == request_key(Plain(), dataclasses.replace(request, deadline=3.0))
    others = [
        dataclasses.replace(request, query="b"),
        dataclasses.replace(request, transcript="b"),
        dataclasses.replace(request, task_id="b"),
        dataclasses.replace(request, seed=1),
    ]
    digests = {request_key(Plain(), other).digest for other in others}

    class Renamed(Plain):
        name = "renamed"

    digests.add(request_key(Renamed(), request).digest)
    assert len(digests) == 5
    assert key.digest not in digests


def test_parts_do_not_run_together() -> None:
    assert key_digest("ab", "c") != key_digest("a", "bc")
    assert key_digest(1) != key_digest("1")
    assert key_digest(["a"], "b") != key_digest(["a", "b"])
    assert key_digest({"a": 1, "b": 2}) == key_digest({"b": 2, "a": 1})
    # A pinned value: a change of it would make every cache on disk useless.
    assert key_digest("model", {"temperature": 0.0}, None).startswith("6dd516be7d2d")


@given(st.text(st.characters(exclude_categories=())), st.floats())
def test_any_text_and_any_float_has_a_digest(text: str, number: float) -> None:
    digest = key_digest(text, number)
    assert len(digest) == 64
    assert digest == key_digest(text, number)
    assert digest != key_digest(text + "x", number)
