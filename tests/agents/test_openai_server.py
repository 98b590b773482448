from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import pickle
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime

import pytest

from aipo_agents.backends import ChatSampling, CompletionSampling, Generation, Message
from aipo_agents.backends.base import ChatBackend, CompletionBackend
from aipo_agents.backends.http_errors import retry_after
from aipo_agents.backends.openai_replies import logprobs_source
from aipo_agents.backends.openai_server import OpenAIServer
from aipo_env.errors import ConfigurationError, MissingDependencyError, ServiceError
from aipo_env.protocol import Usage
from tests.misbehaving_server import EOS, EOS_TEXT, Fault, MisbehavingServer, Request, logprob_of

PROMPT = [2_000_001, *(ord(c) for c in "2+3=")]
HELLO = [Message("system", "be brief"), Message("user", "hello")]
GREEDY = ChatSampling()


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as running:
        yield running
        assert running.errors == []


def run(work: Callable[[], Coroutine[object, object, object]]) -> None:
    """Runs a coroutine function; afterwards no task is left."""

    async def main() -> None:
        await work()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    gc.collect()


def chat(backend: OpenAIServer, sampling: ChatSampling = GREEDY) -> Generation:
    return asyncio.run(backend.chat(HELLO, sampling))


def complete(backend: OpenAIServer, sampling: CompletionSampling | None = None) -> Generation:
    return asyncio.run(backend.complete(PROMPT, sampling or CompletionSampling()))


def fails(call: Callable[[], object]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        call()
    return caught.value


def test_it_is_both_kinds_of_backend() -> None:
    backend = OpenAIServer("http://localhost/v1", "m")
    assert isinstance(backend, ChatBackend)
    assert isinstance(backend, CompletionBackend)


def test_chat_sends_the_messages_and_the_sampling_and_nothing_that_other_servers_refuse(
    server: MisbehavingServer,
) -> None:
    backend = OpenAIServer(server.base_url + "/", "m", api_key="sk-secret")
    sampling = ChatSampling(0.5, 0.9, max_tokens=40, seed=7, stop=("END",))
    generation = chat(backend, sampling)
    request = server.requests[0]
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer sk-secret"
    assert request.body == {
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        "model": "m",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 40,
        "seed": 7,
        "stop": ["END"],
    }
    text = server.reply(request)
    assert generation == Generation(text, None, None, "stop", Usage(len("be brief\nhello"), len(text) + 1))
    assert "sk-secret" not in repr(backend)


def test_chat_with_logprobs_brings_ids_and_what_they_were_sampled_with(server: MisbehavingServer) -> None:
    backend = OpenAIServer(server.base_url, "m")
    generation = chat(backend, ChatSampling(1.0, seed=1, logprobs=True))
    ids = (*(ord(c) for c in generation.text), EOS)
    assert generation.token_ids == ids
    assert generation.logprobs == tuple(logprob_of(i) for i in ids)
    sent = server.requests[0].body
    # Left out, vLLM would take them from the model's generation_config.json.
    assert (sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (-1, 0.0, 1.0)


def test_completion_brings_back_the_exact_ids_with_the_end_token() -> None:
    with MisbehavingServer(reply=lambda request: "héllo ∑") as server:
        generation = complete(OpenAIServer(server.base_url, "m"), CompletionSampling(seed=11, max_tokens=50))
        ids = (*(ord(c) for c in "héllo ∑"), EOS)
        assert generation.token_ids == ids
        assert generation.logprobs == tuple(logprob_of(i) for i in ids)
        assert (generation.finish_reason, generation.text) == ("stop", "héllo ∑" + EOS_TEXT)
        sent = server.requests[0].body
        assert sent["prompt"] == PROMPT
        wanted = {
            "return_token_ids": True,
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "seed": 11,
        }
        assert {key: sent[key] for key in wanted} == wanted


def test_a_stop_string_belongs_to_the_turn_and_a_limit_cuts_it() -> None:
    with MisbehavingServer(reply=lambda request: "a</consult>b") as server:
        backend = OpenAIServer(server.base_url, "m")
        stopped = complete(backend, CompletionSampling(stop=("</consult>",)))
        assert (stopped.text, stopped.finish_reason) == ("a</consult>", "stop")
        assert stopped.token_ids == tuple(ord(c) for c in "a</consult>")
        cut = complete(backend, CompletionSampling(max_tokens=3))
        assert (cut.token_ids, cut.finish_reason) == (tuple(ord(c) for c in "a</"), "length")
        exact = complete(backend, CompletionSampling(max_tokens=13))
        assert exact.token_ids is not None
        assert (exact.token_ids[-1], exact.finish_reason) == (EOS, "stop")


@pytest.mark.parametrize(
    ("temperature", "top_p", "mode", "altered", "source"),
    [
        (0.0, 1.0, "raw", False, "point mass"),
        (0.0, 0.5, "processed", True, "point mass"),
        (1.0, 1.0, "raw", False, "reported"),
        (1.0, 0.99, "raw", False, "unknown"),
        (0.99, 1.0, "raw", False, "unknown"),
        (1.0, 1.0, "raw", True, "unknown"),
        (0.7, 0.9, "processed", True, "reported"),
        (0.005, 1.0, "processed", False, "unknown"),
    ],
)
def test_logprobs_are_those_of_the_distribution_really_sampled_from_or_none(
    server: MisbehavingServer, temperature: float, top_p: float, mode: str, altered: bool, source: str
) -> None:
    sampling = CompletionSampling(temperature, top_p)
    assert logprobs_source(sampling, mode, altered=altered) == source  # type: ignore[arg-type]
    assert logprobs_source(dataclasses.replace(sampling, logprobs=False), mode) == "unknown"  # type: ignore[arg-type]
    options = {"top_k": 20} if altered else {"user": "me"}
    backend = OpenAIServer(server.base_url, "m", logprobs_mode=mode, extra_body=options)  # type: ignore[arg-type]
    generation = complete(backend, sampling)
    assert generation.token_ids is not None
    expected = {
        "reported": tuple(logprob_of(i) for i in generation.token_ids),
        "point mass": (0.0,) * len(generation.token_ids),
        "unknown": None,
    }
    assert generation.logprobs == expected[source]
    assert server.requests[0].body.get("top_k") == (20 if altered else -1)


def test_a_server_without_token_ids_is_told_apart_and_the_option_named() -> None:
    with MisbehavingServer(token_ids=False) as server:
        backend = OpenAIServer(server.base_url, "m")
        for call in (lambda: complete(backend), lambda: chat(backend, ChatSampling(1.0, logprobs=True))):
            error = fails(call)
            assert "return_token_ids" in str(error)
            assert not error.transient
        assert chat(backend).text.startswith("reply")


def test_hosted_reasoning_models_get_their_name_for_the_limit(server: MisbehavingServer) -> None:
    chat(OpenAIServer(server.base_url, "m", max_tokens_field="max_completion_tokens"))
    assert "max_tokens" not in server.requests[0].body
    assert server.requests[0].body["max_completion_tokens"] == 256


GOOD_FIELDS = {"finish_reason": "stop"}
GOOD_CHAT = {"choices": [{"message": {"content": "x"}, **GOOD_FIELDS}]}

FAULTS = [
    (Fault("status", status=429, retry_after="7"), True, 429, 7.0, "made to fail"),
    (Fault("status", status=429, retry_after="1.5"), True, 429, 1.5, ""),
    (Fault("status", status=429, retry_after="soon"), True, 429, None, ""),
    (Fault("status", status=503, retry_after="-3"), True, 503, 0.0, ""),
    (Fault("status", status=500), True, 500, None, "made to fail"),
    (Fault("status", status=408), True, 408, None, ""),
    (Fault("status", status=400, message="context length is 4096"), False, 400, None, "context length is 4096"),
    (Fault("status", status=401), False, 401, None, "OPENAI_API_KEY"),
    (Fault("status", status=404, retry_after="9"), False, 404, None, "/v1/models"),
    (Fault("status", status=307), False, 307, None, "redirected"),
    (Fault("reset"), True, None, None, "broke off"),
    (Fault("cut"), True, None, None, "broke off"),
    (Fault("not_http"), True, None, None, "broke off"),
    (Fault("dribble", seconds=0.05), True, None, None, "within 0.4 s"),
    (Fault("hang"), True, None, None, "within 0.4 s"),
    (Fault("not_json"), True, 200, None, "not JSON"),
    (Fault("raw_body", payload=b"\xff\xfe{}"), True, 200, None, "not JSON"),
    (Fault("raw_body", payload=b"[" * 60_000), True, 200, None, "not JSON"),
    (Fault("raw_body", payload=b'{"a": ' + b"9" * 20_000 + b"}"), True, 200, None, "not JSON"),
    (Fault("huge"), False, 200, None, "max_response_bytes"),
    (Fault("huge_length"), False, 200, None, "max_response_bytes"),
    (Fault("body", payload=[1]), False, None, None, "a JSON object"),
    (Fault("body", payload={}), False, None, None, "one choice"),
    (Fault("body", payload={"choices": []}), False, None, None, "one choice"),
    (Fault("body", payload={"choices": [1]}), False, None, None, "one choice"),
    (Fault("body", payload={"choices": [GOOD_FIELDS]}), False, None, None, "content as text"),
    (Fault("body", payload={"choices": [{"message": {"content": [1]}}]}), False, None, None, "content as text"),
    (Fault("body", payload={"choices": [{"message": {"content": "x"}}]}), False, None, None, "finish_reason"),
    (Fault("body", payload={**GOOD_CHAT, "usage": {"prompt_tokens": "many"}}), False, None, None, "usage"),
    (Fault("body", payload={**GOOD_CHAT, "usage": 3}), False, None, None, "usage"),
    (
        Fault("body", payload={"choices": [{"message": {"content": "x"}, "finish_reason": "abort"}]}),
        True,
        None,
        None,
        "gave up",
    ),
]


@pytest.mark.parametrize(("fault", "transient", "status", "wait", "says"), FAULTS)
def test_every_fault_is_a_service_error_and_leaves_nothing_open(
    server: MisbehavingServer, fault: Fault, transient: bool, status: int | None, wait: float | None, says: str
) -> None:
    backend = OpenAIServer(server.base_url, "m", timeout=0.4, max_response_bytes=200_000)
    server.script(fault)

    async def work() -> None:
        with pytest.raises(ServiceError) as caught:
            await backend.chat(HELLO, GREEDY)
        error = caught.value
        assert (error.transient, error.status, error.retry_after) == (transient, status, wait)
        assert says in str(error)
        assert len(str(error)) < 1000
        # The next request goes through, and no request was sent twice.
        assert (await backend.chat(HELLO, GREEDY)).text.startswith("reply")
        assert server.num_requests == 2
        await backend.aclose()

    run(work)
    assert server.wait_idle()
    assert server.in_flight == 0


def complete_with(change: Callable[[dict[str, object]], object]) -> Fault:
    def payload(answer: dict[str, list[dict[str, object]]]) -> object:
        change(answer["choices"][0])
        return answer

    return Fault("body", payload=payload)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (complete_with(lambda choice: choice.update(token_ids="abc")), "as a list"),
        (complete_with(lambda choice: choice.update(token_ids=[1, True])), "whole numbers"),
        (complete_with(lambda choice: choice.update(token_ids=[1, -4])), "whole numbers"),
        (complete_with(lambda choice: choice.update(token_ids=[1, 2.0])), "whole numbers"),
        (complete_with(lambda choice: choice.update(token_ids=[5])), "of 1 tokens"),
        (complete_with(lambda choice: choice.update(logprobs=None)), "sent none"),
        (complete_with(lambda choice: choice["logprobs"]["token_logprobs"].pop()), "log-probabilities of"),  # type: ignore[index]
        (complete_with(lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, None)), "finite"),  # type: ignore[index]
        (complete_with(lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, 0.5)), "finite"),  # type: ignore[index]
        (complete_with(lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, float("nan"))), "finite"),  # type: ignore[index]
        (complete_with(lambda choice: choice.update(prompt_token_ids=[1, 2])), "another prompt"),
        (complete_with(lambda choice: choice.update(text=None)), "text as text"),
        (complete_with(lambda choice: choice.update(finish_reason="tool_calls")), "finish_reason"),
    ],
)
def test_a_turn_that_is_not_what_was_asked_for_is_never_learnt_from(
    server: MisbehavingServer, fault: Fault, says: str
) -> None:
    server.script(fault)
    error = fails(lambda: complete(OpenAIServer(server.base_url, "m")))
    assert says in str(error)
    assert not error.transient


def test_retry_after_reads_dates_against_the_servers_clock() -> None:
    date = "Wed, 21 Oct 2026 07:28:30 GMT"
    assert retry_after({"Retry-After": date, "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}) == 30.0
    assert retry_after({"Retry-After": date}, now=datetime(2026, 10, 21, 7, 28, 20, tzinfo=UTC)) == 10.0
    assert retry_after({"Retry-After": date}, now=datetime(2027, 1, 1, tzinfo=UTC)) == 0.0
    assert [retry_after({"Retry-After": text}) for text in ("", "nan", "inf", "Wed, 99 Oct")] == [None] * 4


def test_a_date_in_a_real_answer(server: MisbehavingServer) -> None:
    server.script(Fault("status", status=429, retry_after="Fri, 31 Dec 2066 23:59:59 GMT"))
    wait = fails(lambda: chat(OpenAIServer(server.base_url, "m"))).retry_after
    assert wait is not None
    assert wait > 1e9


@pytest.mark.parametrize("kind", ["hang", "dribble", "huge_length", "huge"])
def test_a_cancelled_request_closes_its_connection(server: MisbehavingServer, kind: str) -> None:
    backend = OpenAIServer(server.base_url, "m", max_response_bytes=10**14)
    server.script(Fault(kind, seconds=0.01))

    async def work() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await backend.chat(HELLO, GREEDY)
        # The server sees the client leave, and with that stops generating, while the backend stays open.
        assert await asyncio.to_thread(server.wait_idle)
        assert server.disconnects == 1
        await backend.aclose()

    run(work)


def test_no_redirect_is_followed(server: MisbehavingServer) -> None:
    server.script(Fault("status", status=307, location=f"{server.base_url}/elsewhere"))
    error = fails(lambda: chat(OpenAIServer(server.base_url, "m", api_key="k")))
    assert f"redirected to {server.base_url}/elsewhere" in str(error)
    assert (server.num_requests, error.transient) == (1, False)


def test_no_server_says_what_to_start() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = fails(lambda: chat(OpenAIServer(f"http://127.0.0.1:{port}/v1", "org/model")))
    assert error.transient
    assert f"http://127.0.0.1:{port}/v1" in str(error)
    assert f"vllm serve org/model --port {port}" in str(error)


def test_hundreds_of_requests_are_in_flight_at_once_and_connections_are_used_again() -> None:
    with MisbehavingServer(latency=0.3) as server:
        backend = OpenAIServer(server.base_url, "m")

        async def work() -> None:
            for count in (512, 64):
                replies = await asyncio.gather(
                    *(backend.complete([*PROMPT, i], CompletionSampling(seed=i)) for i in range(count))
                )
                assert len({reply.token_ids for reply in replies}) == count
            await backend.aclose()

        run(work)
        assert server.peak_in_flight > 256
        assert server.peak_connections <= 512
        assert server.wait_idle()


def test_no_more_connections_than_allowed() -> None:
    with MisbehavingServer(latency=0.01) as server:
        backend = OpenAIServer(server.base_url, "m", max_connections=3)

        async def work() -> None:
            await asyncio.gather(*(backend.chat(HELLO, GREEDY) for _ in range(12)))
            await backend.aclose()

        run(work)
        assert server.peak_connections == 3


def test_each_event_loop_has_its_own_client_and_takes_it_along_when_it_ends(server: MisbehavingServer) -> None:
    backend = OpenAIServer(server.base_url, "m")
    for _ in range(3):
        chat(backend)  # asyncio.run, without aclose
        assert server.wait_idle()
    assert backend._sessions == {}
    gc.collect()


def test_aclose_reaches_the_loop_of_another_thread_and_the_backend_goes_on_afterwards(
    server: MisbehavingServer,
) -> None:
    backend = OpenAIServer(server.base_url, "m")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        for _ in range(2):
            asyncio.run_coroutine_threadsafe(backend.chat(HELLO, GREEDY), loop).result(10)
            assert server.open_connections == 1
            asyncio.run(backend.aclose())
            assert server.wait_idle()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def test_aclose_reaches_a_loop_that_rests_between_two_calls(server: MisbehavingServer) -> None:
    backend = OpenAIServer(server.base_url, "m")
    with asyncio.Runner() as runner:
        runner.run(backend.chat(HELLO, GREEDY))
        asyncio.run(backend.aclose())
        runner.run(asyncio.sleep(0.05))
        assert server.wait_idle()
        runner.run(backend.chat(HELLO, GREEDY))
        runner.run(backend.aclose())
        runner.run(backend.aclose())
        assert server.wait_idle()


def test_a_copy_opens_its_own_connections(server: MisbehavingServer) -> None:
    backend = OpenAIServer(server.base_url, "m", api_key="k")

    async def work() -> None:
        await backend.chat(HELLO, GREEDY)
        for other in (copy.deepcopy(backend), pickle.loads(pickle.dumps(backend))):  # noqa: S301  our own bytes
            await other.chat(HELLO, GREEDY)
            await other.aclose()
        await backend.aclose()

    run(work)
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer k"] * 3


def test_the_key_comes_from_the_environment(server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-env")
    chat(OpenAIServer(server.base_url, "m"))
    monkeypatch.delenv("OPENAI_API_KEY")
    chat(OpenAIServer(server.base_url, "m"))
    assert server.requests[0].headers["authorization"] == "Bearer from-env"
    assert "authorization" not in server.requests[1].headers


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_url": "localhost:8000"}, "http://localhost:8000/v1"),
        ({"base_url": "http://"}, "scheme, host"),
        ({"model": ""}, "model"),
        ({"timeout": 0.0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"max_connections": 0}, "max_connections"),
        ({"max_response_bytes": 0}, "max_response_bytes"),
        ({"logprobs_mode": "cooked"}, "logprobs_mode"),
        ({"max_tokens_field": "limit"}, "max_tokens_field"),
        ({"extra_body": {"n": 2, "stream": True}}, "n, stream"),
        ({"api_key": "a\nb"}, "api_key"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        OpenAIServer(**{"base_url": "http://h/v1", "model": "m", **options})  # type: ignore[arg-type]


def test_without_aiohttp_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"aipo\[llm\]"):
        OpenAIServer("http://h/v1", "m")


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"max_tokens": 0},
        {"seed": -1},
        {"seed": 2**63},
        {"stop": "x"},
        {"stop": ("",)},
    ],
)
def test_sampling_that_cannot_work_is_refused(options: dict[str, object]) -> None:
    for kind in (ChatSampling, CompletionSampling):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            kind(**options)  # type: ignore[arg-type]


def test_a_generation_has_one_logprob_for_each_id() -> None:
    with pytest.raises(ConfigurationError, match="one value per token id"):
        Generation("x", (1, 2), (0.0,))


def test_an_empty_prompt_is_refused(server: MisbehavingServer) -> None:
    with pytest.raises(ConfigurationError, match="at least one token id"):
        asyncio.run(OpenAIServer(server.base_url, "m").complete([], CompletionSampling()))
    assert server.num_requests == 0


def test_text_that_utf8_cannot_hold_is_sent_all_the_same(server: MisbehavingServer) -> None:
    asyncio.run(OpenAIServer(server.base_url, "m").chat([Message("user", "a\ud800b")], GREEDY))
    request: Request = server.requests[0]
    assert request.body["messages"][0]["content"] == "a\ud800b"
