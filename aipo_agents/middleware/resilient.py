"""resilient: all middleware around one agent, in the order that suits most services."""

from __future__ import annotations

import os

from aipo_agents.middleware.accounting import Accounting, CostLimit
from aipo_agents.middleware.cache import Cache
from aipo_agents.middleware.circuit_breaker import CircuitBreaker
from aipo_agents.middleware.coalesce import Coalesce
from aipo_agents.middleware.ledger import Ledger, Prices
from aipo_agents.middleware.rate_limit import RateLimit
from aipo_agents.middleware.retry import Retry
from aipo_agents.middleware.timeout import Timeout
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import Agent


def resilient(
    agent: Agent,
    *,
    folder: str | os.PathLike[str] | None = None,
    size_limit: int = 2**30,
    namespace: str = "",
    timeout: float = 60.0,
    attempts: int = 5,
    first_wait: float = 0.5,
    max_wait: float = 20.0,
    max_total: float = 300.0,
    failures: int = 10,
    cooldown: float = 10.0,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    completion_tokens: int = 256,
    prices: Prices | None = None,
    ledger: Ledger | None = None,
    max_cost_usd: float | None = None,
) -> Accounting:
    """Wraps an agent so that a slow, crowded or failing service costs as little as it can.

    From the outside in, and why:

    1. `Accounting` sees what the environment asked for, cached or not.
    2. `Coalesce` stands before the cache, so that identical requests in flight look it up once and none slips through
       between a miss and the write.
    3. `Cache` stands before everything that waits: a hit needs no turn, no permit and no living service. Only with
       `folder`.
    4. `CostLimit` stands behind the cache, whose replies cost nothing. Only with `max_cost_usd`.
    5. `Retry` stands around all that one attempt goes through, and waits out what the breaker says.
    6. `CircuitBreaker` counts attempts, not requests; while it is open an attempt takes no permit.
    7. `RateLimit` gives every attempt a permit, as the service counts them. Only with a limit.
    8. `Timeout` is innermost, so that it measures the service and not our own waiting.

    Args:
        agent: the agent to wrap.
        folder: where replies are kept; None for no cache.
        size_limit: bytes of all kept replies together.
        namespace: see `Cache`.
        timeout: seconds that one attempt may take.
        attempts: calls in all for one request.
        first_wait: seconds before the second attempt, at most; it doubles from there.
        max_wait: the largest wait between attempts, in seconds.
        max_total: seconds within which the last attempt has to begin.
        failures: failures in a row after which the service is left alone.
        cooldown: seconds for which it is left alone.
        requests_per_minute: None for no limit.
        tokens_per_minute: None for no limit.
        completion_tokens: tokens of a reply, for the estimate before the call.
        prices: of the model, for the cost in the ledger.
        ledger: one to share with other agents.
        max_cost_usd: US dollars, of all that enter the ledger, after which nobody is asked any more; needs `prices`.

    Raises:
        ConfigurationError: a number out of its range, a cache that needs a namespace, or a limit of unknown cost.
    """
    stack: Agent = Timeout(agent, timeout)
    if requests_per_minute is not None or tokens_per_minute is not None:
        stack = RateLimit(stack, requests_per_minute, tokens_per_minute, completion_tokens=completion_tokens)
    stack = CircuitBreaker(stack, failures, cooldown)
    stack = Retry(stack, attempts, first_wait=first_wait, max_wait=max_wait, max_total=max_total)
    if max_cost_usd is not None:
        if prices is None:
            raise ConfigurationError(
                "resilient: max_cost_usd needs prices=Prices(prompt=..., completion=...): no server tells its cost."
            )
        ledger = Ledger() if ledger is None else ledger
        stack = CostLimit(stack, max_cost_usd, ledger)
    if folder is not None:
        stack = Cache(stack, folder, size_limit, namespace=namespace)
    return Accounting(Coalesce(stack), prices, ledger=ledger)
