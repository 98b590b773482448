"""The server: this machine alone, this name alone, and traces that grow."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aipo_env import Segment, Source, Trajectory, write_traces
from aipo_env.errors import ConfigurationError
from algorithms.apps.viewer import TraceStore, make_server
from algorithms.apps.viewer.page import policy

TRACE = Trajectory("env", "task", [Segment(Source.POLICY, "hello", (1,), (-1.0,))])


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    write_traces(tmp_path / "traces.jsonl", [TRACE])
    return tmp_path / "traces.jsonl"


@pytest.fixture
def port(traces: Path) -> Iterator[int]:
    server = make_server(TraceStore([traces]), "a <title>")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def get_json(port: int, path: str) -> dict[str, object]:
    status, headers, body = get(port, path)
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    value: dict[str, object] = json.loads(gzip.decompress(body))
    return value


def test_the_page_and_its_data(port: int) -> None:
    status, headers, body = get(port, "/")
    assert status == 200
    assert b"a &lt;title&gt;" in body
    assert headers["Content-Security-Policy"] == f"{policy('served')}; frame-ancestors 'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert get_json(port, "/api/index")["columns"]["ordinal"] == [0]  # type: ignore[index]
    assert get_json(port, "/api/texts/0.0")["rows"] == [[[1, "hello", ""]]]
    assert get_json(port, "/api/tokens/0.0")["rows"][0]["segments"][0]["logprobs"] == [-10000]  # type: ignore[index]


def test_a_name_that_was_bound_to_this_machine_gets_nothing(port: int) -> None:
    for headers in (
        {"Host": f"evil.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Host": f"127.0.0.1:{port}", "Origin": "http://evil.example"},
        {"Host": f"127.0.0.1:{port}", "Origin": "null"},
    ):
        for path in ("/", "/api/index", "/api/texts/0.0"):
            status, _, body = get(port, path, **headers)
            assert status == 403, (path, headers)
            assert b"hello" not in body
    for headers in ({"Host": f"localhost:{port}"}, {"Host": f"127.0.0.1:{port}", "Origin": f"http://127.0.0.1:{port}"}):
        assert get(port, "/api/index", **headers)[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/api/texts/0.1", "/api/texts/1.0", "/api/texts/-1.0", "/api/texts/0", "/api/other/0.0", "/../etc/passwd", "/x"],
)
def test_what_is_not_there(port: int, path: str) -> None:
    status, headers, _ = get(port, path)
    assert status == 404
    assert headers["Content-Type"].startswith("text/plain")


def test_only_loopback_is_bound(port: int, traces: Path) -> None:
    server = make_server(TraceStore([traces]), "x")
    assert server.server_address[0] == "127.0.0.1"
    server.server_close()
    with pytest.raises(
        ConfigurationError, match=f"port {port} of 127.0.0.1 cannot be had: another program has it.*--port"
    ):
        make_server(TraceStore([traces]), "x", port)
    with pytest.raises(ConfigurationError, match="port 70000"):
        make_server(TraceStore([traces]), "x", 70000)


def test_the_list_is_sent_again_when_something_is_new(port: int, traces: Path) -> None:
    tag = get(port, "/api/index")[1]["ETag"]
    assert get(port, "/api/index", If_None_Match=tag)[::2] == (304, b"")
    write_traces(traces, [TRACE])
    status, headers, _ = get(port, "/api/index", If_None_Match=tag)
    assert status == 200
    assert headers["ETag"] != tag
    with traces.open("a") as file:
        file.write("[]\n")
    assert "line 3 is not a trajectory" in str(get_json(port, "/api/index")["problem"])
    traces.write_text("")
    assert get_json(port, "/api/index")["columns"] == {}
    traces.unlink()
    assert get(port, "/api/tokens/0.0")[0] == 404


def test_nothing_can_be_sent(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/api/index", body="x")
    assert connection.getresponse().status == 501
    connection.close()
