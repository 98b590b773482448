"""Coalesce: identical greedy requests in flight share one call."""

from __future__ import annotations

import asyncio
import dataclasses
import functools

from aipo_agents.middleware.base import Middleware, shared
from aipo_agents.middleware.per_loop import PerLoop
from aipo_env.protocol import Agent, ConsultRequest, Reply


@dataclasses.dataclass(slots=True, eq=False)
class _Call:
    """One call to the wrapped agent, and those who wait for it."""

    task: asyncio.Task[Reply]
    deadline: float | None
    waiters: int = 0
    paid: bool = False
    """Whether a waiter has taken the reply as its own; for the others it is a shared one."""

    def has_time_for(self, request: ConsultRequest) -> bool:
        """Whether the call was given at least as much time as this request has."""
        if self.deadline is None:
            return True
        return request.deadline is not None and request.deadline <= self.deadline


class Coalesce(Middleware):
    """Sends one of several identical requests that are in flight at once, if they are deterministic.

    `request_key` says which requests are identical and which are deterministic (greedy); sampled ones always get a
    call of their own. One waiter gets the reply as it came, the others get it marked `cached`, with cost 0. An error
    goes to all. A waiter that is cancelled leaves the others alone; when the last one is gone, the call is cancelled.
    Requests share within one event loop. A request that has more time than the call was given starts another one.

    Args:
        agent: the agent to wrap.
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        self._calls: PerLoop[dict[str, _Call]] = PerLoop(dict)

    async def respond(self, request: ConsultRequest) -> Reply:
        """The wrapped agent's reply, which others may share."""
        key = self.request_key(request)
        if not key.deterministic:
            return await self.agent.respond(request)
        calls = self._calls.get()
        call = calls.get(key.digest)
        if call is None or not call.has_time_for(request):
            task = asyncio.get_running_loop().create_task(self._ask(request))
            call = calls[key.digest] = _Call(task, request.deadline)
            task.add_done_callback(functools.partial(_finished, calls, key.digest))
        call.waiters += 1
        try:
            # Unlike `await task`, this leaves the task alone when the waiter is cancelled.
            await asyncio.wait({call.task})
        finally:
            call.waiters -= 1
            if not call.waiters and not call.task.done():
                # Nobody may join a call that is coming to its end.
                if calls.get(key.digest) is call:
                    del calls[key.digest]
                call.task.cancel()
                await asyncio.wait({call.task})
        reply = call.task.result()
        if call.paid:
            return shared(reply)
        call.paid = True
        return reply

    async def _ask(self, request: ConsultRequest) -> Reply:
        return await self.agent.respond(request)


def _finished(calls: dict[str, _Call], digest: str, task: asyncio.Task[Reply]) -> None:
    call = calls.get(digest)
    if call is not None and call.task is task:
        del calls[digest]
    if not task.cancelled():
        # Marks an error as seen, for a call whose waiters have all gone.
        task.exception()
