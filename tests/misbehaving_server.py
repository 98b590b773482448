"""A model server for tests that speaks OpenAI's chat and completions over real sockets, and misbehaves on demand.

    with MisbehavingServer() as server:                      # a thread of its own, a free port of this machine
        backend = OpenAIServer(server.base_url, "fake")      # works: deterministic replies, exact token ids
        server.script(Fault("status", status=429, retry_after="2"), None, Fault("reset"))
        ...                                                  # first request: 429; second: fine; third: cut; then all fine
        server.fault = lambda request: Fault("hang") if request.number % 10 == 0 else None   # or by rule
        assert server.num_requests == 3
        assert server.wait_idle()                            # the client has let go of every connection

What it says: `reply=` takes a function `Request -> str` (called in the server's thread; keep it quick); by default
`default_reply`. `latency=` is in seconds per request. Token ids are code points and `EOS` ends what is not cut, as in
`tests.helpers.CharacterCodec`; the log-probability of an id is `logprob_of(id)`. As vLLM does, it honours `max_tokens`,
`stop`, `stop_token_ids`, `include_stop_str_in_output`, `skip_special_tokens`, `return_token_ids`, `logprobs`; `token_ids=False` makes it a
server that does not know `return_token_ids`.

Faults (`Fault(kind, ...)`):

    status       an HTTP error: status=, message=, kind_of_error=, retry_after= (the header as text: seconds or a date), location=
    reset        the connection is reset (RST) before any answer
    cut          headers and half of a good body, then a reset
    dribble      a good answer, one byte per `seconds`
    slow         a good answer after `seconds`
    hang         no answer, ever
    not_json     HTTP 200 with text that is no JSON
    body         HTTP 200 with `payload` as JSON (wrong shapes); `payload(good)` if it is a function of the good answer; with
                 pack= the bytes are packed, as headers= say
    raw_body     HTTP 200 with the bytes `payload`
    raw_http     the bytes `payload` in place of HTTP
    huge         HTTP 200, chunks without end
    huge_length  HTTP 200 with a Content-Length of terabytes
    not_http     bytes that are no HTTP

`requests` (every Request so far), `num_requests`, `open_connections`, `peak_connections`, `in_flight` (requests being
answered), `peak_in_flight`, `disconnects` (clients that left before their answer was complete), `errors`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

EOS = 2_000_000
EOS_TEXT = "<|eos|>"


def logprob_of(token_id: int) -> float:
    """The log-probability that the server reports for an id."""
    return -0.125 * (1 + token_id % 8)


@dataclasses.dataclass(frozen=True)
class Fault:
    """One way to misbehave; see the top of the file."""

    kind: str
    status: int = 500
    message: str = "made to fail"
    retry_after: str | None = None
    location: str | None = None
    seconds: float = 0.05
    payload: Any = None
    kind_of_error: str = "made"
    pack: Callable[[bytes], bytes] = bytes
    headers: str = ""


@dataclasses.dataclass(frozen=True)
class Request:
    """One request as it came."""

    number: int
    """0 for the first request."""
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: dict[str, Any]

    @property
    def is_chat(self) -> bool:
        return self.path.endswith("/chat/completions")

    @property
    def prompt(self) -> str:
        """What is to be continued, as text; of a chat the contents of its messages, a line each."""
        if self.is_chat:
            return "\n".join(str(message["content"]) for message in self.body["messages"])
        prompt = self.body["prompt"]
        return prompt if isinstance(prompt, str) else "".join(chr(i) for i in prompt if i < EOS)


def default_reply(request: Request) -> str:
    """A short text that depends on the prompt, and on the seed unless the request is greedy."""
    seed = request.body.get("seed") if request.body.get("temperature") else None
    digest = hashlib.sha256(f"{request.prompt}|{seed}".encode("utf-8", "replace")).hexdigest()[:6]
    return f"reply {digest}" if request.is_chat else f"So it is \\boxed{{{digest}}}."


class MisbehavingServer:
    """See the top of the file."""

    def __init__(
        self,
        reply: Callable[[Request], str] = default_reply,
        *,
        latency: float = 0.0,
        token_ids: bool = True,
        usage: bool = True,
    ) -> None:
        self.reply = reply
        self.latency = latency
        self.token_ids = token_ids
        self.usage = usage
        self.fault: Callable[[Request], Fault | None] | None = None
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []
        self.open_connections = self.peak_connections = 0
        self.in_flight = self.peak_in_flight = 0
        self.disconnects = 0
        self._script: deque[Fault | None] = deque()
        self._loop = asyncio.new_event_loop()
        self._connections: set[_Connection] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="misbehaving-server", daemon=True)
        self._port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def num_requests(self) -> int:
        return len(self.requests)

    def script(self, *faults: Fault | None) -> None:
        """What happens to the next requests, one each; None is a good answer."""
        self._script.extend(faults)

    def wait_idle(self, *, connections: int = 0, seconds: float = 5.0) -> bool:
        """Waits until at most `connections` connections are open; returns whether that came to pass."""
        end = time.monotonic() + seconds
        while self.open_connections > connections and time.monotonic() < end:
            time.sleep(0.005)
        return self.open_connections <= connections

    def __enter__(self) -> MisbehavingServer:
        self._thread.start()
        assert self._ready.wait(10), "the server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        # A backlog for hundreds of clients that connect at once.
        server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=2048)
        )
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for connection in list(self._connections):
            connection.transport.abort()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _next_fault(self, request: Request) -> Fault | None:
        if self._script:
            return self._script.popleft()
        return self.fault(request) if self.fault is not None else None

    def _answer(self, request: Request) -> dict[str, Any]:
        """What a well-behaved server says."""
        body = request.body
        text = self.reply(request)
        stop_reason = None
        # The first stop string that completes ends the text, as in an engine that looks after each token.
        ends = [
            (text.find(stop) + len(stop), stop) for stop in _texts(body.get("stop")) if stop and text.find(stop) >= 0
        ]
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or (None if request.is_chat else 16)
        if ends:
            end, stop_reason = min(ends)
            text = text[:end]
        ids = [ord(c) for c in text] + ([] if stop_reason else [EOS])
        # An id that stops belongs to the generation.
        cuts = [place + 1 for place, i in enumerate(ids) if i in (body.get("stop_token_ids") or ())]
        ids = ids[: min(cuts, default=len(ids))]
        finish = "stop"
        if limit is not None and len(ids) > limit:
            ids, finish, stop_reason = ids[:limit], "length", None
        if stop_reason and not body.get("include_stop_str_in_output"):
            text = text[: -len(stop_reason)]
        elif not stop_reason:
            shown = (
                EOS_TEXT if body.get("include_stop_str_in_output") and not body.get("skip_special_tokens", True) else ""
            )
            text = "".join(shown if i == EOS else chr(i) for i in ids)
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "stop_reason": stop_reason, "logprobs": None}
        tokens = [EOS_TEXT if i == EOS else chr(i) for i in ids]
        wanted = body.get("logprobs")
        if request.is_chat:
            choice["message"] = {"role": "assistant", "content": text}
            if wanted:
                choice["logprobs"] = {
                    "content": [
                        {"token": token, "logprob": logprob_of(i), "bytes": None, "top_logprobs": []}
                        for token, i in zip(tokens, ids, strict=True)
                    ]
                }
        else:
            choice["text"] = text
            if wanted is not None and wanted is not False:
                choice["logprobs"] = {"tokens": tokens, "token_logprobs": [logprob_of(i) for i in ids]}
        if self.token_ids and body.get("return_token_ids"):
            choice["token_ids"] = ids
            if not request.is_chat:
                choice["prompt_token_ids"] = body["prompt"]
        answer: dict[str, Any] = {"id": "x", "model": body.get("model"), "choices": [choice]}
        if self.usage:
            size = len(request.prompt)
            answer["usage"] = {"prompt_tokens": size, "completion_tokens": len(ids), "total_tokens": size + len(ids)}
        return answer


def _texts(stop: object) -> list[str]:
    return [stop] if isinstance(stop, str) else list(stop or [])  # type: ignore[call-overload]


class _Connection(asyncio.Protocol):
    """One client; HTTP/1.1 with keep-alive, bodies with a Content-Length."""

    transport: asyncio.Transport

    def __init__(self, server: MisbehavingServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._drained.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        server = self._server
        server._connections.add(self)
        server.open_connections += 1
        server.peak_connections = max(server.peak_connections, server.open_connections)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._connections.discard(self)
        self._server.open_connections -= 1
        self._drained.set()
        if self._task is not None and not self._task.done():
            self._server.disconnects += 1
            self._task.cancel()

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._buffer[:head_end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        size = int(headers.get("content-length", "0"))
        if len(self._buffer) < head_end + 4 + size:
            return
        raw = bytes(self._buffer[head_end + 4 : head_end + 4 + size])
        del self._buffer[: head_end + 4 + size]
        method, path, _ = head[0].split(" ", 2)
        if method != "POST":
            self._send(200 if path.endswith("/models") else 404, {"object": "list", "data": []})
            return
        server = self._server
        request = Request(len(server.requests), path, headers, json.loads(raw))
        server.requests.append(request)
        self._task = server._loop.create_task(self._serve(request))

    async def _serve(self, request: Request) -> None:
        server = self._server
        server.in_flight += 1
        server.peak_in_flight = max(server.peak_in_flight, server.in_flight)
        try:
            fault = server._next_fault(request)
            if server.latency:
                await asyncio.sleep(server.latency)
            if fault is None:
                self._send(200, server._answer(request))
            else:
                await self._misbehave(fault, request)
        except Exception as error:
            server.errors.append(error)
            self._send(500, {"error": {"message": f"the test server failed: {error!r}", "code": 500}})
        finally:
            server.in_flight -= 1

    def _send(self, status: int, payload: object, headers: str = "") -> None:
        self.transport.write(_response(status, json.dumps(payload).encode(), headers))

    async def _misbehave(self, fault: Fault, request: Request) -> None:
        kind, write = fault.kind, self.transport.write
        if kind == "status":
            retry = f"Retry-After: {fault.retry_after}\r\n" if fault.retry_after is not None else ""
            retry += f"Location: {fault.location}\r\n" if fault.location is not None else ""
            error = {"message": fault.message, "type": fault.kind_of_error, "code": fault.status}
            self._send(fault.status, {"error": error}, retry)
        elif kind == "reset":
            self._reset()
        elif kind == "cut":
            whole = _response(200, json.dumps(self._server._answer(request)).encode())
            write(whole[: len(whole) // 2])
            await asyncio.sleep(0.01)
            self._reset()
        elif kind == "dribble":
            for byte in _response(200, json.dumps(self._server._answer(request)).encode()):
                write(bytes([byte]))
                await asyncio.sleep(fault.seconds)
        elif kind == "slow":
            await asyncio.sleep(fault.seconds)
            self._send(200, self._server._answer(request))
        elif kind == "hang":
            await asyncio.Event().wait()
        elif kind == "not_json":
            write(_response(200, b"<html>502 Bad Gateway</html>"))
        elif kind == "body":
            payload = fault.payload(self._server._answer(request)) if callable(fault.payload) else fault.payload
            write(_response(200, fault.pack(json.dumps(payload).encode()), fault.headers))
        elif kind == "raw_http":
            write(fault.payload)
            self.transport.close()
        elif kind == "raw_body":
            write(_response(200, fault.payload))
        elif kind == "huge":
            write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
            while True:
                write(chunk)
                await self._drained.wait()
                await asyncio.sleep(0)
        elif kind == "huge_length":
            write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000000000000\r\n\r\n{")
            await asyncio.Event().wait()
        elif kind == "not_http":
            write(b"220 mail.example ESMTP\r\n\r\n")
            self.transport.close()
        else:
            raise ValueError(f"no fault is called {kind!r}")

    def _reset(self) -> None:
        # Lingering for zero seconds makes the kernel send RST instead of FIN.
        raw: socket.socket = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def _response(status: int, body: bytes, headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body
