"""The model servers that a command is told of: the policy's, the helpers', and how they are asked."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from aipo_agents.backends.redaction import check_base_url
from aipo_env.errors import ConfigurationError
from aipo_env.make_options import AgentLike
from aipo_env.registry import DEFAULT_AGENTS, parse_agents

if TYPE_CHECKING:
    from aipo_agents.backends.openai_server import OpenAIServer

RETRIES: Final = 4


@dataclasses.dataclass(frozen=True)
class Servers:
    """The options of a command that speak of servers.

    Raises:
        ConfigurationError: for options that contradict each other, and addresses that are none or hold a password.
    """

    server: str | None = None
    """Address of an OpenAI-compatible server that returns token ids (vLLM), such as http://localhost:8000/v1, whose model
    plays the policy; `policy` then names the tokenizer alone."""
    model: str | None = None
    """The name under which the server serves the policy."""
    helper_server: str | None = None
    """Address of a server whose model plays those helpers that are given by name alone."""
    helper_model: str | None = None
    """The name under which it serves that model."""
    retries: int | None = None
    """How often a server is sent again what failed in a way that may pass (4)."""
    requests_per_minute: float | None = None
    """Requests that a server is sent a minute, by policy and helpers together; no limit if left out."""

    def __post_init__(self) -> None:
        for address, name, flag in ((self.server, self.model, ""), (self.helper_server, self.helper_model, "helper-")):
            if (address is None) != (name is None):
                raise ConfigurationError(
                    f"--{flag}server and --{flag}model go together: the address, and the model served there."
                )
            if address is not None:
                check_base_url(address, f"--{flag}server")
        given = (self.retries, self.requests_per_minute) != (None, None)
        if given and self.server is None and self.helper_server is None:
            raise ConfigurationError(
                "--retries and --requests-per-minute are for --server and --helper-server, and there is none; leave them out."
            )

    def policy(self, timeout: float = 600.0) -> OpenAIServer:
        """The policy's model, which has so many seconds for a request; there must be one."""
        from aipo_agents.backends.openai_server import OpenAIServer

        assert self.server is not None and self.model is not None  # noqa: PT018
        return OpenAIServer(self.server, self.model, timeout=timeout, **self._asking)

    def agents(self, agents: Sequence[str]) -> dict[str, AgentLike] | None:
        """The helpers of a command line, each "name" or "name=...", as for `make_agent`; none for the environment's default."""
        named: dict[str, AgentLike] = dict(parse_agents(agents) or {})
        if self.helper_server is None or self.helper_model is None:
            return named or None
        from aipo_agents.llm import LLMAgent

        for name in named or DEFAULT_AGENTS:
            if named.get(name, name) == name:
                # Made with the environment, which then closes it.
                named[name] = functools.partial(
                    LLMAgent.from_server, name, self.helper_server, self.helper_model, **self._asking
                )
        return named

    @property
    def _asking(self) -> dict[str, Any]:
        retries = RETRIES if self.retries is None else self.retries
        return {"retries": retries, "requests_per_minute": self.requests_per_minute}
