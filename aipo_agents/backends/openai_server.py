"""Any OpenAI-compatible model server over HTTP: vLLM, SGLang, llama.cpp, Ollama, the hosted ones.

Why `aiohttp` and not the `openai` package: hundreds of episodes are in flight at once on one thread, and there the package
and the `httpx` under it spend several times as much processor time on each request, most of it in the connection pool. What
the package would add, parsed answers, is what cannot be used as it is: it builds its models without checking them, and an
answer must be capped in size and strictly checked here before a token of it is learnt from.

A connection is kept for each running event loop. It is closed by `aclose`, and by itself when its loop ends through
`asyncio.run`. A request that is cancelled or times out closes its connection, which makes vLLM stop generating.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import json
import logging
import urllib.parse
import urllib.request
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from aipo_agents.backends.base import ChatSampling, CompletionSampling, Generation, Message
from aipo_agents.backends.http_errors import status_error, transport_error
from aipo_agents.backends.openai_replies import (
    HARMLESS_OPTIONS,
    Json,
    LogprobsMode,
    ServerSays,
    billed,
    chat_generation,
    completion_generation,
    decode_json,
    logprobs_source,
)
from aipo_agents.backends.redaction import ApiKey, check_base_url
from aipo_agents.faults import is_service_failure
from aipo_agents.middleware.rate_budget import RateBudget
from aipo_agents.retrying import Retries
from aipo_env.checks import check_count, check_number
from aipo_env.consulting import in_our_own_line
from aipo_env.errors import ConfigurationError, MissingDependencyError, ServiceError
from aipo_env.installation import install_command

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger("aipo_agents")

_ERROR_BYTES: Final = 65_536
"""So much of a failed request's answer is read for its message."""
_KEEPALIVE_SECONDS: Final = 4.0
"""Below the 5 s after which uvicorn (vLLM) closes an idle connection, or a request would now and then meet the closing."""
_CONNECT_SECONDS: Final = 10.0

_PLAIN_SAMPLING: Final[Mapping[str, Json]] = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Said aloud where ids are wanted: vLLM otherwise takes these from the model's generation_config.json."""

_OUR_OPTIONS: Final = frozenset(
    {
        *("add_special_tokens", "best_of", "echo", "include_stop_str_in_output", "logprobs", "max_completion_tokens"),
        *(
            "include_reasoning",
            "max_tokens",
            "messages",
            "model",
            "n",
            "prompt",
            "prompt_embeds",
            "return_token_ids",
            "seed",
        ),
        *(
            "skip_special_tokens",
            "stop",
            "stop_token_ids",
            "stream",
            "temperature",
            "top_logprobs",
            "top_p",
            "truncate_prompt_tokens",
        ),
        *("use_beam_search",),
    }
)


class OpenAIServer:
    """A model behind an OpenAI-compatible server; a `ChatBackend` and a `CompletionBackend`.

    `chat` works with every such server. Token ids, for `complete` and for `chat` with `logprobs`, need vLLM's
    `return_token_ids`. Proxies are those of the environment (HTTPS_PROXY, NO_PROXY); this machine is reached without one.

    Args:
        base_url: up to and including the version, for example "http://localhost:8000/v1".
        model: the name under which the server serves it.
        api_key: the environment variable OPENAI_API_KEY where it is None; no key is sent where neither is set. It is not
            pickled: see `redaction.ApiKey`.
        timeout: seconds for a whole request, waiting for a connection included.
        max_connections: connections at once for each event loop; further requests wait.
        max_response_bytes: a longer answer is an error, and is not read to its end.
        logprobs_mode: what the server reports: "raw" is vLLM's default; "processed" if it was started with
            `--logprobs-mode processed_logprobs`. See `openai_replies` for what that decides.
        max_tokens_field: hosted reasoning models want "max_completion_tokens".
        extra_body: further fields of every request, for example {"top_k": 20}. With fields that may reshape the
            distribution, raw log-probabilities are None.
        retries: how often a request that failed in a way that may pass is sent again; see `retrying.Retries`. A server
            that failed a request for good gets one attempt a request until it answers again. 0 leaves retrying to who calls.
        requests_per_minute: sent to this address by all of this process that name the same limit; None for no limit.

    Raises:
        ConfigurationError: an argument out of its range.
        MissingDependencyError: aiohttp is not installed.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeout: float = 600.0,
        max_connections: int = 1024,
        max_response_bytes: int = 32 * 2**20,
        logprobs_mode: LogprobsMode = "raw",
        max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        extra_body: Mapping[str, Json] | None = None,
        retries: int = 0,
        requests_per_minute: float | None = None,
    ) -> None:
        self.base_url = check_base_url(base_url)
        if not model:
            raise ConfigurationError(f"model is what the server serves, got ''. GET {self.base_url}/models lists it.")
        self.timeout = check_number("timeout", timeout, what="how long a request may take, in seconds")
        self.max_connections = check_count("max_connections", max_connections, what="how many there are at once")
        self.max_response_bytes = check_count(
            "max_response_bytes", max_response_bytes, what="how long an answer may be"
        )
        if logprobs_mode not in ("raw", "processed"):
            raise ConfigurationError(f"logprobs_mode is 'raw' or 'processed', got {logprobs_mode!r}.")
        if max_tokens_field not in ("max_tokens", "max_completion_tokens"):
            raise ConfigurationError(
                f"max_tokens_field is 'max_tokens' or 'max_completion_tokens', got {max_tokens_field!r}."
            )
        if clash := _OUR_OPTIONS.intersection(extra_body or {}):
            raise ConfigurationError(
                f"extra_body may not hold {', '.join(sorted(clash))}: set by the sampling options, or not supported here."
            )
        self.retries = Retries(check_count("retries", retries, what="how often a request is sent again", least=0) + 1)
        if requests_per_minute is not None:
            check_number("requests_per_minute", requests_per_minute, what="how many requests a minute")
        if importlib.util.find_spec("aiohttp") is None:
            raise MissingDependencyError(
                f"talking to a model server needs aiohttp, which is not installed: {install_command('llm')}"
            )
        self.model = model
        self.logprobs_mode: LogprobsMode = logprobs_mode
        self.extra_body: Mapping[str, Json] = dict(extra_body or {})
        self.requests_per_minute = requests_per_minute
        self._max_tokens_field = max_tokens_field
        self._key = ApiKey(api_key)
        self._failing = False
        self._sessions: dict[asyncio.AbstractEventLoop, _Session] = {}

    def __repr__(self) -> str:
        return f"OpenAIServer({self.base_url!r}, {self.model!r})"

    def __getstate__(self) -> dict[str, object]:
        # Connections stay in their process: a copy (an environment that is sent to a worker) opens its own.
        return {**self.__dict__, "_sessions": {}}

    async def chat(self, messages: Sequence[Message], sampling: ChatSampling) -> Generation:
        """The assistant's next message. With `sampling.logprobs` the ids come too, which needs vLLM.

        Raises:
            ServiceError: when the server cannot be reached, is overloaded, or answers what is no answer.
        """
        source = logprobs_source(sampling, self.logprobs_mode, altered=self._altered)
        body: dict[str, Json] = {"messages": [{"role": m.role, "content": m.content} for m in messages]}
        body |= self._sampling(sampling)
        if sampling.logprobs:
            # Only here: servers that know nothing of these fields may refuse them.
            body |= {**_PLAIN_SAMPLING, "return_token_ids": True}
            if source == "reported":
                body["logprobs"] = True
        read = functools.partial(chat_generation, where=self._where, source=source, want_ids=sampling.logprobs)
        return await self._ask("chat/completions", body, read)

    async def complete(self, token_ids: Sequence[int], sampling: CompletionSampling) -> Generation:
        """What the model samples behind `token_ids`, as ids, an end token included where it was sampled. Needs vLLM.

        A stop string belongs to the text and its tokens to the ids; the last token may reach past it.

        Raises:
            ServiceError: when the server cannot be reached, is overloaded, or answers what is no answer.
        """
        prompt = [int(i) for i in token_ids]
        if not prompt:
            raise ConfigurationError("complete needs at least one token id to continue, got none.")
        source = logprobs_source(sampling, self.logprobs_mode, altered=self._altered)
        body: dict[str, Json] = {"prompt": [*prompt], **self._sampling(sampling), **_PLAIN_SAMPLING}
        # A stop string may be one special token: it would be invisible to the search if those were skipped.
        if sampling.stop_ids:
            body["stop_token_ids"] = list(sampling.stop_ids)
        body |= {"return_token_ids": True, "include_stop_str_in_output": True, "skip_special_tokens": False}
        if source == "reported":
            body["logprobs"] = 0  # of the sampled token, without alternatives
        read = functools.partial(completion_generation, where=self._where, source=source, prompt_ids=prompt)
        return await self._ask("completions", body, read)

    async def aclose(self) -> None:
        """Closes the connections of every event loop; the server may be used again."""
        here = asyncio.get_running_loop()
        for loop in list(self._sessions):
            session = self._sessions.pop(loop, None)
            if session is None:
                continue
            if loop is here:
                await session.lifetime.aclose()
            elif loop.is_running():
                closing = asyncio.run_coroutine_threadsafe(_close(session), loop)
                await asyncio.wait([asyncio.wrap_future(closing)], timeout=5)
            elif not loop.is_closed():
                # It rests between two calls; it closes them when it next runs, or ends.
                loop.call_soon_threadsafe(_close_soon, loop, session)

    @property
    def _where(self) -> str:
        return f"{self.base_url} (model {self.model!r})"

    @property
    def _altered(self) -> bool:
        return not HARMLESS_OPTIONS.issuperset(self.extra_body)

    def _sampling(self, sampling: ChatSampling | CompletionSampling) -> dict[str, Json]:
        body: dict[str, Json] = {
            "model": self.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        limit = self._max_tokens_field if isinstance(sampling, ChatSampling) else "max_tokens"
        body[limit] = sampling.max_tokens
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if isinstance(sampling, ChatSampling) and sampling.reasoning_effort is not None:
            body["reasoning_effort"] = sampling.reasoning_effort
        if isinstance(sampling, ChatSampling) and sampling.chat_template_kwargs:
            body["chat_template_kwargs"] = {**sampling.chat_template_kwargs}
        if twice := self.extra_body.keys() & body.keys() & {"reasoning_effort", "chat_template_kwargs"}:
            raise ConfigurationError(
                f"{', '.join(sorted(twice))}: set by the sampling options and by the server's extra_body; set it in one place."
            )
        return body

    async def _ask(self, path: str, body: dict[str, Json], read: Callable[[dict[str, Json]], Generation]) -> Generation:
        """What comes back, as often as it is tried."""

        def may_pass(error: BaseException) -> bool:
            return is_service_failure(error) and not self._failing

        try:
            # What the server says may quote a confidential prompt, and stays out of the log.
            generation = await self.retries.run(
                lambda: self._try(path, body, read), self._where, confidential=True, may_pass=may_pass
            )
        except ServiceError as error:
            self._failing = error.transient
            raise
        self._failing = False
        return generation

    async def _try(self, path: str, body: dict[str, Json], read: Callable[[dict[str, Json]], Generation]) -> Generation:
        """One attempt; what the server says of itself goes no further with a key in it."""
        answer = None
        alone = self.retries.attempts == 1 and self.requests_per_minute is None
        budget = None if alone else _budget(self.base_url, self.requests_per_minute)
        if budget is not None:
            with in_our_own_line():
                await budget.admit(self._where)
        try:
            answer = await self._post(path, body)
            if (says := ServerSays.of(answer)) is not None:
                raise status_error(says, {}, self.base_url, f"{self.base_url}/{path} (model {self.model!r})")
            return read(answer)
        except ServiceError as error:
            error.args = (self._key.hide(str(error)),)
            error.usage = billed(answer)
            if hasattr(error.__cause__, "request_info"):
                # It shows the headers that were sent, key included.
                error.__cause__ = error.__context__ = None
            if budget is not None:
                budget.spare(error, self._where)
            raise

    async def _post(self, path: str, body: dict[str, Json]) -> dict[str, Json]:
        import aiohttp

        # ASCII escapes: a text that no UTF-8 can hold must not end the run here.
        data = json.dumps({**body, **self.extra_body}).encode("ascii")
        session = self._session()
        if session is None:
            session = await self._open_session()
        asked = f"{self.base_url}/{path} (model {self.model!r})"
        try:
            # Redirects would carry the prompt, and the key, to an address that nobody configured.
            async with session.client.post(f"{self.base_url}/{path}", data=data, allow_redirects=False) as response:
                if response.status != 200:
                    says = ServerSays.read(await self._read(response, _ERROR_BYTES, cut=True), response.status)
                    raise status_error(says, response.headers, self.base_url, asked)
                return decode_json(await self._read(response, self.max_response_bytes), asked)
        except (aiohttp.ClientError, OSError, zlib.error) as error:
            # ServiceError is an OSError too: what was raised above stays as it is.
            if isinstance(error, ServiceError):
                raise
            raise transport_error(error, self.base_url, self.model, asked, self.timeout) from error

    async def _read(self, response: aiohttp.ClientResponse, limit: int, *, cut: bool = False) -> bytes:
        """The body, at most `limit` bytes: a longer one is cut or an error. The rest is not read: the connection closes."""
        parts, size = [], 0
        declared = response.content_length or 0
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        # Asked for as it is, and packed all the same: in either of two formats, told by its head.
        unpack = zlib.decompressobj(47) if encoding in ("gzip", "x-gzip", "deflate") else None
        if unpack is None and encoding != "identity":
            raise ServiceError(
                f"{self._where} sent a body packed as {encoding!r}, which was not asked for. Turn compression off there, or in "
                "the proxy in front of it.",
                transient=False,
                status=response.status,
            )
        if declared <= limit or cut:
            async for chunk in response.content.iter_any():
                # A few bytes may unpack to gigabytes.
                parts.append(chunk if unpack is None else unpack.decompress(chunk, limit + 1 - size))
                size += len(parts[-1])
                if size > limit:
                    break
            else:
                return self._key.hide_in_body(b"".join(parts))
        response.close()
        if cut:
            return self._key.hide_in_body(b"".join(parts))[:limit]
        raise ServiceError(
            f"{self._where} sent an answer of more than {limit} bytes ({declared or size} so far). Set max_tokens lower, or "
            "max_response_bytes higher if answers are really that long.",
            transient=False,
            status=200,
        )

    def _session(self) -> _Session | None:
        session = self._sessions.get(asyncio.get_running_loop())
        return None if session is None or session.client.closed else session

    async def _open_session(self) -> _Session:
        for loop in [loop for loop in self._sessions if loop.is_closed()]:
            self._sessions.pop(loop, None)
        lifetime = self._lifetime()
        # Runs without a pause up to the generator's `yield`: no second caller can come between.
        session = self._sessions[asyncio.get_running_loop()] = _Session(await anext(lifetime), lifetime)
        return session

    async def _lifetime(self) -> AsyncGenerator[aiohttp.ClientSession, None]:
        """Holds a client open. A generator, because an event loop that shuts down closes those, but no other object."""
        import aiohttp

        loop = asyncio.get_running_loop()
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self._key.value:
            headers["Authorization"] = f"Bearer {self._key.value}"
        client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.max_connections, keepalive_timeout=_KEEPALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=self.timeout, sock_connect=min(self.timeout, _CONNECT_SECONDS)),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            # Not trust_env: with it a password from ~/.netrc takes the place of the key.
            proxy=proxy_of(self.base_url),
        )
        try:
            yield client
        finally:
            self._sessions.pop(loop, None)
            await client.close()


class _Session:
    """A client and the generator that keeps it open."""

    def __init__(self, client: aiohttp.ClientSession, lifetime: AsyncGenerator[aiohttp.ClientSession, None]) -> None:
        self.client, self.lifetime = client, lifetime
        self.closing: asyncio.Task[None] | None = None
        """Held, because a loop holds its tasks weakly."""


@functools.lru_cache(maxsize=256)
def _budget(base_url: str, requests_per_minute: float | None) -> RateBudget:
    """How much a server may be sent: one for all objects that name the same address and limit."""
    return RateBudget(None if requests_per_minute is None else requests_per_minute / 60, None, 1.0)


def proxy_of(base_url: str) -> str | None:
    """The proxy that the environment names for an address; None for this machine's own, and where there is none."""
    parts = urllib.parse.urlsplit(base_url)
    host = parts.hostname or ""
    if host in ("localhost", "::1") or host.startswith("127.") or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy is None or proxy.startswith(("http://", "https://")):
        return proxy
    log.warning("%s is asked without the environment's proxy: only http:// and https:// ones can be used.", base_url)
    return None


async def _close(session: _Session) -> None:
    await session.lifetime.aclose()


def _close_soon(loop: asyncio.AbstractEventLoop, session: _Session) -> None:
    session.closing = loop.create_task(_close(session))
