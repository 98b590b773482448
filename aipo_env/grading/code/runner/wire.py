"""Frames between the parent and the supervisor: a JSON header followed by raw blobs."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")
_MAX_HEADER = 1 << 20


def send_frame(channel: socket.socket, header: dict[str, Any], blobs: list[bytes]) -> None:
    """Sends one frame on a blocking socket."""
    text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    for piece in (_LENGTH.pack(len(text)) + text, *blobs):
        channel.sendall(piece)


def receive_frame(channel: socket.socket) -> tuple[dict[str, Any], list[bytes]] | None:
    """Receives one frame from a blocking socket; None when the other side is gone."""
    start = receive_exactly(channel, _LENGTH.size)
    if start is None:
        return None
    (length,) = _LENGTH.unpack(start)
    if length > _MAX_HEADER:
        raise ValueError(f"a frame header of {length} bytes; at most {_MAX_HEADER} are allowed")
    text = receive_exactly(channel, length)
    if text is None:
        return None
    header: dict[str, Any] = json.loads(text)
    blobs = []
    for size in header.pop("blobs"):
        blob = receive_exactly(channel, size)
        if blob is None:
            return None
        blobs.append(blob)
    return header, blobs


def receive_exactly(channel: socket.socket, size: int) -> bytes | None:
    """Receives ``size`` bytes; None when the other side closes first."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = channel.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return bytes(data)
