"""Trying again: what a helper and a model server do after a failure that may pass by itself."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from aipo_agents.backends.base import Generation
from aipo_agents.faults import is_service_failure
from aipo_env.errors import ServiceError
from aipo_env.protocol import Reply, Usage

Result = TypeVar("Result", Reply, Generation)

log = logging.getLogger("aipo_agents")

_NOTABLE_SECONDS: Final = 10.0
"""A wait from here on is a warning, a shorter one is said at level info."""
# Jitter is no part of a result, and must not move the state of the global generator.
_jitter = random.Random()


@dataclasses.dataclass(frozen=True, slots=True)
class Retries:
    """How often a request is tried (`attempts`, the first included), and how many seconds are waited between.

    The wait before attempt n+1 is drawn from [b/2, b] with b = min(max_wait, first_wait * 2^(n-1)), so that callers
    which failed together do not come back together. Where the service said how long to wait (`retry_after`), that is
    waited for instead, plus up to b/2, even beyond `max_wait`. A wait that would end behind the caller's limit or more than
    `max_total` after the first call is not begun: the last error is raised at once.
    """

    attempts: int = 5
    first_wait: float = 0.5
    max_wait: float = 20.0
    max_total: float = 300.0

    async def run(
        self,
        call: Callable[[], Awaitable[Result]],
        name: str,
        *,
        limit: float | None = None,
        confidential: bool = False,
        may_pass: Callable[[BaseException], bool] = is_service_failure,
    ) -> Result:
        """The first result of `call`, with what failed attempts took in its usage; the last error if there is none.

        Args:
            call: one attempt.
            name: of who is asked, for the log.
            limit: seconds that there are in all, beside `max_total`.
            confidential: whether the log leaves out what the service said, which may quote what it was sent.
            may_pass: whether it makes sense to try again after an error.
        """
        end = time.monotonic() + (self.max_total if limit is None else min(self.max_total, limit))
        spent: Usage | None = None
        for number in itertools.count(1):
            try:
                result = await call()
                break
            except Exception as error:
                billed = error.usage if isinstance(error, ServiceError) else None
                spent = spent if billed is None else billed if spent is None else spent + billed
                wait, left = self._wait(number, error), end - time.monotonic()
                if number >= self.attempts or not may_pass(error) or wait > left:
                    if isinstance(error, ServiceError):
                        error.usage = spent
                    raise
                status = error.status if isinstance(error, ServiceError) else None
                kind = type(error).__name__ + ("" if status is None else f" (HTTP {status})")
                level = logging.WARNING if wait >= _NOTABLE_SECONDS else logging.INFO
                said = kind if confidential else error
                log.log(level, "%s: attempt %d failed, again in %.1f s: %s", name, number, wait, said)
            await asyncio.sleep(wait)
        if spent is None or result.usage is None:
            return result
        return dataclasses.replace(result, usage=spent + result.usage)

    def _wait(self, number: int, error: Exception) -> float:
        """Seconds to wait after this many attempts."""
        # Beyond 2^60 the largest wait has long been reached.
        bound = min(self.max_wait, self.first_wait * 2.0 ** min(number - 1, 60))
        asked = error.retry_after if isinstance(error, ServiceError) else None
        # A service that talks nonsense may ask for less than nothing; NaN is not above 0 either.
        if asked is not None and asked > 0:
            return asked + _jitter.uniform(0.0, bound / 2)
        return _jitter.uniform(bound / 2, bound)
