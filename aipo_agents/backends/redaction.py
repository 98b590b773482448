"""What must not be written down: API keys, and user names and passwords in addresses."""

from __future__ import annotations

import json
import os
import re
import urllib.parse
import uuid
import weakref
from typing import Final

from aipo_env.errors import ConfigurationError

VARIABLE: Final = "OPENAI_API_KEY"
HIDDEN: Final = "***"

_SHORT: Final = 8
"""A key with fewer characters ("EMPTY") may be part of any text: it is hidden behind "Bearer" alone."""
# Credentials of a header, keys that show by their beginning, and what stands before the "@" of an address.
_FOREIGN: Final = re.compile(
    r"(?i)(?<=\bbearer )[^\s\"',;]{16,}|(?<=\bbasic )[^\s\"',;]{16,}|\b(?:sk|pk|rk|hf|gsk|xai|nvapi)[-_][\w-]{16,}"
    r"|(?<=://)[^/\s@\"']+(?=@)"
)
_here: weakref.WeakValueDictionary[str, ApiKey] = weakref.WeakValueDictionary()


def check_base_url(url: str, name: str = "base_url") -> str:
    """A server's address without the slash at its end; `name` is that of the option, for messages.

    Raises:
        ConfigurationError: for what is no address, or holds a user name, a password or a query; none of these is repeated.
    """
    text = str(url)
    shown = re.sub(r"^([a-z]*://)?.*@", r"\1", re.split("[?#;]", text, maxsplit=1)[0])
    shown = re.sub(r":(?!//|\d+(?:/|$)|[^\[]*\]).*", f":{HIDDEN}", shown)  # no port: it may be a password
    try:
        parts = urllib.parse.urlsplit(text)
        host = parts.hostname or ""
        host.encode("idna")
        good = parts.scheme in ("http", "https") and host and parts.port != 0 and not re.search(r"[\s;]", text)
    except ValueError:
        good, parts = "", urllib.parse.SplitResult("", "", "", "", "")
    if "@" in parts.netloc:
        raise ConfigurationError(
            f"{name} holds a user name or a password, which would end up in logs and recorded commands; expected "
            f"{shown!r}. Leave out what stands before the '@'; a key goes into the environment variable {VARIABLE}."
        )
    if not good or parts.query or parts.fragment:
        raise ConfigurationError(
            f"{name} is an address such as 'http://localhost:8000/v1', got {shown!r}"
            f"{' and more behind it' if re.search('[?#;]', text) else ''}. Give scheme, host and path, and no more."
        )
    return text.rstrip("/")


class ApiKey:
    """A key that is neither shown nor pickled.

    A copy in the same process is the same object. In another process it is the environment variable's value there, if it
    was the variable's here; a key that was passed as an argument stays behind.

    Args:
        value: the key; None takes the environment variable OPENAI_API_KEY, "" is no key.

    Raises:
        ConfigurationError: for characters that no HTTP header can carry.
    """

    def __init__(self, value: str | None) -> None:
        self._from_environment = value is None
        self._value: str | None = os.environ.get(VARIABLE, "") if value is None else value
        if not (self._value.isascii() and self._value.isprintable()):
            raise ConfigurationError("api_key holds characters that no HTTP header can carry; check for a line break.")
        # Some servers write a slash in JSON as "\\/".
        quoted = json.dumps(self._value)[1:-1]
        forms = {self._value, quoted, quoted.replace("/", "\\/"), urllib.parse.quote(self._value, safe="")}
        if len(self._value) < _SHORT:
            forms = {f"Bearer {self._value}"} if self._value else set()
        self._forms = sorted(forms, key=len, reverse=True)
        self._handle = uuid.uuid4().hex
        _here[self._handle] = self

    @property
    def value(self) -> str:
        """The key, "" for none; ConfigurationError in another process than the one in which it was given."""
        if self._value is None:
            raise ConfigurationError(
                f"a model server's key does not travel to other processes, and this one got a copy without it. Leave out "
                f"api_key, and set the environment variable {VARIABLE} in every process."
            )
        return self._value

    def hide(self, text: str) -> str:
        """A text of a server, or about one, without this key and what looks like one."""
        for form in self._forms:
            text = text.replace(form, HIDDEN)
        return _FOREIGN.sub(HIDDEN, text)

    def hide_in_body(self, raw: bytes) -> bytes:
        """The bytes of an answer without this key."""
        for form in self._forms:
            raw = raw.replace(form.encode("ascii"), HIDDEN.encode("ascii"))
        return raw

    def __repr__(self) -> str:
        return f"ApiKey({HIDDEN if self._value else ''})"

    def __reduce__(self) -> tuple[object, ...]:
        return _found_here, (self._handle, self._from_environment)


def _found_here(handle: str, from_environment: bool) -> ApiKey:
    if (key := _here.get(handle)) is not None:
        return key
    key = ApiKey(None if from_environment else "")
    if not from_environment:
        key._value = None
    return key
