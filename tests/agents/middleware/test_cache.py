import asyncio
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo_agents.middleware import Accounting, Cache, Retry
from aipo_agents.middleware.reply_store import ReplyStore
from aipo_agents.request_key import key_digest
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import Reply, Usage
from tests.agents.middleware.asking import Plain, Service, ask, many, once

FULL = Reply(
    "sur\ud800rogate\n∑",
    token_ids=(1, 2, 3),
    logprobs=(-0.1 - 0.2, -1e-300, -math.inf),
    tokenizer="fingerprint",
    usage=Usage(7, 3, 0.125),
)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_kept_reply_is_the_one_that_was_given(tmp_path: Path) -> None:
    service = Service(reply=FULL)
    assert once(Cache(service, tmp_path)) == FULL
    # Another object, as another run would make it.
    kept = once(Cache(service, tmp_path))
    assert service.calls == 1
    assert kept == Reply(FULL.text, FULL.token_ids, FULL.logprobs, FULL.tokenizer, Usage(7, 3, 0.0), cached=True)
    assert math.copysign(1.0, kept.logprobs[0] if kept.logprobs else 1.0) == -1.0


@settings(max_examples=40, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=())),
    pairs=st.none() | st.lists(st.tuples(st.integers(0, 2**40), st.floats(allow_nan=False))),
    usage=st.none() | st.builds(Usage, st.integers(0), st.integers(0), st.floats(0, 1e9)),
)
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory,
    text: str,
    pairs: list[tuple[int, float]] | None,
    usage: Usage | None,
) -> None:
    ids = None if pairs is None else tuple(token for token, _ in pairs)
    logprobs = None if pairs is None else tuple(value for _, value in pairs)
    reply = Reply(text, ids, logprobs, "t", usage)
    store = ReplyStore(tmp_path_factory.getbasetemp() / "store", 2**20)
    store.put(key_digest(text), reply)
    assert store.get(key_digest(text)) == reply


def test_seed_prompt_and_namespace_are_told_apart(tmp_path: Path) -> None:
    service = Service(greedy=False)
    for agent, request in (
        (Cache(service, tmp_path), ask("a")),
        (Cache(service, tmp_path), ask("a", seed=1)),
        (Cache(service, tmp_path), ask("b")),
        (Cache(service, tmp_path, namespace="n"), ask("a")),
    ):
        assert not once(agent, request).cached
        assert once(agent, request).cached
    assert service.calls == 4


def test_errors_are_not_kept(tmp_path: Path) -> None:
    service = Service([Reply("", error="late"), ConnectionError("cut")])
    cache = Cache(service, tmp_path)
    assert once(cache).error == "late"
    with pytest.raises(ConnectionError):
        once(cache)
    assert files(tmp_path) == []
    assert not once(cache).cached


def test_an_agent_that_does_not_say_what_it_depends_on_needs_a_namespace(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Plain has no method `request_key`.*namespace"):
        Cache(Accounting(Plain()), tmp_path)
    cache = Cache(Accounting(Plain()), tmp_path, namespace="plain/1")
    assert once(cache) == Reply("Q")
    assert once(cache) == Reply("Q", cached=True)


def damage_bit(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        damage_bit,
        lambda data: b"\x80\x04\x95pickle",
        lambda data: data + b"more",
    ],
    ids=["empty", "cut", "bit", "pickle", "longer"],
)
def test_a_damaged_reply_is_a_miss_with_a_warning(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    once(Cache(service, tmp_path))
    (path,) = files(tmp_path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert not once(Cache(service, tmp_path)).cached
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "is damaged" in caplog.text
    assert once(Cache(service, tmp_path)).cached
    assert service.calls == 2


def test_a_reply_under_a_wrong_name_is_a_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ReplyStore(tmp_path, 2**20)
    store.put("aa1", Reply("one"))
    os.rename(tmp_path / "aa" / "aa1.reply", tmp_path / "aa" / "aa2.reply")
    assert store.get("aa2") is None
    assert "another request" in caplog.text


def test_the_oldest_make_room(tmp_path: Path) -> None:
    store = ReplyStore(tmp_path, 20_000)
    digests = [key_digest(index) for index in range(60)]
    for age, digest in enumerate(digests):
        store.put(digest, Reply("x" * 700))
        path = store._path(digest)
        if path.exists():
            os.utime(path, (1e9 + age, 1e9 + age))
    kept = [digest for digest in digests if store.get(digest) is not None]
    total = sum(path.stat().st_size for path in files(tmp_path))
    assert 10_000 < total <= 21_000
    assert kept == digests[-len(kept) :]
    store.put("00big", Reply("x" * 30_000))
    assert store.get("00big") is None
    assert store.get(digests[-1]) is not None


def test_unfinished_files_of_dead_processes_are_swept(tmp_path: Path) -> None:
    (tmp_path / "aa").mkdir()
    old, fresh = tmp_path / "aa" / "1.unfinished", tmp_path / "aa" / "2.unfinished"
    old.write_text("x")
    fresh.write_text("x")
    os.utime(old, (time.time() - 7200,) * 2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("not ours")
    ReplyStore(tmp_path, 1).put("bb1", Reply("x" * 100))  # too large to keep
    assert old.exists()
    ReplyStore(tmp_path, 2**20).put("bb1", Reply("x"))
    assert not old.exists()
    assert fresh.exists()
    assert (tmp_path / "mine" / "notes.txt").exists()


FULL_DISK = """
import asyncio, logging, resource, sys
from aipo_agents.middleware import Cache
from tests.agents.middleware.asking import Service, ask
logging.basicConfig(format="%(levelname)s %(message)s")
cache = Cache(Service(), sys.argv[1])
async def main():
    await cache.respond(ask("kept"))
    # From here on the system refuses every byte that is written to a file, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    for index in range(20):
        assert (await cache.respond(ask(f"q{index}"))).text == "ok"
    assert (await cache.respond(ask("kept"))).cached
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await cache.respond(ask("q1"))
    assert (await cache.respond(ask("q1"))).cached
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
def test_a_full_disk_costs_the_cache_and_one_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL_DISK, str(tmp_path / "cache")],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("WARNING") == 1
    assert "cannot be written to" in done.stderr
    assert len(files(tmp_path)) == 2  # and no rubbish


def test_a_folder_that_cannot_be_made_costs_the_cache_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    cache = Cache(service, "/proc/no/such/folder")
    many(cache, [ask(str(index)) for index in range(20)])
    assert service.calls == 20
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


WRITER = """
import itertools, sys
from aipo_agents.middleware.reply_store import ReplyStore
from aipo_agents.request_key import key_digest
from aipo_env.protocol import Reply
store = ReplyStore(__import__("pathlib").Path(sys.argv[1]), 400_000)
print("ready", flush=True)
for turn in itertools.count():
    number = turn % 40
    store.put(key_digest(number), Reply(f"{number}" * 5000))
    found = store.get(key_digest((number + 7) % 40))
    assert found is None or found.text == f"{(number + 7) % 40}" * 5000
"""


def test_processes_share_a_folder_and_may_be_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    time.sleep(0.5)
    # None of them saw a torn reply, or it would have stopped; all die in the midst of their work.
    assert [writer.poll() for writer in writers] == [None] * 3
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
    store = ReplyStore(tmp_path, 400_000)
    found = [store.get(key_digest(number)) for number in range(40)]
    assert sum(reply is not None for reply in found) > 10
    for number, reply in enumerate(found):
        assert reply is None or reply.text == f"{number}" * 5000
    assert caplog.records == []


def test_a_cancelled_request_keeps_the_folder_whole(tmp_path: Path) -> None:
    service = Service(delay=0.001)
    cache = Cache(service, tmp_path)

    async def main() -> None:
        for wait in range(10):
            task = asyncio.create_task(cache.respond(ask(str(wait))))
            await asyncio.sleep(wait / 2500)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert all(path.suffix == ".reply" for path in files(tmp_path))
    assert all(reply == service.reply or reply.cached for reply in many(cache, [ask(str(i)) for i in range(10)]))  # type: ignore[union-attr]


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Cache: size_limit .* got 0"):
        Cache(Service(), tmp_path, 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="got the file"):
        Cache(Service(), tmp_path / "file")


def test_a_hit_needs_no_service(tmp_path: Path) -> None:
    once(Cache(Service(), tmp_path))
    assert once(Cache(Retry(Service(reply=ConnectionError("down"))), tmp_path)).text == "ok"
