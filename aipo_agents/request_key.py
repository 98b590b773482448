"""Which requests to a helper are the same request: the key that caches and coalescing go by."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from aipo_env.protocol import Agent, ConsultRequest

KeyPart: TypeAlias = "str | int | float | bool | Sequence[KeyPart] | Mapping[str, KeyPart] | None"
"""What a key can be made of: values that JSON can write."""


@dataclasses.dataclass(frozen=True, slots=True)
class RequestKey:
    """What a reply depends on, as one hash."""

    digest: str
    """Hash of model, messages, sampling parameters and seed: equal digests may share a reply."""
    deterministic: bool
    """Greedy: the same request always gives the same reply."""


@runtime_checkable
class KeyedAgent(Protocol):
    """A helper that says what its replies depend on."""

    def request_key(self, request: ConsultRequest) -> RequestKey:
        """The key of a request; it reads no clock and makes no call."""
        ...


def key_digest(*parts: KeyPart) -> str:
    """The SHA-256 of values that JSON can write, in hexadecimal; the same in every process and on every machine.

    Example:
        >>> key_digest("model", {"temperature": 0.0}, None)[:12]
        '6dd516be7d2d'
    """
    # Escaped to ASCII, so that a lone surrogate in a sampled text has a digest too; `repr` of a float is exact.
    text = json.dumps(parts, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def request_key(agent: Agent, request: ConsultRequest) -> RequestKey:
    """The key of a request to a helper: its own `request_key` where it has one, else a cautious one.

    The cautious key tells apart everything in the request but the deadline, and helpers by class and name. It knows
    nothing of how a helper was set up, and takes it for one that samples.
    """
    if isinstance(agent, KeyedAgent):
        return agent.request_key(request)
    kind = type(agent)
    digest = key_digest(
        kind.__module__,
        kind.__qualname__,
        agent.name,
        request.query,
        request.transcript,
        request.task_id,
        request.seed,
        *request.hints,
    )
    return RequestKey(digest, deterministic=False)
