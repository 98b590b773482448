"""Messages between two processes: each is a 4-byte big-endian length and that many bytes of JSON."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

MAX_MESSAGE = 1 << 20


def send_message(sock: socket.socket, message: dict[str, Any]) -> None:
    """Write one message."""
    data = json.dumps(message).encode("ascii")
    sock.sendall(struct.pack(">I", len(data)) + data)


def receive_message(sock: socket.socket) -> dict[str, Any] | None:
    """Read one message; None when the other side is gone."""
    header = _receive_exactly(sock, 4)
    if header is None:
        return None
    (size,) = struct.unpack(">I", header)
    data = _receive_exactly(sock, size) if size <= MAX_MESSAGE else None
    return None if data is None else json.loads(data)


def _receive_exactly(sock: socket.socket, size: int) -> bytes | None:
    chunks = b""
    while len(chunks) < size:
        chunk = sock.recv(size - len(chunks))
        if not chunk:
            return None
        chunks += chunk
    return chunks
