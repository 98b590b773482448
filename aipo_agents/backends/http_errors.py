"""HTTP failures as `ServiceError`: what may be tried again, and when."""

from __future__ import annotations

import email.utils
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

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


def status_error(
    status: int | None,
    message: str,
    headers: Mapping[str, str],
    base_url: str,
    asked: str,
    kind: str = "",
    now: datetime | None = None,
) -> ServiceError:
    """The error for an answer that is an error, by its status or by its body.

    Args:
        status: the HTTP status, or the one in the body of an answer with status 200; None where there is none.
        message: what the server says, already shortened.
        headers: the answer's, looked up without regard to case by `headers` itself.
        base_url: for the hint.
        asked: who was asked for what, as it reads at the start of a sentence.
        kind: the server's own word for the kind of error, where it has one.
        now: the time that a Retry-After date counts from, where the answer has no Date of its own.
    """
    said = f": {message.rstrip('.')}" if message else ""
    named = f"HTTP {status}" if status is not None else "an error"
    if status is not None and 300 <= status < 400:
        where = headers.get("Location", "elsewhere")
        return ServiceError(
            f"{asked} was redirected to {where} ({named}); an API key is not sent on. Set base_url to the final address.",
            transient=False,
            status=status,
        )
    passing = "invalid" not in kind if status is None else status in _TRANSIENT or 500 <= status not in _FINAL
    # No waiting refills an account.
    transient = passing and kind not in _NO_MONEY
    wait = retry_after(headers, now) if transient else None
    if not transient:
        hint = _HINTS.get(status or 0, "The same request will fail again").replace("{base}", base_url)
    elif wait:
        hint = f"The server asks for a wait of {wait:.0f} s; the same request may succeed then"
    else:
        hint = "The same request may succeed later"
    return ServiceError(
        f"{asked} failed with {named}{said}. {hint}.", transient=transient, retry_after=wait, status=status
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
