"""Agents that fail for real, and ways to ask many at once and see that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeVar

from aipo_agents.request_key import RequestKey, key_digest
from aipo_env.protocol import Agent, ConsultRequest, Reply, Usage

T = TypeVar("T")


class Service:
    """An agent that does what its script says, call by call, and answers `reply` from then on."""

    description = "answers by the script"

    def __init__(
        self,
        script: Sequence[Reply | BaseException] = (),
        *,
        reply: Reply | BaseException | None = None,
        delay: float = 0.0,
        greedy: bool = True,
        name: str = "verify",
    ) -> None:
        self.name, self.delay, self.greedy = name, delay, greedy
        self.script = list(script)
        self.reply = reply if reply is not None else Reply("ok", usage=Usage(10, 5, 0.25))
        self.requests: list[ConsultRequest] = []
        self.times: list[float] = []
        self.running = self.cancelled = self.closed = 0
        self._lock = threading.Lock()

    @property
    def calls(self) -> int:
        return len(self.requests)

    async def respond(self, request: ConsultRequest) -> Reply:
        with self._lock:
            self.requests.append(request)
            self.times.append(asyncio.get_running_loop().time())
            outcome = self.script.pop(0) if self.script else self.reply
            self.running += 1
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            with self._lock:
                self.running -= 1
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def request_key(self, request: ConsultRequest) -> RequestKey:
        return RequestKey(key_digest("model", request.query, request.seed), deterministic=self.greedy)

    async def aclose(self) -> None:
        self.closed += 1


class Plain:
    """An agent that says nothing of what its replies depend on."""

    name = "plain"

    async def respond(self, request: ConsultRequest) -> Reply:
        return Reply(request.query.upper())


def ask(query: str = "q", *, seed: int = 0, deadline: float | None = None) -> ConsultRequest:
    return ConsultRequest(query, transcript=f"prompt {query}", task_id="t/1", seed=seed, deadline=deadline)


def run(main: Callable[[], Coroutine[object, object, T]]) -> T:
    """Runs to the end on a new loop and sees that no task is left and no coroutine was forgotten."""

    async def checked() -> T:
        try:
            return await main()
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left

    try:
        return asyncio.run(checked())
    finally:
        # A forgotten coroutine in a reference cycle warns when it is collected; older objects are not ours.
        gc.collect(1)


def once(agent: Agent, request: ConsultRequest | None = None) -> Reply:
    async def main() -> Reply:
        return await agent.respond(request or ask())

    return run(main)


async def all_of(agent: Agent, requests: Sequence[ConsultRequest]) -> list[Reply | BaseException]:
    return await asyncio.gather(*(agent.respond(request) for request in requests), return_exceptions=True)


def many(agent: Agent, requests: Sequence[ConsultRequest]) -> list[Reply | BaseException]:
    async def main() -> list[Reply | BaseException]:
        return await all_of(agent, requests)

    return run(main)


def in_threads(functions: Sequence[Callable[[], T]]) -> list[T]:
    """Runs each in a thread of its own, at once; an error in one is raised here."""
    results: list[T | BaseException] = [RuntimeError("did not run")] * len(functions)

    def call(index: int) -> None:
        try:
            results[index] = functions[index]()
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    values: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        values.append(result)
    return values
