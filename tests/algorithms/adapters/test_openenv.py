"""The OpenEnv server, played by OpenEnv's own client, and by clients that mean it ill."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aipo_env
from aipo_env import Segment
from aipo_env.errors import ConfigurationError, EpisodeStateError, GradingError, InvalidActionError, TaskIndexError
from aipo_env.game import ConsultGame
from aipo_env.grading import Grade
from aipo_env.registry import make_game
from aipo_env.tasks.base import Task
from algorithms.serve_command import Limits

pytest.importorskip("openenv", reason="needs openenv-core (the extra openenv)")
from openenv.core import GenericEnvClient
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from algorithms.adapters import openenv, openenv_limits

ENV = "rulebook-consult"
OPTIONS: dict[str, Any] = {"level": 2, "style": "terse", "consult_cost": 0.125}


@contextlib.contextmanager
def serving(game: ConsultGame | None = None, **limits: Any) -> Iterator[str]:
    """The address of a server in a thread of this process."""
    server, listening = openenv.make_server(game or make_game(ENV, **OPTIONS), "127.0.0.1", 0, Limits(**limits))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def turns(gold: str, number: int) -> list[str]:
    """The turns of an episode; no two of the first 64 numbers play the same."""
    asks = [
        f'I wonder. <consult agent="{("verify", "knowledge", "reasoning")[number % 3]}">is it {number}?</consult>',
        f"nothing {number}",
        f'<consult agent="nobody">{number}</consult>',
    ]
    return [*asks[: number % 4], f"\\boxed{{{gold if number % 2 else number}}}"]


def in_process(number: int) -> tuple[list[dict[str, Any]], list[str]]:
    """What the client of an episode must be told, step by step, and the turns that were played."""
    env = aipo_env.make(ENV, **OPTIONS)
    observation, info = env.reset(seed=number, options={"task_index": 5 * number})
    rows = [_row(observation, info, None, False, False)]
    played = turns(env.episode.task.gold, number)
    for text in played:
        observation, reward, terminated, truncated, info = env.step(text)
        rows.append(_row(observation, info, reward, terminated or truncated, truncated))
    return rows, played


def _row(observation: Any, info: dict[str, Any], reward: float | None, done: bool, truncated: bool) -> dict[str, Any]:
    seen = {"prompt": observation["prompt"], "messages": [], **info, "truncated": truncated}
    return {"observation": json.loads(json.dumps(seen)), "reward": reward, "done": done}


def test_64_sessions_at_once_play_what_is_played_in_process() -> None:
    expected = [in_process(number) for number in range(64)]

    async def play(url: str) -> list[list[dict[str, Any]]]:
        clients = [GenericEnvClient(base_url=f"http://{url}", connect_timeout_s=120) for _ in expected]
        await asyncio.gather(*(client.connect() for client in clients))
        rows: list[list[dict[str, Any]]] = [[] for _ in expected]

        async def step(number: int, turn: int) -> None:
            client, played = clients[number], expected[number][1]
            if turn == 0:
                result = await client.reset(seed=number, task_index=5 * number, episode_id=str(number))
            elif turn <= len(played):
                result = await client.step({"text": played[turn - 1]})
            else:
                return
            rows[number].append({"observation": result.observation, "reward": result.reward, "done": result.done})

        for turn in range(5):  # all in step, so that every session is open while every other one plays
            await asyncio.gather(*(step(number, turn) for number in range(64)))
        async with connect(f"ws://{url}/ws") as one_more:
            assert "CAPACITY_REACHED" in str(await one_more.recv())
        states = await asyncio.gather(*(client.state() for client in clients))
        assert states == [{"episode_id": str(n), "step_count": len(expected[n][1])} for n in range(64)]
        await asyncio.gather(*(client.close() for client in clients))
        return rows

    with serving() as url:
        rows = asyncio.run(play(url))
    assert rows == [row for row, _ in expected]
    assert {row[-1]["reward"] for row in rows} == {0.0, 1.0}
    assert {row[-1]["observation"]["verdict"] for row in rows} == {"correct", "wrong"}
    assert any(row[1]["reward"] == -0.125 for row in rows)
    replies = [Segment.from_json(s) for row in rows for r in row for s in r["observation"]["segments"]]
    assert {segment.source.name for segment in replies} == {"PROMPT", "POLICY", "AGENT", "TEMPLATE"}


def test_the_synchronous_client_plays_too_and_a_seed_draws_the_same_task() -> None:
    with serving() as url, GenericEnvClient(base_url=f"ws://{url}").sync() as client:
        drawn = [client.reset(seed=seed).observation["prompt"] for seed in (1, 2, 1)]
    env = aipo_env.make(ENV, **OPTIONS)
    assert drawn == [env.reset(seed=seed)[0]["prompt"] for seed in (1, 2, 1)]
    assert drawn[0] != drawn[1]


def test_a_chat_is_sent_where_the_environment_has_one() -> None:
    game = make_game(ENV, observation="messages", **OPTIONS)
    with serving(game) as url, GenericEnvClient(base_url=f"ws://{url}").sync() as client:
        seen = client.reset(seed=1).observation
    assert seen["messages"] == [{"role": "user", "content": seen["prompt"]}]


class Guarded:
    """A family whose gold answer stands where a careless server would send it."""

    name, num_tasks = "guarded", 1

    def __init__(self, error: type[Exception] = GradingError, confidential: bool = False, secret: bool = False) -> None:
        self.error, self.confidential, self.secret = error, confidential, secret

    def task(self, index: int) -> Task:
        note = {"level": 1, "note": "GOLD-4"}
        return Task(id="one", problem="2 + 2?", gold="GOLD-4", metadata=note, confidential=self.secret)

    def sample_index(self, rng: object) -> int:
        return 0

    def grade(self, task: Task, answer: str) -> Grade:
        raise self.error(f"{answer} could not be compared with {task.gold}.")


def test_the_gold_answer_never_crosses_the_wire(caplog: pytest.LogCaptureFixture) -> None:
    async def play(url: str) -> list[str]:
        said = []
        async with connect(f"ws://{url}/ws") as raw:
            for message in (
                {"type": "reset", "data": {}},
                {"type": "state"},
                {"type": "step", "data": {"text": r"\boxed{7}"}},
                {"type": "step", "data": {"text": "hm"}},
                {"type": "reset", "data": {}},
            ):
                await raw.send(json.dumps(message))
                said.append(str(await raw.recv()))
        return said

    with caplog.at_level(logging.ERROR), serving(make_game("rulebook", tasks=Guarded())) as url:
        said = asyncio.run(play(url))
        for path in ("/metadata", "/schema", "/health"):
            reader = http.client.HTTPConnection(url)
            reader.request("GET", path)
            said.append(reader.getresponse().read().decode())
            reader.close()
    assert not [text for text in said if "GOLD" in text]
    assert "2 + 2?" in said[0]
    assert "the log of its server says why" in said[2]
    assert "GOLD-4" in caplog.text
    assert json.loads(said[4])["type"] == "observation"


WRONG: list[tuple[str | bytes, str]] = [
    ("no json", "INVALID_JSON"),
    ("[]", "SESSION_ERROR"),
    ("[" * 20_000, "SESSION_ERROR"),
    ('{"type": "reset", "data": {"seed": 1' + "0" * 5000 + "}}", "SESSION_ERROR"),
    (b"\x00\xff", "SESSION_ERROR"),
    ('{"type": "take"}', "UNKNOWN_TYPE"),
    ('{"type": "step", "data": {}}', "VALIDATION_ERROR"),
    ('{"type": "step", "data": {"text": 4}}', "VALIDATION_ERROR"),
    ('{"type": "step", "data": {"text": "x", "reward": 1}}', "VALIDATION_ERROR"),
    ('{"type": "step", "data": {"text": "before any reset"}}', "EXECUTION_ERROR"),
    ('{"type": "reset", "data": {"seed": -1}}', "EXECUTION_ERROR"),
    ('{"type": "reset", "data": {"seed": "one"}}', "EXECUTION_ERROR"),
    ('{"type": "reset", "data": {"task_index": "one"}}', "EXECUTION_ERROR"),
    ('{"type": "reset", "data": {"task_index": -7}}', "EXECUTION_ERROR"),
    ('{"type": "reset", "data": {"level": 5}}', "EXECUTION_ERROR"),
    ('{"type": "mcp", "data": {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/close", '
     '"params": {"session_id": "another"}}}', "Unknown session_id"),
    ('{"type": "mcp", "data": {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}}', "does not support MCP"),
    ("x" * 200_000, "1009"),
    ('{"type": "step", "data": {"text": "\\ud800"}}', "EXECUTION_ERROR"),
]  # fmt: skip


def test_wrong_messages_cost_an_error_and_nobody_else_anything() -> None:
    expected, played = in_process(7)

    async def send(url: str, message: str | bytes) -> str:
        async with connect(f"ws://{url}/ws") as raw:
            try:
                await raw.send(message)
                return str(await raw.recv())
            except ConnectionClosed as closed:
                return str(closed)

    async def play(url: str) -> list[str]:
        async with GenericEnvClient(base_url=f"ws://{url}") as client:
            await client.reset(seed=7, task_index=35)
            answers = [await send(url, message) for message, _ in WRONG]
            for text, row in zip(played, expected[1:], strict=True):
                result = await client.step({"text": text})
                assert (result.observation, result.reward) == (row["observation"], row["reward"])
        return answers

    with serving(sessions=2, message_bytes=100_000) as url:  # each ill session is over before the next one begins
        answers = asyncio.run(play(url))
    assert not [(answer, code) for answer, (_, code) in zip(answers, WRONG, strict=True) if code not in answer]


def test_what_sessions_do_not_need_is_refused() -> None:
    async def handshake(url: str, path: str, **options: Any) -> int:
        try:
            async with connect(f"ws://{url}{path}", **options):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    with serving() as url:
        statuses = {}
        for method, path in [
            ("POST", "/reset"),
            ("POST", "/step"),
            ("GET", "/state"),
            ("POST", "/mcp"),
            ("GET", "/docs"),
        ]:
            client = http.client.HTTPConnection(url)
            with contextlib.suppress(ConnectionError):  # the answer need not wait for the body
                client.request(method, path, body=b"x" * 50_000_000 if method == "POST" else None)
            with contextlib.suppress(ConnectionError):
                statuses[path] = client.getresponse().status
            client.close()
        assert set(statuses.values()) == {404}
        assert asyncio.run(handshake(url, "/mcp")) == 403
        assert asyncio.run(handshake(url, "/ws", origin="http://elsewhere.example")) == 403
        assert asyncio.run(handshake(url, "/ws")) == 101


@pytest.mark.parametrize("limit", ["idle_seconds", "session_seconds"])
def test_a_session_ends_in_time_and_its_place_is_free(limit: str) -> None:
    async def until_the_end(raw: ClientConnection) -> None:
        while True:
            if limit == "session_seconds":  # never idle
                await raw.send('{"type": "state"}')
            await raw.recv()

    async def play(url: str) -> None:
        async with connect(f"ws://{url}/ws") as raw:
            with pytest.raises(ConnectionClosed):
                await until_the_end(raw)
        async with connect(f"ws://{url}/ws") as raw:
            await raw.send('{"type": "state"}')
            assert json.loads(await raw.recv())["type"] == "state"

    with serving(sessions=1, **{limit: 1.0}) as url:
        asyncio.run(play(url))


def test_half_requests_and_a_thousand_connections_cost_them_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that is open goes on; those that came to sit there are sent away, and a new one begins."""
    monkeypatch.setattr(openenv_limits, "REQUEST_SECONDS", 2.0)
    expected, played = in_process(7)
    with (
        contextlib.ExitStack() as sitting,
        serving(sessions=2) as url,
        GenericEnvClient(base_url=f"ws://{url}").sync() as client,
    ):
        client.reset(seed=7, task_index=35)
        host, port = url.split(":")
        sockets = []
        for number in range(1000):
            with contextlib.suppress(OSError):  # sent away already
                sockets.append(sitting.enter_context(socket.create_connection((host, int(port)))))
                sockets[-1].settimeout(120)
                sockets[-1].sendall(b"GET /ws HTTP/1.1\r\nHost: x\r\n" if number % 2 else b"")
        for text, row in zip(played, expected[1:], strict=True):
            assert client.step({"text": text}).observation == row["observation"]
        for one in sockets:
            with contextlib.suppress(ConnectionError):
                assert one.recv(1) == b""
        assert client.reset(seed=7, task_index=35).observation == expected[0]["observation"]  # its time is another
        with GenericEnvClient(base_url=f"ws://{url}").sync() as late:
            assert late.reset(seed=7, task_index=35).observation == expected[0]["observation"]


def test_connections_beyond_the_limit_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openenv_limits, "REQUEST_SECONDS", 3600.0)
    with contextlib.ExitStack() as sitting, serving(sessions=2) as url:
        host, port = url.split(":")
        sockets = [sitting.enter_context(socket.create_connection((host, int(port)), timeout=120)) for _ in range(131)]
        with contextlib.suppress(ConnectionError):
            assert sockets[-1].recv(1) == b""
        sockets[0].setblocking(False)
        with pytest.raises(BlockingIOError):  # still open
            sockets[0].recv(1)


@pytest.mark.parametrize("error", [ConfigurationError, EpisodeStateError, InvalidActionError, TaskIndexError])
def test_a_client_is_told_what_it_did_and_not_what_the_environment_did(error: type[Exception]) -> None:
    class Lost(Guarded):
        def task(self, index: int) -> Task:
            raise error("task one, whose answer is GOLD-4, is lost.")

    session = openenv.ConsultSession(make_game("rulebook", tasks=Guarded(error)))
    with pytest.raises(EpisodeStateError):
        session.step(openenv.ConsultAction(text="hm"))
    with pytest.raises(ConfigurationError, match="level"):
        session.reset(level=2)
    with pytest.raises(TaskIndexError, match="there is no task 1"):
        session.reset(task_index=1)
    session.reset(task_index=0)
    with pytest.raises(RuntimeError, match="the environment failed") as told:
        session.step(openenv.ConsultAction(text=r"\boxed{7}"))
    with pytest.raises(EpisodeStateError, match="reset it"):
        session.step(openenv.ConsultAction(text="hm"))
    with pytest.raises(RuntimeError, match="the environment failed") as lost:
        openenv.ConsultSession(make_game("rulebook", tasks=Lost(error))).reset()
    assert "GOLD" not in str(told.value) + str(lost.value)


@pytest.mark.parametrize("marked", ["confidential", "secret"])
def test_the_log_has_no_text_of_a_confidential_task(marked: str, caplog: pytest.LogCaptureFixture) -> None:
    session = openenv.ConsultSession(make_game("rulebook", tasks=Guarded(**{marked: True})))  # type: ignore[arg-type]
    session.reset()
    with pytest.raises(RuntimeError, match="the environment failed"):
        session.step(openenv.ConsultAction(text=r"\boxed{7}"))
    assert "GradingError: (withheld)" in caplog.text
    assert "GOLD" not in caplog.text
    assert "Traceback" not in caplog.text


def test_the_log_has_no_text_of_a_confidential_task_that_cannot_be_made(caplog: pytest.LogCaptureFixture) -> None:
    class Lost(Guarded):
        def task(self, index: int) -> Task:
            raise GradingError("2 + 2 is GOLD-4.")

    with pytest.raises(RuntimeError, match="the environment failed"):
        openenv.ConsultSession(make_game("rulebook", tasks=Lost(confidential=True))).reset()
    assert "GradingError: (withheld)" in caplog.text
    assert "GOLD" not in caplog.text


def test_half_a_surrogate_pair_is_refused_and_costs_no_turn() -> None:
    session = openenv.ConsultSession(make_game(ENV, **OPTIONS))
    session.reset(seed=1)
    with pytest.raises(InvalidActionError, match="half of a surrogate pair"):
        session.step(openenv.ConsultAction(text="hm \ud83d"))
    assert session.state.step_count == 0
    assert "hm" in session.step(openenv.ConsultAction(text="hm")).model_dump_json()


def raw_session(url: str) -> socket.socket:
    """A session without a client that answers, reads or closes by itself."""
    host, port = url.split(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(60)
    raw.connect((host, int(port)))
    key = base64.b64encode(bytes(16)).decode()
    raw.sendall(
        f"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert b" 101 " in raw.recv(4096)
    return raw


def frame(payload: bytes, kind: int = 1, last: bool = True) -> bytes:
    size = len(payload)
    length = bytes([128 | size]) if size < 126 else b"\xff" + struct.pack(">Q", size)
    return bytes([kind | 128 * last]) + length + bytes(4) + payload


def send_for_ever(raw: socket.socket, message: bytes) -> None:
    for _ in range(32_000_000 // len(message)):
        raw.sendall(message)


def test_who_does_not_read_loses_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openenv_limits, "REQUEST_SECONDS", 1.0)
    asks = frame(json.dumps({"type": "A" * 1_000_000}).encode())  # the answer is as long
    with serving(sessions=1) as url, contextlib.closing(raw_session(url)) as raw:
        with pytest.raises(ConnectionError):
            send_for_ever(raw, asks)
        with GenericEnvClient(base_url=f"ws://{url}").sync() as late:
            assert late.reset(seed=1).observation["turn"] == 0


def test_a_connection_ends_soon_after_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    lost, session = threading.Event(), openenv_limits.SessionConnection

    def connection_lost(self: Any, error: Exception | None) -> None:
        lost.set()
        super(session, self).connection_lost(error)

    monkeypatch.setattr(openenv_limits, "REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(session, "pause_writing", lambda self: None)  # as if little were unread
    monkeypatch.setattr(session, "connection_lost", connection_lost, raising=False)
    asks = frame(json.dumps({"type": "A" * 1_000_000}).encode())
    with serving(session_seconds=2.0) as url, contextlib.closing(raw_session(url)) as raw:
        raw.sendall(asks * 10)
        assert lost.wait(20)


def test_pings_without_end_lose_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openenv_limits, "REQUEST_SECONDS", 3600.0)
    with serving(sessions=1) as url, contextlib.closing(raw_session(url)) as raw, pytest.raises(ConnectionError):
        send_for_ever(raw, frame(b"p" * 125, kind=9) * 8000)


def test_a_message_has_no_more_than_1024_fragments() -> None:
    start, rest = frame(b"{", last=False), frame(b"", kind=0, last=False)
    with serving(sessions=1) as url:
        with contextlib.closing(raw_session(url)) as raw:
            raw.sendall(start + rest * 1023 + frame(b"}", kind=0))
            with contextlib.suppress(ConnectionError):
                assert raw.recv(1) == b""
        with contextlib.closing(raw_session(url)) as raw:
            raw.sendall(start + rest * 1022 + frame(b"}", kind=0))
            assert b"UNKNOWN_TYPE" in raw.recv(4096)


def test_a_client_that_leaves_writes_nothing_into_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    asked, left = threading.Event(), threading.Event()

    class Slow(Guarded):
        def task(self, index: int) -> Task:
            asked.set()
            left.wait(60)
            return super().task(index)

    with serving(make_game("rulebook", tasks=Slow()), sessions=1) as url:
        raw = raw_session(url)
        raw.sendall(frame(b'{"type": "reset", "data": {}}'))
        assert asked.wait(60)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
        time.sleep(0.5)  # until the server knows
        left.set()
        with GenericEnvClient(base_url=f"ws://{url}").sync() as late:
            late.reset()
    assert capsys.readouterr().err == ""


def test_a_port_that_is_taken_is_told() -> None:
    with serving() as url, pytest.raises(ConfigurationError, match="another program has it"):
        openenv.make_server(make_game(ENV), "127.0.0.1", int(url.split(":")[1]), Limits())
    with pytest.raises(ConfigurationError, match="sessions is what clients may take"):
        Limits(sessions=0)
    with pytest.raises(ConfigurationError, match="how long a session may last"):
        Limits(idle_seconds=0.0)


def test_the_command_serves_the_example_until_it_is_interrupted() -> None:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    serve = subprocess.Popen(
        [sys.executable, "-m", "aipo_env.cli", "serve", ENV, "--port", "0", "--env-options", "level", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=root,
    )  # fmt: skip
    try:
        assert serve.stdout is not None
        url = serve.stdout.readline().split()[2]
        example = [sys.executable, "examples/openenv_client.py", "--url", url, "--tasks", "3"]
        played = subprocess.run(example, capture_output=True, text=True, env=environment, cwd=root, check=True)
    finally:
        serve.send_signal(signal.SIGINT)
        _, errors = serve.communicate()
    assert (serve.returncode, errors) == (0, "")
    assert played.stdout.count("rulebook/l2/") == 3
