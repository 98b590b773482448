"""Replies on disk: one file each, written whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from aipo_env.protocol import Reply, Usage

log = logging.getLogger("aipo_agents")

SUFFIX = ".reply"
UNFINISHED = ".unfinished"
UNFINISHED_SECONDS = 3600
"""Age at which an unfinished file belongs to a process that died."""


class ReplyStore:
    """Maps digests to replies in a folder that any number of threads and processes share, over a network too.

    A file is written under another name and renamed, so that readers see all of it or nothing, and carries a checksum;
    what a crash or a bad disk left behind is a miss. Nothing in it is executed when it is read: it is JSON. When the
    folder is larger than the limit, the oldest replies make room. Replies that the disk does not take, or give back, are
    lost, with one warning for all of them.

    Args:
        folder: where the files are; made when the first reply is kept.
        size_limit: bytes of all replies together; between two looks at the folder it may be passed by a twentieth
            for each process.
    """

    # A database in one file (as diskcache has) needs locks that network file systems lack, and one torn page costs all.

    def __init__(self, folder: Path, size_limit: int) -> None:
        self.folder, self.size_limit = folder, size_limit
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        # Looked at on the first write: an earlier run may have had a larger limit.
        self._unseen = size_limit

    def get(self, digest: str) -> Reply | None:
        """The reply that was kept, exactly; None if there is none, or it cannot be read."""
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn_once("read from", error)
            return None
        try:
            return _decode(data, digest)
        except (ValueError, KeyError, TypeError) as error:
            log.warning(
                "The cached reply %s is damaged (%s: %s); the helper is asked again, and the new reply takes its place.",
                path,
                type(error).__name__,
                error,
            )
            return None

    def put(self, digest: str, reply: Reply) -> None:
        """Keeps a reply, if the disk takes it and it is not larger than the limit."""
        data = _encode(digest, reply)
        if len(data) > self.size_limit:
            return
        try:
            self._write(self._path(digest), data)
            with self._lock:
                self._unseen += len(data)
                look = self._unseen > self.size_limit / 20
                if look:
                    self._unseen = 0
            if look:
                self._make_room()
        except OSError as error:
            self._warn_once("written to", error)

    def _warn_once(self, what: str, error: OSError) -> None:
        with self._lock:
            first = what not in self._warned
            self._warned.add(what)
        if first:
            log.warning(
                "The cache in %s cannot be %s (%s); where that is so, helpers are asked as if there were none. Make room, "
                "or name another folder.",
                self.folder,
                what,
                error,
            )

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}{SUFFIX}"

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.stem}-{uuid.uuid4().hex}{UNFINISHED}")
        try:
            unfinished.write_bytes(data)
            os.replace(unfinished, path)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise

    def _make_room(self) -> None:
        """Removes the oldest replies until a tenth of the limit is free, and what dead processes left unfinished."""
        replies = []
        for entry, status in self._files():
            if entry.name.endswith(SUFFIX):
                replies.append((status.st_mtime, status.st_size, entry.path))
            elif entry.name.endswith(UNFINISHED) and time.time() - status.st_mtime > UNFINISHED_SECONDS:
                _remove(entry.path)
        total = sum(size for _, size, _ in replies)
        if total <= self.size_limit:
            return
        for _, size, path in sorted(replies):
            _remove(path)
            total -= size
            if total <= self.size_limit * 0.9:
                break

    def _files(self) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        """The files in the folder, less those that another process removes meanwhile."""
        with os.scandir(self.folder) as shelves:
            paths = [shelf.path for shelf in shelves if len(shelf.name) == 2 and shelf.is_dir()]
        for path in paths:
            with os.scandir(path) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        yield entry, entry.stat()


def _remove(path: str) -> None:
    # Another process may have been faster.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _encode(digest: str, reply: Reply) -> bytes:
    """A checksum, and the reply in one line of JSON; the `repr` of a float brings back the same float."""
    fields: dict[str, object] = {
        "digest": digest,
        "text": reply.text,
        "token_ids": None if reply.token_ids is None else [int(token) for token in reply.token_ids],
        "logprobs": None if reply.logprobs is None else [float(value) for value in reply.logprobs],
        "given_thoughts": reply.given_thoughts,
        "tokenizer": reply.tokenizer,
        "usage": None if reply.usage is None else dataclasses.asdict(reply.usage),
    }
    body = json.dumps(fields, ensure_ascii=True).encode("ascii")
    return hashlib.sha256(body).hexdigest().encode("ascii") + b"\n" + body + b"\n"


def _decode(data: bytes, digest: str) -> Reply:
    """The reply in a file; ValueError, KeyError or TypeError if it is not one that `_encode` wrote."""
    checksum, _, body = data.partition(b"\n")
    body = body.removesuffix(b"\n")
    if hashlib.sha256(body).hexdigest().encode("ascii") != checksum:
        raise ValueError("its checksum is wrong")
    fields = json.loads(body)
    if fields["digest"] != digest:
        raise ValueError("it is that of another request")
    token_ids, logprobs, usage = fields["token_ids"], fields["logprobs"], fields["usage"]
    return Reply(
        fields["text"],
        token_ids=None if token_ids is None else tuple(token_ids),
        logprobs=None if logprobs is None else tuple(logprobs),
        given_thoughts=fields.get("given_thoughts", False),
        tokenizer=fields["tokenizer"],
        usage=None if usage is None else Usage(**usage),
    )
