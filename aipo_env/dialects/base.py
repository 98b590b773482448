"""What a dialect says: how an action looks, how a reply comes back, and when a turn is over.

The rules, the record and the grading do not know it: an episode hands a turn to its dialect to be read, and takes segments
from it.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from aipo_env.dialects.thinking import THOUGHTS, Thought
from aipo_env.protocol import Answer, Consult, FinishReason, Malformed, Reply
from aipo_env.trajectory import Segment

if TYPE_CHECKING:
    from aipo_env.episode import EpisodeConfig


@runtime_checkable
class TokenCodec(Protocol):
    """What token-exact episodes need of a tokenizer."""

    fingerprint: str
    """Equal for two tokenizers exactly when they map all ids and texts alike."""
    eos_ids: frozenset[int]
    """The ids with which the policy ends a turn."""
    reserved_ids: frozenset[int]
    """The ids that no text may become: control tokens, and all other added tokens but the markup's tags."""

    def encode(self, text: str) -> list[int]:
        """Plain text to ids. Never yields one of `reserved_ids`, whatever the text says."""
        ...

    def encode_tag(self, tag: str) -> list[int]:
        """A tag of our markup to ids; the one place where special tokens of the markup may be made."""
        ...

    def encode_prompt(self, prompt: str) -> list[int]:
        """The prompt to ids, as the policy expects it (its chat template applied, if it has one)."""
        ...

    def encode_next_turn(self, text: str) -> list[int]:
        """What follows an ended turn: the environment's text in the chat template's markers, the policy's turn reopened."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text, without control tokens such as end-of-sequence."""
        ...


class Reading(NamedTuple):
    """What a turn was understood as."""

    understood: Consult | Answer | Malformed
    """Of several consults the first."""
    end: int
    """Where the turn's action ends in the text; what stands behind it does not belong to the turn."""
    calls: tuple[Consult | Malformed, ...] = ()
    """All that the turn asks, in order: a consult gets a reply, a broken one a notice of its reason."""


class Place(NamedTuple):
    """Where in the exchange behind a turn a reply or a notice stands."""

    before: Sequence[Segment]
    """The record so far."""
    room: int
    """Characters that are left for the reply itself."""
    first: bool = True
    """Whether nothing else has followed the policy's turn yet."""
    last: bool = True
    """Whether the policy's next turn follows."""
    ends: bool = False
    """Whether the marker that closes a reply is part of it, so that a policy that replies to itself learns to stop."""
    closed: bool = False
    """Whether the policy wrote that marker itself behind the reply before."""


@runtime_checkable
class Dialect(Protocol):
    """How actions and replies look in an episode. Holds no state of one."""

    name: str
    closing: str
    """The text behind which a turn that asks is over, and which belongs to it; empty where the policy's end token ends it."""
    max_calls: int | None
    """Consults that one turn may hold; None for any number."""
    codec: TokenCodec | None
    """The tokenizer of token-exact episodes."""

    def prompt(self, template: str, problem: str) -> str:
        """Fills a prompt's template; nothing in the problem's text can open anything."""
        ...

    def begin(self, prompt: str, *, invites: bool) -> Segment:
        """The first segment of a record: the prompt as the policy sees it, and the helpers where it `invites` to ask."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """The text of sampled ids, as it is recorded."""
        ...

    def ids(self, text: str) -> tuple[int, ...]:
        """The ids of a turn that came as text; none without a tokenizer."""
        ...

    def read(
        self,
        text: str,
        rules: EpisodeConfig,
        before: Sequence[Segment],
        *,
        ids: Sequence[int] | None = None,
        finish: FinishReason = "stop",
    ) -> Reading:
        """Reads a turn.

        Args:
            text: the whole turn.
            rules: of the episode.
            before: the record up to the turn.
            ids: the turn's, where it was sampled.
            finish: how it ended.
        """
        ...

    def render(
        self, action: Consult | Answer | Sequence[Consult], rules: EpisodeConfig, before: Sequence[Segment]
    ) -> str:
        """The text of a structured action behind a record; `read` is its inverse. A thought that is open is closed first."""
        ...

    def reply(self, agent: str, reply: Reply, place: Place) -> list[Segment]:
        """A helper's reply, with what stands around it."""
        ...

    def closer(self, agent: str) -> str:
        """What ends a reply that the policy writes in this helper's place, and belongs to it."""
        ...

    def open_reply(self, agent: str, place: Place) -> list[Segment]:
        """What stands before a reply that the policy writes itself: TEMPLATE, with the helper's name."""
        ...

    def end_reply(self, agent: str, place: Place) -> list[Segment]:
        """What stands behind it, but for what the policy has written of that."""
        ...

    def notice(self, message: str, agent: str, place: Place) -> list[Segment]:
        """A word of the environment, about a helper where one is named, with what stands around it."""
        ...

    def messages(self, prompt: str, record: Sequence[Segment]) -> list[dict[str, str]]:
        """The episode as a chat: `role` and `content` of each message, without control tokens."""
        ...

    def retell(self, prompt: str, behind: Sequence[Segment]) -> str:
        """The episode as its helpers read it: the prompt, and what stands behind it, as plain text."""
        ...

    def reply_of(self, segment: Segment) -> Reply:
        """A reply of which `reply` makes this AGENT segment; for playing a record again."""
        ...

    def without_codec(self) -> Dialect:
        """The same for episodes that are text."""
        ...


Helpers = Mapping[str, str]
"""Names of helpers and what each does."""


def closing(style: str | None, action: object, rules: EpisodeConfig) -> str:
    """What closes the thought in which a structured action cannot stand."""
    stays = style is None or (not isinstance(action, Answer) and rules.consults_in_thought)
    return "" if stays else f"{THOUGHTS[str(style)][1]}\n\n"


def restored(understood: Consult | Answer | Malformed, text: str, thought: Thought) -> Consult | Answer | Malformed:
    """What was understood of a turn whose thought was hidden, as the turn itself has it."""
    if not isinstance(understood, Malformed):
        return dataclasses.replace(understood, prefix=text[: len(understood.prefix)])
    if thought.closed:
        return Malformed(understood.reason, text)
    return Malformed("the turn ended inside its thought: close the thought, then ask or answer.", text)


def decoded(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> str | None:
    """The text of recorded ids; None where they are none of the tokenizer's."""
    try:
        return decode(ids)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError):
        return None


def tokens_covering(decode: Callable[[Sequence[int]], str], ids: Sequence[int], end: int) -> int:
    """The least number of leading ids whose text reaches `end` characters."""
    return bisect_left(range(len(ids)), end, key=lambda count: len(decode(ids[:count])))


def own_ids(codec: TokenCodec, reply: Reply, content: str) -> tuple[Sequence[int] | None, Sequence[float] | None]:
    """A reply's own ids where they can stand for its content, and their log-probabilities where those are known."""
    ids = reply.token_ids
    # Of a helper's ids none may open a turn, whatever they decode to.
    if (
        ids is None
        or reply.tokenizer != codec.fingerprint
        or content != reply.text
        or not codec.reserved_ids.isdisjoint(ids)
    ):
        return None, None
    return ids, reply.logprobs


def recorded_reply(codec: TokenCodec, segment: Segment, content: str, start: int, end: int) -> Reply:
    """The reply of which an AGENT segment was made; its own ids, if they are the helper's, stand from `start` to `end`."""
    ids = segment.token_ids[start:end]
    if decoded(codec.decode, ids) != content or (not segment.mu_known and list(ids) == codec.encode(content)):
        return Reply(content)
    logprobs = segment.logprobs[start:end] if segment.mu_known else None
    return Reply(content, ids, logprobs, codec.fingerprint, given_thoughts=segment.given_thoughts)
