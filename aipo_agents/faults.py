"""Which failures of a helper may pass by themselves."""

from __future__ import annotations

from aipo_env.errors import ServiceError


class RateLimitTimeout(TimeoutError):
    """A request's time was up while it stood in our own line; the service has nothing to do with it."""


def is_service_failure(error: BaseException) -> bool:
    """Whether a service failed in a way that may be over later: it makes sense to try again, and to spare it a while.

    A `ServiceError` says so itself; lost connections and time limits count; a bug (any other exception), a cancelled
    call and our own waiting line do not.
    """
    if isinstance(error, ServiceError):
        return error.transient
    return isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, RateLimitTimeout)
