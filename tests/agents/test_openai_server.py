from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import gzip
import json
import logging
import os
import pickle
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
import zlib
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aipo_agents.backends import ChatSampling, CompletionSampling, Generation, Message
from aipo_agents.backends.base import ChatBackend, CompletionBackend
from aipo_agents.backends.http_errors import retry_after
from aipo_agents.backends.openai_replies import logprobs_source
from aipo_agents.backends.openai_server import OpenAIServer
from aipo_agents.backends.redaction import ApiKey
from aipo_agents.llm import LLMAgent
from aipo_env.consulting import consult
from aipo_env.errors import ConfigurationError, MissingDependencyError, ServiceError
from aipo_env.installation import install_command
from aipo_env.protocol import ConsultRequest, Usage
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
    (Fault("dribble", seconds=0.05), True, None, None, "within 1.5 s"),
    (Fault("hang"), True, None, None, "within 1.5 s"),
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
    (
        Fault("body", payload={"choices": [{"message": {"content": "x"}, "finish_reason": 3}]}),
        False,
        None,
        None,
        "finish",
    ),
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
    backend = OpenAIServer(server.base_url, "m", timeout=1.5, max_response_bytes=200_000)
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
    with pytest.raises(MissingDependencyError, match=re.escape(install_command("llm"))):
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


# -- what servers say in their own ways ------------------------------------------------------------------------------


def packed(pack: Callable[[bytes], bytes], encoding: str) -> Fault:
    return Fault("body", payload=lambda good: good, pack=pack, headers=f"Content-Encoding: {encoding}\r\n")


CHAT = {"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}]}


def said(message: object, reason: object = "stop", **more: object) -> Fault:
    return Fault("body", payload={"choices": [{"message": message, "finish_reason": reason}], **more})


@pytest.mark.parametrize(
    ("fault", "text", "finish", "usage"),
    [
        *((said({"content": "fine"}, reason), "fine", "stop", None) for reason in ("content_filter", "tool_calls", "eos_token", None, "STOP")),
        (Fault("body", payload={"choices": [{"message": {"content": "fine"}}]}), "fine", "stop", None),
        (said({"content": "fi"}, "max_tokens"), "fi", "length", None),
        (said({"content": [{"type": "text", "text": "fi"}, {"type": "image"}, {"type": "text", "text": "ne"}]}), "fine", "stop", None),
        (said({"content": None}, "tool_calls"), "", "stop", None),
        (said({"content": "fine"}, usage={"prompt_tokens": 7.0, "completion_tokens": 3.0}), "fine", "stop", Usage(7, 3)),
        (said({"content": "fine"}, usage={"completion_tokens": 3, "cost": 0.25}), "fine", "stop", Usage(0, 3, 0.25)),
        (said({"content": "fine"}, usage={"total_tokens": None}), "fine", "stop", None),
        (packed(gzip.compress, "gzip"), "reply", "stop", None),
        (packed(zlib.compress, "deflate"), "reply", "stop", None),
    ],
)  # fmt: skip
def test_repair_32_good_answers_in_other_spellings_are_taken(
    server: MisbehavingServer, fault: Fault, text: str, finish: str, usage: Usage | None
) -> None:
    server.script(fault)
    generation = chat(OpenAIServer(server.base_url, "m"))
    assert generation.text.startswith(text)
    assert generation.finish_reason == finish
    if text != "reply":
        assert (generation.text, generation.usage) == (text, usage)


def test_repair_32_a_turn_without_a_reason_counts_as_cut_and_one_that_a_filter_ended_is_none(
    server: MisbehavingServer,
) -> None:
    for reason, finish in ((None, "length"), ("eos_token", "stop"), ("max_tokens", "length")):
        server.script(complete_with(lambda choice, reason=reason: choice.update(finish_reason=reason)))  # type: ignore[misc]
        assert complete(OpenAIServer(server.base_url, "m")).finish_reason == finish
    server.script(complete_with(lambda choice: choice.update(finish_reason="content_filter")))
    assert "finish_reason" in str(fails(lambda: complete(OpenAIServer(server.base_url, "m"))))


@pytest.mark.parametrize(
    ("fault", "transient", "status", "says"),
    [
        (Fault("body", payload={"error": {"code": 502, "message": "the provider is away"}}), True, 502, "the provider is away"),
        (Fault("body", payload={"error": {"code": "401", "message": "no such user"}}), False, 401, "no such user"),
        (Fault("body", payload={"error": {"type": "server_error", "message": "cut"}}), True, None, "failed with an error: cut"),
        (Fault("body", payload={"error": {"type": "invalid_request_error", "message": "no n"}}), False, None, "no n"),
        (Fault("body", payload={"error": "on fire", "choices": None}), True, None, "on fire"),
        (Fault("body", payload={"object": "error", "message": "too long", "code": 400}), False, 400, "too long"),
        (Fault("body", payload={"choices": [{"error": {"code": 503, "message": "busy"}, "finish_reason": "error"}]}), True, 503, "busy"),
        (Fault("status", status=409), True, 409, "may succeed later"),
        (Fault("status", status=501), False, 501, "fail again"),
        (Fault("status", status=429, kind_of_error="insufficient_quota"), False, 429, "quota is used up"),
        (Fault("status", status=429, kind_of_error="rate_limit_exceeded", retry_after="7"), True, 429, "asks for a wait of 7 s"),
        (packed(lambda raw: b"(" + raw, "br"), False, 200, "packed as 'br'"),
        (packed(lambda raw: b"\x1f\x8b" + raw, "gzip"), True, None, "broke off"),
        (packed(lambda raw: gzip.compress(b"x" * 10**7), "gzip"), False, 200, "max_response_bytes"),
    ],
)  # fmt: skip
def test_repair_32_errors_keep_their_words_and_say_whether_they_pass(
    server: MisbehavingServer, fault: Fault, transient: bool, status: int | None, says: str
) -> None:
    server.script(fault)
    error = fails(lambda: chat(OpenAIServer(server.base_url, "m", max_response_bytes=10**6)))
    assert (error.transient, error.status) == (transient, status)
    assert says in str(error)


def test_repair_32_a_packed_answer_is_never_unpacked_beyond_its_limit(server: MisbehavingServer) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    server.script(packed(lambda raw: bomb, "gzip"))
    backend = OpenAIServer(server.base_url, "m", max_response_bytes=10**6)
    tracemalloc.start()
    try:
        assert "max_response_bytes" in str(fails(lambda: chat(backend)))
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_repair_32_what_was_billed_for_a_failed_answer_is_known(server: MisbehavingServer) -> None:
    used = {"prompt_tokens": 30, "completion_tokens": 9, "cost": 0.5}
    broken = Fault("body", payload={"choices": [{"message": {}, "finish_reason": "abort"}], "usage": used})
    server.script(
        broken, Fault("body", payload={"error": {"code": 500, "message": "late"}, "usage": used}), Fault("reset")
    )
    for usage in (Usage(30, 9, 0.5), Usage(30, 9, 0.5), None):
        assert fails(lambda: chat(OpenAIServer(server.base_url, "m"))).usage == usage
    server.script(broken, broken)
    generation = chat(OpenAIServer(server.base_url, "m", retries=2))
    own = len("be brief\nhello"), len(generation.text) + 1
    assert generation.usage == Usage(60 + own[0], 18 + own[1], None)


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://h:abc/v1", "http://h:99999/v1", "http://a..b/v1", "http://two words/v1", "http://h\n/v1", "http:///v1"],
)  # fmt: skip
def test_repair_32_a_bad_address_is_our_error(url: str) -> None:
    with pytest.raises(
        ConfigurationError, match="base_url is an address such as 'http://localhost:8000/v1', got 'http:"
    ):
        OpenAIServer(url, "m")
    with pytest.raises(ConfigurationError, match="GET http://h/v1/models lists it"):
        OpenAIServer("http://h/v1", "")


# A self-signed certificate of "localhost" for this test alone.
CERTIFICATE = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgOv02+ee7FWn1Y5Bd
LyxZcTpCuJSgzQ9/wkaon318WdChRANCAAQq4vZqytM4R20mu0IbeOGVb04URwld
tIANwGSYBR9Nw83L/0q4n4WzzHyKKAwOU45366eNU5yElVa7Lpt6aOe6
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUHOOPztWSInNoVodwLJ3W+1Luu6MwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEzMDE3MDUzOFoYDzIxMjYxMTA2
MTcwNTM4WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQq4vZqytM4R20mu0IbeOGVb04URwldtIANwGSYBR9Nw83L/0q4n4Wz
zHyKKAwOU45366eNU5yElVa7Lpt6aOe6o28wbTAdBgNVHQ4EFgQUAo8Wz6GfTMZU
BL3+jRX07VwV79gwHwYDVR0jBBgwFoAUAo8Wz6GfTMZUBL3+jRX07VwV79gwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIhAMmnYSPNIPbS36qErXb8bSNKiyKY1mXtZXxrL3j3ndOxAiBY
Vho4TTO8VAtVDs8p9NW03ZHCVOcNUmlZ3MGeBhZW9A==
-----END CERTIFICATE-----
"""


def test_repair_32_certificates_and_plain_servers_are_told_apart_from_dead_ones(tmp_path: Path) -> None:
    pem = tmp_path / "pair.pem"
    pem.write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/v1"

        def serve() -> None:
            plain, _ = listener.accept()
            with plain, pytest.raises(OSError, match=r"(?i)alert|eof|reset"):
                context.wrap_socket(plain, server_side=True).recv(1)
            plain, _ = listener.accept()
            with plain:
                plain.recv(1000)
                plain.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        untrusted = fails(lambda: chat(OpenAIServer(url, "m", timeout=10.0)))
        assert f"{url} does not answer in TLS that is trusted here" in str(untrusted)
        assert "self-signed certificate" in str(untrusted)
        assert "SSL_CERT_FILE" in str(untrusted)
        plain = fails(lambda: chat(OpenAIServer(url, "m", timeout=10.0)))
        assert f"{url} does not answer in TLS" in str(plain)
        assert "set base_url to http://" in str(plain)
        assert (untrusted.transient, plain.transient) == (False, False)
        thread.join(10)


def test_repair_32_proxies_of_the_environment_are_honoured_or_it_is_said_that_they_are_not(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    address = server.base_url.removesuffix("/v1")
    monkeypatch.setenv("HTTP_PROXY", address.replace("//", "//me:geheim@"))
    assert chat(OpenAIServer("http://model.invalid/v1", "m")).text.startswith("reply")
    assert server.requests[0].path == "http://model.invalid/v1/chat/completions"
    assert server.requests[0].headers["host"] == "model.invalid"
    # This machine's own servers are asked directly.
    chat(OpenAIServer(server.base_url, "m"))
    assert server.requests[1].path == "/v1/chat/completions"
    monkeypatch.setenv("NO_PROXY", "model.invalid")
    assert "no model server answers" in str(fails(lambda: chat(OpenAIServer("http://model.invalid/v1", "m"))))
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", "http://me:geheim@127.0.0.1:1")
    error = fails(lambda: chat(OpenAIServer("http://model.invalid/v1", "m")))
    assert "goes through the environment's proxy" in str(error)
    assert "geheim" not in str(error)
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:1")
    fails(lambda: chat(OpenAIServer("http://model.invalid/v1", "m")))
    assert "asked without the environment's proxy" in caplog.text


# -- what must not get out -------------------------------------------------------------------------------------------

KEY = "sk-geheim/0123456789abcdef"


@pytest.mark.parametrize("key", [KEY, 'plain"key\\with-quote', "short"])
@pytest.mark.parametrize(
    "leak",
    [
        lambda key: Fault("status", status=401, message=f"bad header Authorization: Bearer {key} in request"),
        lambda key: Fault("status", status=307, location=f"http://elsewhere/?auth=Bearer {key}"),
        lambda key: Fault("raw_body", payload=f"<html>Bearer {key}</html>".encode()),
        lambda key: Fault("raw_body", payload=f'["Bearer {key}"'.encode()),
        lambda key: Fault("body", payload={"error": {"message": f"Bearer {key}", "code": 500}}),
        lambda key: Fault("body", payload={"headers": {"authorization": f"Bearer {key}"}, "choices": [f"Bearer {key}"]}),
        lambda key: Fault("body", payload={"choices": [{"message": {"content": "x"}, "finish_reason": [f"Bearer {key}"]}]}),
        lambda key: Fault("raw_http", payload=f"Bearer {key} is no status line\r\n\r\n".encode()),
    ],
)  # fmt: skip
def test_repair_31_a_server_that_repeats_the_key_spreads_it_nowhere(
    server: MisbehavingServer, leak: Callable[[str], Fault], key: str
) -> None:
    server.script(leak(key))
    error = fails(lambda: chat(OpenAIServer(server.base_url, "m", api_key=key)))
    assert server.requests[0].headers["authorization"] == f"Bearer {key}"
    everything = (
        "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__) + repr(error.__context__)
    )
    for form in {key, json.dumps(key)[1:-1], repr(key)[1:-1]}:
        assert form not in everything


def test_repair_31_what_looks_like_a_key_or_a_password_is_hidden_too() -> None:
    hide = ApiKey("").hide
    for secret in (
        "sk-0123456789abcdefghij",
        "hf_0123456789abcdefghij",
        "Bearer eyJhbGciOiJIUzI1NiJ9.abc",
        "Basic dXNlcjpnZWhlaW0xMjM0",
    ):
        assert "***" in hide(f"you sent {secret}, which is wrong") != f"you sent {secret}, which is wrong"
        assert secret.split()[-1] not in hide(f"you sent {secret}, which is wrong")
    assert hide("see http://me:geheim@host/v1") == "see http://***@host/v1"
    for harmless in ("bearer authentication required", "model sk-1 is unknown", "see http://host/v1 or me@host"):
        assert hide(harmless) == harmless


def test_repair_31_a_key_in_a_good_answer_is_taken_out(server: MisbehavingServer) -> None:
    server.reply = lambda request: f"you sent {request.headers['authorization']}, thanks"
    assert chat(OpenAIServer(server.base_url, "m", api_key=KEY)).text == "you sent Bearer ***, thanks"
    answer = json.dumps({"choices": [{"message": {"content": f"you sent {KEY}"}, "finish_reason": "stop"}]})
    server.script(Fault("raw_body", payload=answer.replace("/", r"\/").encode()))
    assert chat(OpenAIServer(server.base_url, "m", api_key=KEY)).text == "you sent ***"
    # "EMPTY" is what servers without keys are given; it is a word like others.
    server.reply = lambda request: "EMPTY is the set"
    assert chat(OpenAIServer(server.base_url, "m", api_key="EMPTY")).text == "EMPTY is the set"


@pytest.mark.parametrize(
    "url", ["http://me:geheim@h:8000/v1", "https://geheim@h/v1", "http://h/v1?key=geheim", "me:geheim@h", "http://me:ge/heim@h/v1",
            "http://me:geheim%40h/v1", "http://h:geheim/v1", "http://h/v1;key=geheim", "http://[::1]:geheim/v1"]
)  # fmt: skip
def test_repair_31_an_address_with_a_password_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url") as caught:
        OpenAIServer(url, "m")
    shown = "".join(traceback.format_exception(caught.value, chain=True))
    assert "geheim" not in str(caught.value)
    assert "heim@" not in str(caught.value)
    assert "geheim" not in shown.replace(url, "")


def test_repair_31_no_pickle_holds_a_key(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment-1234")
    given, found = OpenAIServer(server.base_url, "m", api_key=KEY), OpenAIServer(server.base_url, "m")
    helper = LLMAgent.from_server("verify", server.base_url, "m", api_key=KEY, retries=2, requests_per_minute=600.0)
    for thing in (given, found, helper):
        raw = pickle.dumps(thing)
        assert KEY.encode() not in raw
        assert b"from-environment" not in raw
        assert KEY not in repr(vars(thing)) + repr(thing)
    # Another process takes the variable's value where it was the variable's here, and never in place of another key.
    (tmp_path / "given").write_bytes(pickle.dumps(given))
    (tmp_path / "found").write_bytes(pickle.dumps(found))
    program = """
import asyncio, pathlib, pickle, sys
from aipo_agents.backends import ChatSampling, Message
for name in ("found", "given"):
    backend = pickle.loads(pathlib.Path(sys.argv[1], name).read_bytes())
    try:
        print(asyncio.run(backend.chat([Message("user", "x")], ChatSampling())).text)
    except Exception as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, "OPENAI_API_KEY": "another-value-5678", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first.startswith("reply")
    assert "ConfigurationError a model server's key does not travel to other processes" in second
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer another-value-5678"]


# -- trying again ----------------------------------------------------------------------------------------------------


def test_repair_30_what_may_pass_is_sent_again(server: MisbehavingServer) -> None:
    server.fault = lambda request: Fault("status", status=500) if request.number % 3 == 0 else None
    backend = OpenAIServer(server.base_url, "m", retries=4)

    async def work() -> None:
        replies = await asyncio.gather(*(backend.complete([*PROMPT, i], CompletionSampling(seed=i)) for i in range(30)))
        assert len({reply.token_ids for reply in replies}) == 30
        await backend.aclose()

    run(work)
    assert server.num_requests > 30
    server.fault = lambda request: Fault("status", status=404)
    before = server.num_requests
    fails(lambda: chat(backend))
    assert server.num_requests == before + 1


def test_repair_30_who_is_too_many_waits_as_long_as_asked(server: MisbehavingServer) -> None:
    server.script(Fault("status", status=429, retry_after="0.4"))
    backend = OpenAIServer(server.base_url, "m", retries=1)
    started = time.monotonic()

    async def work() -> None:
        first = asyncio.create_task(backend.chat(HELLO, GREEDY))
        while server.num_requests < 1 or server.in_flight:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        second = asyncio.create_task(backend.chat(HELLO, GREEDY))
        await asyncio.sleep(0.1)
        # Nobody else is let through meanwhile.
        assert server.num_requests == 1
        await asyncio.gather(first, second)
        await backend.aclose()

    run(work)
    assert server.num_requests == 3
    assert time.monotonic() - started >= 0.39


def test_repair_30_a_wait_of_a_day_is_refused_at_once_in_words(server: MisbehavingServer) -> None:
    server.fault = lambda request: Fault("status", status=429, retry_after="86400")
    backend = OpenAIServer(server.base_url, "m", retries=4)
    started = time.monotonic()
    for _ in range(3):
        assert "asks for a wait of 86400 s" in str(fails(lambda: chat(backend)))
    assert time.monotonic() - started < 60.0
    assert server.num_requests == 3


def test_repair_30_a_server_that_is_down_gets_one_attempt_until_it_answers(
    server: MisbehavingServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.fault = lambda request: Fault("status", status=503, message="prompt quoted") if request.number < 4 else None
    backend = OpenAIServer(server.base_url, "m", retries=1)
    for requests in (2, 3, 4):
        fails(lambda: chat(backend))
        assert server.num_requests == requests
    assert chat(backend).text.startswith("reply")
    server.script(Fault("reset"))
    assert chat(backend).text.startswith("reply")
    assert server.num_requests == 7
    # What a server says may quote what it was sent, and stays out of the log.
    assert "attempt 1 failed" in caplog.text
    assert "HTTP 503" in caplog.text
    assert "prompt quoted" not in caplog.text


def test_repair_30_requests_per_minute_hold_for_an_address_whoever_asks() -> None:
    with MisbehavingServer() as server:
        # 20 a second, 20 of them at once; policy and helper share them.
        one, two = (OpenAIServer(server.base_url, name, requests_per_minute=1200.0) for name in "ab")
        started = time.monotonic()

        async def work() -> None:
            await asyncio.gather(*(backend.chat(HELLO, GREEDY) for backend in (one, two) for _ in range(15)))
            await one.aclose()
            await two.aclose()

        run(work)
        assert time.monotonic() - started >= 0.45
        assert server.num_requests == 30


def test_repair_30_who_stands_in_our_own_line_is_not_late(server: MisbehavingServer) -> None:
    # Two a second, two at once: the last of six waits for two seconds, and the helper has less for each.
    helper = LLMAgent.from_server("verify", server.base_url, "m", requests_per_minute=120.0)

    async def work() -> None:
        replies = await asyncio.gather(*(consult(helper, ConsultRequest(str(i)), timeout=1.9) for i in range(6)))
        assert [reply.error for reply in replies] == [None] * 6
        server.fault = lambda request: Fault("hang")
        assert (await consult(helper, ConsultRequest("late"), timeout=0.3)).error == "no reply within 0.3 s"
        # Whoever is called off while it stands there is called off.
        waiting = asyncio.create_task(consult(helper, ConsultRequest("off"), timeout=1.0))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await helper.aclose()

    run(work)


@pytest.mark.parametrize("options", [{"retries": -1}, {"retries": 1.5}, {"requests_per_minute": 0.0}])
def test_repair_30_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        OpenAIServer("http://h/v1", "m", **options)  # type: ignore[arg-type]
