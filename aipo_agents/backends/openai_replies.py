"""What an OpenAI-compatible server answers, checked: JSON in, `Generation` out. No I/O.

A policy's turn is learnt from: nothing of it is guessed or repaired, and one that is not what was asked for is a
`ServiceError`. A helper's message is text that is read: servers differ in how they spell it, and each spelling is taken.

**When a reported log-probability is that of the distribution really sampled from** (`logprobs_source`). A server reports
either the model's own distribution ("raw": vLLM's default) or the one behind temperature, top-p and penalties ("processed":
vLLM started with `--logprobs-mode processed_logprobs`).

* temperature 0 is a point mass: every log-probability is 0.0, whatever is reported;
* "raw" is the sampling distribution only where nothing reshapes it: temperature 1, top-p 1, no other option that could;
* "processed" always is, from temperature 0.01 on: below it vLLM samples at 0.01, or greedily;
* anything else is unknown, and unknown is None.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Final, Literal, TypeAlias

from aipo_agents.backends.base import ChatSampling, CompletionSampling, Generation
from aipo_env.errors import ServiceError
from aipo_env.protocol import FinishReason, Usage

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""A value that JSON can hold."""

LogprobsMode = Literal["raw", "processed"]
LogprobsSource = Literal["reported", "point mass", "unknown"]

LEAST_TEMPERATURE: Final = 0.01
"""vLLM raises a lower temperature above 0 to this."""

HARMLESS_OPTIONS: Final = frozenset(
    {
        "cache_salt",
        "chat_template",
        "chat_template_kwargs",
        "metadata",
        "priority",
        "reasoning_effort",
        "request_id",
        "service_tier",
        "session_id",
        "store",
        "user",
    }
)
"""Options of a request that leave the distribution over the next token, given the prompt, as it is."""

_ENDED: Final = ("stop", "eos_token", "eos", "stop_sequence", "end_turn")
_CUT: Final = ("length", "max_tokens", "model_length")
_ROUNDING: Final = 1e-3
_RETURN_TOKEN_IDS: Final = (
    "Use vLLM >= 0.10.2 (`vllm serve`), which takes the request option `return_token_ids`, and see that no proxy in front "
    "of it drops that field"
)


def logprobs_source(
    sampling: ChatSampling | CompletionSampling, mode: LogprobsMode, *, altered: bool = False
) -> LogprobsSource:
    """Where the log-probabilities of what is sampled come from; see the top of the file.

    Args:
        sampling: how it is sampled.
        mode: what the server reports.
        altered: whether the request carries options that may reshape the distribution, a penalty for example.
    """
    if not sampling.logprobs:
        return "unknown"
    if sampling.temperature == 0:
        return "point mass"
    if mode == "processed":
        return "reported" if sampling.temperature >= LEAST_TEMPERATURE else "unknown"
    return "reported" if sampling.temperature == 1 and sampling.top_p == 1 and not altered else "unknown"


def decode_json(raw: bytes, where: str) -> dict[str, Json]:
    """The JSON object that `raw` is."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ServiceError(
            f"{where} answered {raw[:80]!r}, which is not JSON ({error}). Is base_url a model server's, and the proxy in "
            "front of it up?",
            status=200,
        ) from None
    if not isinstance(value, dict):
        raise _wrong(where, "a JSON object", value)
    return value


def chat_generation(answer: dict[str, Json], where: str, source: LogprobsSource, *, want_ids: bool) -> Generation:
    """The generation in an answer of `/chat/completions`.

    Args:
        answer: the decoded body.
        where: who answered, for messages.
        source: where log-probabilities come from.
        want_ids: whether token ids were asked for.

    Raises:
        ServiceError: where the answer is not what was asked for.
    """
    choice = _choice(answer, where)
    message = choice.get("message")
    content = _text(message.get("content")) if isinstance(message, dict) else None
    if content is None or not isinstance(message, dict):
        raise _wrong(where, "choices[0].message.content as text", message)
    # vLLM says `reasoning`; SGLang, llama.cpp, DeepSeek and older vLLM `reasoning_content`; others send it as parts.
    told = [message.get("reasoning"), message.get("reasoning_content"), _thoughts(message.get("content"))]
    reasoning = next((value for value in told if isinstance(value, str) and value.strip()), "")
    ids = _token_ids(choice, where) if want_ids else None
    reported: list[Json] | None = None
    if source == "reported" and isinstance(logprobs := choice.get("logprobs"), dict):
        entries = logprobs.get("content")
        if isinstance(entries, list):
            reported = [entry.get("logprob") if isinstance(entry, dict) else None for entry in entries]
    # Of a message the text is taken as it is, whatever ended it: a filter, a call of a tool, a stop by another name.
    finish: FinishReason = "length" if _reason(choice, where) in _CUT else "stop"
    generation = _generation(content, ids, reported, finish, answer, where, source)
    return dataclasses.replace(generation, reasoning=reasoning)


def completion_generation(
    answer: dict[str, Json], where: str, source: LogprobsSource, *, prompt_ids: list[int]
) -> Generation:
    """The generation in an answer of `/completions` to token ids; its ids are never None.

    Args:
        answer: the decoded body.
        where: who answered, for messages.
        source: where log-probabilities come from.
        prompt_ids: what was sent.

    Raises:
        ServiceError: where the answer is not what was asked for.
    """
    choice = _choice(answer, where)
    text = choice.get("text")
    if not isinstance(text, str):
        raise _wrong(where, "choices[0].text as text", text)
    echoed = choice.get("prompt_token_ids")
    if echoed is not None and echoed != prompt_ids:
        size = f"{len(echoed)} ids" if isinstance(echoed, list) else type(echoed).__name__
        raise ServiceError(
            f"{where} continued another prompt than the {len(prompt_ids)} ids that it was sent ({size}). Policy and server "
            "must use the same tokenizer, and the server must neither truncate prompts nor add tokens to them.",
            transient=False,
        )
    ids = _token_ids(choice, where)
    reported: list[Json] | None = None
    if source == "reported" and isinstance(logprobs := choice.get("logprobs"), dict):
        entries = logprobs.get("token_logprobs")
        reported = entries if isinstance(entries, list) else None
    reason = _reason(choice, where)
    if reason not in (*_ENDED, *_CUT, None):
        raise _wrong(where, "finish_reason 'stop' or 'length'", reason)
    # Where no reason is given, whoever holds the tokenizer sees whether the ids end as a turn does.
    return _generation(text, ids, reported, "stop" if reason in _ENDED else "length", answer, where, source)


@dataclasses.dataclass(frozen=True, slots=True)
class ServerSays:
    """What a server says about a request that failed."""

    message: str
    """In at most 500 characters."""
    status: int | None = None
    """Of the answer, or the one that the body names where the answer's is 200."""
    kind: str = ""
    """Its own word for the kind of error: "insufficient_quota"."""

    @classmethod
    def read(cls, raw: bytes, status: int) -> ServerSays:
        """What the body of an answer with an error's status says."""
        try:
            says = cls.of(json.loads(raw))
        except (ValueError, RecursionError):
            says = None
        if says is None:
            says = cls(raw[:500].decode("utf-8", "replace").strip())
        return dataclasses.replace(says, status=status)

    @classmethod
    def of(cls, body: Json) -> ServerSays | None:
        """What a decoded body says; None where it tells of no error."""
        # OpenAI and vLLM: {"error": {"message"}}; older vLLM: {"message"}; FastAPI: {"detail"}; OpenRouter: in the choice.
        if not isinstance(body, dict):
            return None
        choices = body.get("choices")
        inner = choices[0] if isinstance(choices, list) and choices else None
        error = body.get("error") or (inner.get("error") if isinstance(inner, dict) else None)
        error = body if error is None and choices is None else error
        if not isinstance(error, dict):
            return cls(error[:500]) if isinstance(error, str) else None
        message, code = error.get("message", error.get("detail")), error.get("code")
        if not isinstance(message, str) and (error is body or code is None):
            return None
        number = int(code) if isinstance(code, str) and code.isdigit() else code
        status = number if isinstance(number, int) and 400 <= number < 600 else None
        kind = next((word for word in (code, error.get("type")) if isinstance(word, str) and not word.isdigit()), "")
        return cls(message[:500] if isinstance(message, str) else "", status, kind)


def billed(answer: Json) -> Usage | None:
    """What an answer says that it took, whatever else is wrong with it; None where that cannot be read."""
    try:
        return _usage(answer, "") if isinstance(answer, dict) else None
    except ServiceError:
        return None


def _choice(answer: dict[str, Json], where: str) -> dict[str, Json]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choice := choices[0], dict):
        raise _wrong(where, "one choice in `choices`", choices if "choices" in answer else answer)
    return choice


def _text(content: Json) -> str | None:
    """A message's content, which may come in parts; None where it is no text."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, str | dict) for part in content):
        return None
    parts = [part.get("text") if isinstance(part, dict) else part for part in content if not _is_thought(part)]
    return "".join(part for part in parts if isinstance(part, str))


def _is_thought(part: Json) -> bool:
    return isinstance(part, dict) and part.get("type") in ("thinking", "redacted_thinking", "reasoning")


def _thoughts(content: Json) -> str:
    """What the parts of a message's content say that are thoughts; Mistral puts parts into these."""
    if not isinstance(content, list):
        return ""
    inner = [part.get("thinking", part.get("text")) for part in content if isinstance(part, dict) and _is_thought(part)]
    return "".join(_text(thought) or "" for thought in inner)


def _token_ids(choice: dict[str, Json], where: str) -> tuple[int, ...]:
    value = choice.get("token_ids")
    if value is None:
        raise ServiceError(
            f"{where} returns no token ids, and text is never tokenised again: another segmentation would be other tokens. "
            f"{_RETURN_TOKEN_IDS}.",
            transient=False,
        )
    if not isinstance(value, list):
        raise _wrong(where, "choices[0].token_ids as a list", value)
    ids = []
    for item in value:
        # bool is an int to Python.
        if isinstance(item, bool) or not isinstance(item, int) or item < 0:
            raise _wrong(where, "token ids that are whole numbers >= 0", item)
        ids.append(item)
    return tuple(ids)


def _generation(
    text: str,
    ids: tuple[int, ...] | None,
    reported: list[Json] | None,
    finish: FinishReason,
    answer: dict[str, Json],
    where: str,
    source: LogprobsSource,
) -> Generation:
    logprobs: tuple[float, ...] | None = None
    if ids is not None and source == "point mass":
        logprobs = (0.0,) * len(ids)
    elif ids is not None and source == "reported":
        logprobs = _logprobs(reported, len(ids), where)
    return Generation(text, ids, logprobs, finish, _usage(answer, where))


def _logprobs(reported: list[Json] | None, count: int, where: str) -> tuple[float, ...]:
    if reported is None or len(reported) != count:
        came = "none" if reported is None else str(len(reported))
        raise ServiceError(
            f"{where} was asked for the log-probabilities of {count} tokens and sent {came}. Use a server that takes "
            "`logprobs` (vLLM does, unless it was started with --max-logprobs 0 or a proxy drops the field).",
            transient=False,
        )
    values = []
    for item in reported:
        if isinstance(item, bool) or not isinstance(item, int | float) or not math.isfinite(item) or item > _ROUNDING:
            raise _wrong(where, "log-probabilities that are finite numbers <= 0", item)
        values.append(float(item))
    return tuple(values)


def _reason(choice: dict[str, Json], where: str) -> str | None:
    reason = choice.get("finish_reason")
    if reason in ("abort", "error"):
        raise ServiceError(
            f"{where} gave up on the request (finish_reason {reason!r}); it may succeed when sent again."
        )
    if not isinstance(reason, str | None):
        raise _wrong(where, "finish_reason 'stop' or 'length'", reason)
    return reason


def _usage(answer: dict[str, Json], where: str) -> Usage | None:
    usage = answer.get("usage")
    if usage is None:
        return None
    if not isinstance(usage, dict):
        raise _wrong(where, "usage as an object", usage)
    fields: dict[str, float | None] = {}
    for name in ("prompt_tokens", "completion_tokens", "cost"):
        value = usage.get(name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15
        ):
            raise _wrong(where, f"usage.{name} as a number >= 0", value)
        fields[name] = value
    if fields["prompt_tokens"] is None and fields["completion_tokens"] is None:
        return None
    completion_tokens = round(fields["completion_tokens"] or 0)
    details = usage.get("completion_tokens_details")
    # SGLang says it beside the other counts.
    thoughts = (details if isinstance(details, dict) else {}).get("reasoning_tokens") or usage.get("reasoning_tokens")
    reasoning_tokens = min(thoughts, completion_tokens) if isinstance(thoughts, int) and thoughts > 0 else 0
    # OpenRouter adds what it charges, in US dollars.
    return Usage(round(fields["prompt_tokens"] or 0), completion_tokens, fields["cost"], reasoning_tokens)


def _wrong(where: str, expected: str, came: Json) -> ServiceError:
    # Lists and objects are shown by their beginning: repr of a huge one would cost more than the error is worth.
    shown = repr(came if not isinstance(came, list | dict) else list(came)[:8])[:120]
    return ServiceError(
        f"{where} answered in a shape that is not the API's: expected {expected}, got {type(came).__name__} {shown}. Check "
        "that base_url is an OpenAI-compatible model server.",
        transient=False,
    )
