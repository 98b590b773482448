"""HTTP failures as `ServiceError`: what may be tried again, and when."""

from __future__ import annotations

import email.utils
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from aipo_env.errors import ServiceError

_TRANSIENT: Final = frozenset({408, 425, 429})
_HINTS: Final[Mapping[int, str]] = {
    400: "Check the length of the prompt against the server's context window, and the options of the request",
    401: "Set api_key, or the environment variable OPENAI_API_KEY",
    403: "Set api_key, or the environment variable OPENAI_API_KEY, to a key that may use this model",
    404: "Check that base_url ends as the server wants it (mostly in /v1); the names for `model` are at {base}/models",
    413: "Shorten the prompt",
}


def status_error(
    status: int, message: str, headers: Mapping[str, str], base_url: str, asked: str, now: datetime | None = None
) -> ServiceError:
    """The error for an answer whose status is not 200.

    Args:
        status: the HTTP status.
        message: what the server says, already shortened.
        headers: the answer's, looked up without regard to case by `headers` itself.
        base_url: for the hint.
        asked: who was asked for what, as it reads at the start of a sentence.
        now: the time that a Retry-After date counts from, where the answer has no Date of its own.
    """
    said = f": {message.rstrip('.')}" if message else ""
    if 300 <= status < 400:
        where = headers.get("Location", "elsewhere")
        return ServiceError(
            f"{asked} was redirected to {where} (HTTP {status}); an API key is not sent on. Set base_url to the final "
            "address.",
            transient=False,
            status=status,
        )
    transient = status in _TRANSIENT or status >= 500
    if transient:
        hint = "The same request may succeed later"
    else:
        hint = _HINTS.get(status, "The same request will fail again").replace("{base}", base_url)
    wait = retry_after(headers, now) if transient else None
    return ServiceError(
        f"{asked} failed with HTTP {status}{said}. {hint}.", transient=transient, retry_after=wait, status=status
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
