"""Serves the viewer to this machine alone, with traces that grow while one looks."""

from __future__ import annotations

import errno
import hashlib
import html
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from aipo_env.errors import AipoError, ConfigurationError
from algorithms.apps.viewer.page import pack, policy, served_page
from algorithms.apps.viewer.store import TraceStore

HOST = "127.0.0.1"
"""Loopback: no other machine can connect."""


def make_server(store: TraceStore, title: str, port: int = 0) -> ThreadingHTTPServer:
    """A server of the viewer on 127.0.0.1; `serve_forever()` runs it, `server_port` tells its port.

    Args:
        store: what is shown; it is read again when the page asks whether something is new.
        title: of the page.
        port: 0 takes a free one.

    Raises:
        ConfigurationError: the port cannot be had.
    """
    shared = _Shared(store, title)

    class Handler(_Handler):
        viewer = shared

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "another program has it" if taken else str(error)
        raise ConfigurationError(
            f"port {port} of {HOST} cannot be had: {reason}. Take another one with --port; 0 finds a free one."
        ) from error


class _Shared:
    """The store, for one request at a time."""

    def __init__(self, store: TraceStore, title: str) -> None:
        self.title = title
        self._store = store
        self._lock = threading.Lock()
        self._index: bytes | None = None

    def index(self) -> bytes:
        """The list as it is now. A file that cannot be read is told to the page, not the end of it."""
        with self._lock:
            try:
                if self._store.refresh() or self._index is None:
                    self._index = pack(self._store.index())
            except AipoError as error:
                return pack({"problem": str(error)})
            return self._index

    def chunk(self, kind: str, name: str) -> bytes | None:
        """A chunk ("texts" or "tokens", "file.number"); None where there is none."""
        position, _, number = name.partition(".")
        with self._lock:
            if not (position.isdecimal() and number.isdecimal()) or int(position) >= len(self._store.files):
                return None
            file = self._store.files[int(position)]
            if int(number) not in file.chunks():
                return None
            return pack(file.chunk(int(number))[("texts", "tokens").index(kind)])


class _Handler(BaseHTTPRequestHandler):
    viewer: _Shared
    server_version = "aipo"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        """Answers the page, the list, or a chunk."""
        if not self._meant_for_us():
            return self._answer(
                403, "text/plain", b"This server answers under the name 127.0.0.1 or localhost alone.\n"
            )
        path = urlsplit(self.path).path
        parts = path.strip("/").split("/")
        if path == "/":
            return self._answer(200, "text/html", served_page(self.viewer.title).encode())
        if path == "/api/index":
            return self._packed(self.viewer.index())
        if len(parts) == 3 and parts[0] == "api" and parts[1] in ("texts", "tokens"):
            try:
                return self._packed(self.viewer.chunk(parts[1], parts[2]))
            except (AipoError, OSError) as error:  # the file changed under us: the next list will tell
                return self._answer(409, "text/plain", f"{error}\n".encode())
        return self._answer(404, "text/plain", f"There is nothing at {html.escape(path[:200])}.\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the page asks every few seconds."""

    def _meant_for_us(self) -> bool:
        """Whether the request names this machine: a page elsewhere whose name was bound to 127.0.0.1 names its own."""
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        own = {f"{name}:{port}" for name in (HOST, "localhost")}
        origin = self.headers.get("Origin")
        return self.headers.get("Host", "").lower() in own and (
            origin is None or origin in {f"http://{n}" for n in own}
        )

    def _packed(self, body: bytes | None) -> None:
        if body is None:
            return self._answer(404, "text/plain", b"There is no such part.\n")
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if self.headers.get("If-None-Match") == tag:
            return self._answer(304, "application/json", b"", {"ETag": tag})
        return self._answer(200, "application/json", body, {"Content-Encoding": "gzip", "ETag": tag})

    def _answer(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        fixed = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": f"{policy('served')}; frame-ancestors 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }
        for name, value in {**fixed, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
