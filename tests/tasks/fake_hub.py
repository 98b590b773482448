"""A Hugging Face hub on this machine, as far as `datasets` and `huggingface_hub` ask it for files; it says what was asked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves data sets.

    Args:
        files: repository to file name to content.
        gated: repositories that it gives to those alone who bring the token "hf_good".
    """

    def __init__(self, files: Mapping[str, Mapping[str, bytes]], gated: frozenset[str] = frozenset()) -> None:
        self.files, self.gated = files, gated
        self.asked: list[str] = []
        self.url = ""

    def answer(self, path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path."""
        self.asked.append(path)
        path = urllib.parse.unquote(path.partition("?")[0])
        if re.fullmatch(r"/api/datasets/[^/]+/[^/]+", path):
            path += "/revision/main"
        match = re.fullmatch(r"(?:/api)?/datasets/([^/]+/[^/]+)/(resolve|revision|tree|paths-info)/([^/]+)/?(.*)", path)
        if match is None or match[1] not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        repository, what, revision, name = match.groups()
        contents = self.files[repository]
        if repository in self.gated and token != "hf_good":
            message = f"Access to dataset {repository} is restricted."
            return 403 if token else 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": message}, b"{}"
        if revision not in ("main", COMMIT, "v1"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if what == "resolve":
            if name not in contents:
                return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
            digest = hashlib.sha256(contents[name]).hexdigest()
            return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}, contents[name]
        if what == "revision":
            row = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": n} for n in contents], "tags": []}
            return 200, {}, json.dumps(row).encode()
        entries = [{"type": "file", "path": n, "size": len(c), "oid": COMMIT} for n, c in contents.items()]
        return 200, {}, json.dumps([entry for entry in entries if name in ("", entry["path"])]).encode()


@contextlib.contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serves it while the context lasts; `hub.url` is its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if length:
                self.rfile.read(length)
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            status, headers, body = hub.answer(self.path, token)
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run_with(hub: FakeHub, code: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process whose hub this is; both clients read the address when they are imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "AIPO_"))}
    mine = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env={**kept, **mine, **variables},
        timeout=120,
    )
