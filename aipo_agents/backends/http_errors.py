"""HTTP failures as `ServiceError`: what may be tried again, and when."""

from __future__ import annotations

import email.utils
import math
import urllib.parse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from aipo_agents.backends.openai_replies import ServerSays
from aipo_env.errors import ServiceError

_TRANSIENT: Final = frozenset({408, 409, 425, 429})
_FINAL: Final = frozenset({501, 505})
_NO_MONEY: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_HINTS: Final[Mapping[int, str]] = {
    400: "Check the length of the prompt against the server's context window, and the options of the request",
    401: "Set api_key, or the environment variable OPENAI_API_KEY",
    402: "Pay, or raise the account's limit",
    403: "Set api_key, or the environment variable OPENAI_API_KEY, to a key that may use this model",
    404: "Check that base_url ends as the server wants it (mostly in /v1); the names for `model` are at {base}/models",
    407: "Put the proxy's user name and password into the environment variable that names the proxy",
    413: "Shorten the prompt",
    429: "The account's quota is used up: raise it",
}


def status_error(says: ServerSays, headers: Mapping[str, str], base_url: str, asked: str) -> ServiceError:
    """The error for an answer that is an error, by its status or by its body.

    Args:
        says: what the server says.
        headers: the answer's, looked up without regard to case by `headers` itself.
        base_url: for the hint.
        asked: who was asked for what, as it reads at the start of a sentence.
    """
    status = says.status
    said = f": {says.message.rstrip('.')}" if says.message else ""
    named = f"HTTP {status}" if status is not None else "an error"
    if status is not None and 300 <= status < 400:
        where = headers.get("Location", "elsewhere")
        return ServiceError(
            f"{asked} was redirected to {where} ({named}); an API key is not sent on. Set base_url to the final address.",
            transient=False,
            status=status,
        )
    passing = "invalid" not in says.kind if status is None else status in _TRANSIENT or 500 <= status not in _FINAL
    # No waiting refills an account.
    transient = passing and says.kind not in _NO_MONEY
    wait = retry_after(headers) if transient else None
    if not transient:
        hint = _HINTS.get(status or 0, "The same request will fail again").replace("{base}", base_url)
    elif wait:
        hint = f"The server asks for a wait of {wait:.0f} s; the same request may succeed then"
    else:
        hint = "The same request may succeed later"
    return ServiceError(
        f"{asked} failed with {named}{said}. {hint}.", transient=transient, retry_after=wait, status=status
    )


def transport_error(error: Exception, base_url: str, model: str, asked: str, timeout: float) -> ServiceError:
    """The error for a request that brought no whole answer.

    Args:
        error: of aiohttp, the system or zlib.
        base_url: the server's.
        model: that was asked for.
        asked: who was asked for what, as it reads at the start of a sentence.
        timeout: seconds that the request had.
    """
    import aiohttp

    if isinstance(error, TimeoutError):
        return ServiceError(
            f"{asked} gave no answer within {timeout:g} s. The server is overloaded or hangs; look at its log, or set timeout "
            "higher."
        )
    if isinstance(error, aiohttp.ClientSSLError):
        return ServiceError(
            f"{base_url} does not answer in TLS that is trusted here ({error.os_error}). Name the file of its certificate's "
            "authority (of itself, where it is self-signed) in the environment variable SSL_CERT_FILE; if it speaks plain "
            "HTTP, set base_url to http://.",
            transient=False,
        )
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return ServiceError(
            f"{asked} goes through the environment's proxy, which does not answer ({error}). Correct HTTPS_PROXY (HTTP_PROXY), "
            "or name the server's host in NO_PROXY."
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return ServiceError(
            f"no model server answers at {base_url} ({error}). Start one there, for example `vllm serve {model} --port "
            f"{urllib.parse.urlsplit(base_url).port or 8000}`, or set base_url to where it is."
        )
    return ServiceError(
        f"{asked} broke off ({type(error).__name__}: {error}). The server died or dropped the connection; look at its log. The "
        "same request may succeed later."
    )


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a `Retry-After` header asks to wait (RFC 9110, 10.2.3); None where there is none that can be read.

    Args:
        headers: of the answer.
        now: the time that a date counts from. The answer's own `Date` comes first: the server's clock may differ from ours.
    """
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        date = _date(value)
        if date is None:
            return None
        start = _date(headers.get("Date", "")) or now or datetime.now(UTC)
        seconds = (date - start).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _date(text: str) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
