"""What stands between an environment and a helper whose service can be slow, dear, crowded or down.

Each middleware wraps an agent and is one itself, so that they nest in any order; `resilient` nests them in the order
that suits most services. A fault goes through them as an exception (`ServiceError`, `ConnectionError`,
`TimeoutError`); a reply with `error` set is the wrapped agent's own word, and is handed on as it is.
"""

from __future__ import annotations

from aipo_agents.faults import RateLimitTimeout
from aipo_agents.middleware.accounting import Accounting, CostLimit
from aipo_agents.middleware.base import Middleware
from aipo_agents.middleware.cache import Cache
from aipo_agents.middleware.circuit_breaker import CircuitBreaker
from aipo_agents.middleware.coalesce import Coalesce
from aipo_agents.middleware.ledger import Ledger, Prices, RoleUsage
from aipo_agents.middleware.rate_limit import RateLimit
from aipo_agents.middleware.resilient import resilient
from aipo_agents.middleware.retry import Retry
from aipo_agents.middleware.timeout import Timeout

__all__ = [
    "Accounting",
    "Cache",
    "CircuitBreaker",
    "Coalesce",
    "CostLimit",
    "Ledger",
    "Middleware",
    "Prices",
    "RateLimit",
    "RateLimitTimeout",
    "Retry",
    "RoleUsage",
    "Timeout",
    "resilient",
]
