"""The dialect of a model's own tool calls: `verify`, `knowledge` and `reasoning` are functions, a reply is a tool's message.

What stands around a call and a reply is the model's chat template's. It is learnt by rendering conversations with marks in
the place of what is said, and nothing is rendered again while an episode runs: ids are appended, so that the policy's are
those that it sampled. A template must therefore leave what was said before as it is; one that does not is refused. The
policy ends its turn with an end token, which is its own; what follows, up to where it goes on, is TEMPLATE, but for the reply.

A template may trim what it is given, or quote it as JSON (Llama, gpt-oss); a quoted reply has other ids than the helper's, so
that mu is unknown. A reply whose ids are not the helper's is encoded together with the plain characters that touch it, as in
a rendering of the whole; a token that holds both is the reply's.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aipo_env import markup
from aipo_env.dialects.base import Helpers, Place, Reading, TokenCodec, closing, own_ids, recorded_reply, restored
from aipo_env.dialects.chat import Chat, Message, PlainChat, functions
from aipo_env.dialects.families import SPELLED, Call, Family, find_family
from aipo_env.dialects.thinking import find_thought, hide_thought, opened_by
from aipo_env.errors import ConfigurationError, InvalidActionError
from aipo_env.prompts import build_prompt
from aipo_env.protocol import Answer, Consult, FinishReason, Malformed, Reply
from aipo_env.trajectory import Segment, Source

if TYPE_CHECKING:
    from aipo_env.episode import EpisodeConfig

_ASKED, _THOUGHT, _QUERIES = "markedproblem", "markedthought", ("markedquery", "otherquery")
_SAID = 'marked "reply"\nends'
_FINAL = "<|channel|>final<|message|>"
_IDS = ("aaaaaaaa1", "aaaaaaaa2")


@dataclasses.dataclass(frozen=True, slots=True)
class _Glue:
    """Text of the template between two texts that are not its own."""

    lead: str
    """Plain characters that touch what stands before."""
    core: str
    """From the first marker to the last."""
    tail: str
    """Plain characters that touch what follows."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Frame:
    """What stands around a text that is not the template's."""

    before: _Glue
    behind: _Glue
    trims: tuple[bool, bool]
    """Whether the template drops blanks in front of the text, and behind it."""
    quotes: bool = False
    """Whether the text stands there as JSON."""


class Tools:
    """See the module.

    Args:
        codec: makes episodes token-exact; must know its chat template (`Chat`).
        helpers: what each does, by name: the functions.
        answers: what an answer is.

    Raises:
        ConfigurationError: for a tokenizer without a chat template that shows functions, takes calls in a known family's
            syntax and keeps what was said before.
    """

    name = "tools"
    closing = ""

    def __init__(
        self, codec: TokenCodec | None = None, helpers: Helpers | None = None, answers: markup.AnswerForm = "value"
    ) -> None:
        self.codec = codec
        self._helpers, self._answers = helpers or {}, answers
        chat: Any = PlainChat() if codec is None else codec
        if not hasattr(chat, "render"):
            raise ConfigurationError(
                f"the dialect 'tools' needs a tokenizer with a chat template, got {type(codec).__name__} without. Use "
                "dialect='tags', or algorithms.codec.TransformersCodec of a model that takes tools."
            )
        self.chat: Chat = chat
        names = [*self._helpers, "verify"]
        self._first = names[0]
        self._tools = [_function(name, what) for name, what in self._helpers.items()]
        self._marker = re.compile("|".join(map(re.escape, sorted(chat.markers, key=len, reverse=True))) or r"(?!)")
        self._between = functools.cache(self._learn_between)
        self.family = self._learn()
        self.max_calls = self.family.max_calls
        before, closer = self._frames[self._first].before, self.closer(self._first)
        header = self._marker.match(before.core)
        self._next = f"{self._end}{before.lead}{header[0] if header else before.core}"
        opener = re.escape(closer.replace("/", "", 1)) if "/" in closer else "(?!)"
        self._replies = re.compile(f"{opener}.*?(?:{re.escape(closer)}|\\Z)", re.DOTALL)
        self._named = functions(self._tools)

    # -- what is said -------------------------------------------------------------------------------------------------

    def prompt(self, template: str, problem: str) -> str:
        """The template; the functions stand where the chat template puts them."""
        return build_prompt(template, self.chat.foreign(problem), self._helpers, answers=self._answers, calls=True)

    def begin(self, prompt: str, *, invites: bool) -> Segment:
        """The whole prompt as the template renders it, with the functions where it `invites`, up to the policy's first word."""
        frame, encode = self._prompts[invites], self.chat.encode_markup
        before, behind, text = frame.before, frame.behind, _trimmed(prompt, frame.trims)
        ids = [
            *encode(before.lead + before.core),
            *self.chat.encode(before.tail + text + behind.lead),
            *encode(behind.core + behind.tail),
        ]
        return Segment(Source.PROMPT, _text(before) + text + _text(behind), tuple(ids))

    def text(self, ids: Sequence[int]) -> str:
        """With all markers, as the template writes them."""
        return self.chat.spell(ids)

    def ids(self, text: str) -> tuple[int, ...]:
        """Markers are the policy's own."""
        return tuple(self.chat.encode_markup(text))

    def read(
        self,
        text: str,
        rules: EpisodeConfig,
        before: Sequence[Segment],
        *,
        ids: Sequence[int] | None = None,
        finish: FinishReason = "stop",
    ) -> Reading:
        """A turn with calls asks, wherever they stand; one without answers as in the tags, behind its thought."""
        marked = text if ids is None else self.chat.spell(ids, SPELLED)
        # A chat that the policy makes up behind its turn is no part of it.
        if (at := marked.find(self._next)) >= 0:
            marked = marked[: at + len(self._end)]
        whole = len(marked) if ids is None else len(text)
        thought = find_thought(marked, self._opened or False, until=self.family.markers[:1])
        drafted = 0 if thought is None else thought.end

        def counts(call: Call) -> bool:
            if call.start >= drafted:
                return True
            said = marked[call.start : call.end]
            quoted = said in before[0].text or self.chat.foreign(said) in before[0].text
            return rules.consults_in_thought and not call.problem and not quoted

        found = [call for call in self.family.calls(marked) if counts(call)] if rules.asks else []
        if found:
            calls = _asked(found, rules, marked)
            first = next((call for call in calls if isinstance(call, Consult)), None)
            return Reading(first if first is not None else Malformed(calls[0].reason, text), whole, calls)  # type: ignore[union-attr]
        parser = markup.ActionParser(
            rules.agents, consults=False, answers=rules.answers, extraction=rules.extraction, ended=finish == "stop"
        )
        seen = self._replies.sub(lambda reply: " " * len(reply[0]), hide_thought(marked, thought))
        end = next((end for end in self.chat.end_texts if seen.endswith(end)), "")
        understood = parser.parse(seen.removesuffix(end))
        if thought is not None:
            understood = restored(understood, marked, thought)
        if isinstance(understood, Answer):
            said = understood.text.replace(SPELLED, ""), understood.prefix.replace(SPELLED, "")
            return Reading(Answer(*said), whole)
        assert isinstance(understood, Malformed)
        return Reading(Malformed(understood.reason.replace("a consult tag", "a call"), text), whole)

    def render(
        self, action: Consult | Answer | Sequence[Consult], rules: EpisodeConfig, before: Sequence[Segment]
    ) -> str:
        """Calls in the family's syntax."""
        lead = closing(self._opened, action, rules)
        if isinstance(action, Answer):
            lead += _FINAL if self.family.name == "harmony" else ""
            return lead + markup.render(action, answers=rules.answers, consults=False)
        consults = [action] if isinstance(action, Consult) else action
        try:
            # No syntax has to say an empty query; it is refused where it is read.
            said = self.family.render([(c.agent, c.query if c.query.strip() else _ASKED) for c in consults])
            blank = any(not c.query.strip() for c in consults)
            return lead + consults[0].prefix + (said.replace(_ASKED, "") if blank else said)
        except ConfigurationError as error:
            raise InvalidActionError(f"{error} Act with a str.") from error

    def reply(self, agent: str, reply: Reply, place: Place) -> list[Segment]:
        """The message of a tool."""
        frame = self._frames[agent]
        content = _trimmed(_trimmed(self.chat.foreign(reply.text), frame.trims)[: place.room], frame.trims)
        own = (None, None) if self.codec is None or frame.quotes else own_ids(self.codec, reply, content)
        return self._say(content, agent, place, Source.AGENT, *own)

    def closer(self, agent: str) -> str:
        """The template's first marker behind a reply."""
        found = self._marker.match(self._frames[agent].behind.core)
        assert found is not None
        return found[0]

    def open_reply(self, agent: str, place: Place) -> list[Segment]:
        """The template up to the tool's message."""
        head, tail = self._before(agent, place)
        ids = (*self.chat.encode_markup(head), *self.chat.encode(tail))
        return [Segment(Source.TEMPLATE, head + tail, ids, agent=agent)]

    def end_reply(self, agent: str, place: Place) -> list[Segment]:
        """The template behind the message."""
        lead, close = self._behind(agent, place, closed=place.closed)
        ids = (*self.chat.encode(lead), *self.chat.encode_markup(close))
        return [Segment(Source.TEMPLATE, lead + close, ids, agent=agent)] if lead + close else []

    def notice(self, message: str, agent: str, place: Place) -> list[Segment]:
        """The message of a tool too: a user's would make templates forget what the policy has thought."""
        text = self.chat.foreign(markup.escape(message))
        return self._say(f"{markup.NOTICE_OPEN}{text}{markup.NOTICE_CLOSE}", agent, place, Source.TEMPLATE)

    def messages(self, prompt: str, record: Sequence[Segment]) -> list[dict[str, str]]:
        """Turns are the assistant's, with their calls as they were written; replies and notices are a tool's.

        The functions are the caller's to hand to the chat template; without a tokenizer the system's message names them.
        """
        named = self._named if self.codec is None and self._named in record[0].text else ""
        told = [{"role": "system", "content": named}] if named else []
        told.append({"role": "user", "content": prompt})
        for segment in record[1:]:
            if segment.source is Source.POLICY and not segment.agent:
                end = next((end for end in self.chat.end_texts if segment.text.endswith(end)), "")
                told.append({"role": "assistant", "content": segment.text.removesuffix(end)})
            elif segment.source is not Source.TEMPLATE or segment.text.startswith(markup.NOTICE_OPEN):
                said = segment.text
                if segment.agent in self._frames:
                    said = said.removesuffix(self.closer(segment.agent)).removesuffix(
                        self._frames[segment.agent].behind.lead
                    )
                told.append({"role": "tool", "content": said, "name": segment.agent})
        return told

    def retell(self, prompt: str, behind: Sequence[Segment]) -> str:
        """The prompt, what the policy wrote, and what helpers replied, without any marker."""
        said = [(s.agent, self._marker.sub("", s.text).strip()) for s in behind if s.source is not Source.TEMPLATE]
        return "\n\n".join([prompt, *(f"{agent}: {text}" if agent else text for agent, text in said)])

    def reply_of(self, segment: Segment) -> Reply:
        """The text as the helper wrote it, with the ids where they are the helper's own."""
        lead, marker = self._frames[segment.agent].behind.lead, self.closer(segment.agent)
        text, end = segment.text, len(segment.token_ids)
        # Nothing that a helper says is the marker: it is part of the reply where a policy is to learn to close one.
        closes = self.chat.encode_markup(marker)
        if text.endswith(lead + marker) and list(segment.token_ids[end - len(closes) :]) == closes:
            text, end = text[: -len(lead + marker)], end - len(closes) - len(self.chat.encode(lead))
        if self._frames[segment.agent].quotes:
            return Reply(json.loads(f'"{text}"'))
        return Reply(text) if self.codec is None else recorded_reply(self.codec, segment, text, 0, end)

    def without_codec(self) -> Tools:
        """The same as text, in a plain template."""
        return Tools(None, self._helpers, self._answers)

    # -- what stands around it ----------------------------------------------------------------------------------------

    def _say(
        self,
        content: str,
        agent: str,
        place: Place,
        source: Source,
        ids: Sequence[int] | None = None,
        logprobs: Sequence[float] | None = None,
    ) -> list[Segment]:
        """A tool's message: the template up to it, the message, the template behind it."""
        name = agent if agent in self._helpers else self._first
        frame, encode, markup_ids = self._frames[name], self.chat.encode, self.chat.encode_markup
        content = json.dumps(content, ensure_ascii=False)[1:-1] if frame.quotes else content
        head, tail = self._before(name, place)
        lead, close = self._behind(name, place, closed=False)
        if ids is None:
            edge, ids, rest = self._share(tail, content, lead)
        else:
            edge, rest = encode(tail), encode(lead)
        if source is Source.AGENT and place.ends and place.last:
            content, ids, rest = content + lead + self.closer(name), [*ids, *rest, *markup_ids(self.closer(name))], []
            lead, close = self._behind(name, place, closed=True)
        given = list(logprobs or ())
        if source is Source.AGENT and self.codec is not None:
            given += [0.0] * (len(ids) - len(given))
        segments = [
            Segment(Source.TEMPLATE, head + tail, (*markup_ids(head), *edge)),
            Segment(source, content, tuple(ids), tuple(given), agent=agent, mu_known=logprobs is not None),
            Segment(Source.TEMPLATE, lead + close, (*rest, *markup_ids(close))),
        ]
        # An empty reply is one too.
        return [segment for segment in segments if segment.text or segment.source is Source.AGENT]

    def _behind(self, name: str, place: Place, *, closed: bool) -> tuple[str, str]:
        """The template behind a helper's message, less the marker that closes it where that stands already."""
        behind = self._frames[name].behind
        close = behind.core + behind.tail if place.last else ""
        return ("", close.removeprefix(self.closer(name))) if closed else (behind.lead, close)

    def _before(self, name: str, place: Place) -> tuple[str, str]:
        """The template before a helper's message: up to its last marker, and the plain characters behind that."""
        if place.first:
            frame = self._frames[name].before
            return ("" if self._has_ended(place.before[-1]) else self._end) + frame.lead + frame.core, frame.tail
        last = next((s.agent for s in reversed(place.before) if s.agent in self._helpers), name)
        glue = self._between(last, name)
        return glue.core.removeprefix(self.closer(last)) if place.closed else glue.core, glue.tail

    def _has_ended(self, turn: Segment) -> bool:
        """Whether the policy has ended its turn itself."""
        if self.codec is not None:
            return bool(turn.token_ids) and turn.token_ids[-1] in self.codec.eos_ids
        return turn.text.endswith(self.chat.end_texts)

    def _share(self, tail: str, content: str, lead: str) -> tuple[list[int], list[int], list[int]]:
        """The ids of three texts that are encoded as one; a token that stands in several is the middle one's."""
        ids = self.chat.encode(tail + content + lead)
        start, end = 0, len(ids)
        while tail and start < end and tail.startswith(self._decode(ids[: start + 1])):
            start += 1
        while lead and start < end and lead.endswith(self._decode(ids[end - 1 :])):
            end -= 1
        return ids[:start], ids[start:end], ids[end:]

    def _decode(self, ids: Sequence[int]) -> str:
        assert self.codec is not None
        return self.codec.decode(ids)

    # -- learning the template ----------------------------------------------------------------------------------------

    def _learn(self) -> Family:
        """Everything around calls and replies; ConfigurationError with the reason where the template cannot be played."""
        self._arguments: Any = dict
        try:
            called = self._conversation(calls=1, replies=[_SAID])
        except ConfigurationError:
            self._arguments = json.dumps  # some templates want them as text
            called = self._conversation(calls=1, replies=[_SAID])
        asked = called.rfind(_QUERIES[0])
        called = called[max(0, called.find(_ASKED)) :]
        ends = [(at, end) for end in self.chat.end_texts if (at := called.find(end, called.rfind(_QUERIES[0]))) >= 0]
        family = find_family(called, self._first, _QUERIES[0]) if asked >= 0 and ends else None
        if family is None:
            raise ConfigurationError(
                f"the chat template writes a call of {self._first!r} as {called[:300]!r}: that is the syntax of no known "
                "family, or no end token stands behind it. Use dialect='tags'."
            )
        self._end = min(ends)[1]
        self._prompts = {invites: self._prompt_frame(invites) for invites in (True, False)}
        opened = self._prompts[True].before
        if missing := [name for name in self._helpers if name not in opened.lead + opened.core + opened.tail]:
            raise ConfigurationError(
                f"the chat template does not show the functions {', '.join(missing)} that it is given. Use dialect='tags'."
            )
        self._opened = opened_by(_text(self._prompts[True].behind))
        self._frames = {name: self._frame(name) for name in {self._first, *self._helpers}}
        if self._between(self._first, [*self._frames][-1]).lead != self._frames[self._first].behind.lead:
            raise ConfigurationError(
                "the chat template ends a tool's message otherwise where another follows. Use dialect='tags'."
            )
        return family

    def _conversation(
        self,
        *,
        calls: int = 0,
        replies: Sequence[str] = (),
        names: Sequence[str] = (),
        thought: str = "",
        opened: bool = False,
    ) -> str:
        """A conversation of marks as text."""
        names = [*names, self._first, self._first]
        asked = [
            {
                "type": "function",
                "id": number,
                "function": {"name": name, "arguments": self._arguments({"query": query})},
            }
            for number, name, query in zip(_IDS, names, _QUERIES, strict=False)
        ]
        messages: list[Message] = [{"role": "user", "content": f"\t{_ASKED}\t"}]
        if calls:
            thinks = {"reasoning_content": thought, "thinking": thought} if thought else {}
            messages.append({"role": "assistant", "content": "", **thinks, "tool_calls": asked[:calls]})
        messages += [
            {"role": "tool", "content": reply, "tool_call_id": number, "name": name}
            for reply, number, name in zip(replies, _IDS, names, strict=False)
        ]
        return self.chat.render(messages, self._tools, open_turn=opened)

    def _prompt_frame(self, invites: bool) -> _Frame:
        messages = [{"role": "user", "content": f"\t{_ASKED}\t"}]
        rendered = self.chat.render(messages, self._tools if invites else (), open_turn=True)
        return self._cut(rendered, rendered.find(_ASKED), _ASKED, last=True)

    def _frame(self, name: str) -> _Frame:
        """What stands around a reply of a helper, behind the policy's end token."""
        rendered = self._conversation(calls=1, replies=[f"\t{_SAID}\t"], names=[name], opened=True)
        for thought in (_THOUGHT, ""):
            first = self._conversation(calls=1, names=[name], thought=thought)
            if thought and thought not in first:
                continue
            then = self._conversation(calls=1, replies=[_SAID], names=[name], thought=thought, opened=True)
            ended = then.find(self._end, then.rfind(_QUERIES[0]))
            if then[:ended] != first[:ended]:
                raise ConfigurationError(
                    "the chat template renders a call otherwise once its reply is there, so that no record can be what the "
                    f"policy saw and what the template makes: {first[:ended][-200:]!r} became {then[:ended][-200:]!r}. Use a "
                    "template that keeps it (TRL has them as *_training), or dialect='tags'."
                )
            break
        start = rendered.find(self._end, rendered.rfind(_QUERIES[0])) + len(self._end)
        quoted = json.dumps(_SAID, ensure_ascii=False)[1:-1]
        for said, quotes in ((_SAID, False), (quoted, True)):
            if rendered.count(said) == 1:
                frame = self._cut(rendered, rendered.index(said), said, start=start, tab="\\t" if quotes else "\t")
                return dataclasses.replace(frame, quotes=quotes)
        raise ConfigurationError(
            f"the chat template does not show the text of a tool's message as it is: {rendered[start:][:300]!r}. Use "
            "dialect='tags'."
        )

    def _cut(self, rendered: str, at: int, said: str, *, start: int = 0, tab: str = "\t", last: bool = False) -> _Frame:
        """The frame around a mark, of which a template that trims leaves the blanks out."""
        if at < 0 or rendered.count(said) != 1:
            raise ConfigurationError(
                f"a chat template must show once, as it is, what a user says; this one makes {rendered[-200:]!r}. Use the "
                "model's own template."
            )
        before, behind = rendered[start:at], rendered[at + len(said) :]
        trims = not before.endswith(tab), not behind.startswith(tab)
        return _Frame(self._split(before.removesuffix(tab)), self._split(behind.removeprefix(tab), last=True), trims)

    def _learn_between(self, one: str, other: str) -> _Glue:
        """What stands between two replies; its first plain characters belong to what stands behind each."""
        replies = ["firstreply", "secondreply"]
        try:
            rendered = self._conversation(calls=2, replies=replies, names=[one, other])
        except ConfigurationError:
            rendered = self._conversation(calls=1, replies=replies, names=[one, other])
        glue = self._split(rendered.partition(replies[1])[0].partition(replies[0])[2])
        lead = self._frames[one].behind.lead
        if not glue.core and glue.tail.startswith(lead):  # a vocabulary that has no markers for replies
            return _Glue(lead, "", glue.tail[len(lead) :])
        return glue

    def _split(self, text: str, *, last: bool = False) -> _Glue:
        """A text of the template cut at its first and last marker; where it has none, and nothing follows, all is its lead."""
        found = list(self._marker.finditer(text))
        if not found:
            return _Glue(text, "", "") if last else _Glue("", "", text)
        start, end = found[0].start(), found[-1].end()
        return _Glue(text[:start], text[start:end], text[end:])


def _function(name: str, what: str) -> Message:
    """A helper as templates take a function."""
    query = {"type": "string", "description": "the question"}
    parameters = {"type": "object", "properties": {"query": query}, "required": ["query"]}
    return {"type": "function", "function": {"name": name, "description": what, "parameters": parameters}}


def _text(glue: _Glue) -> str:
    return glue.lead + glue.core + glue.tail


def _trimmed(text: str, trims: tuple[bool, bool]) -> str:
    text = text.lstrip() if trims[0] else text
    return text.rstrip() if trims[1] else text


def _asked(found: Sequence[Call], rules: EpisodeConfig, text: str) -> tuple[Consult | Malformed, ...]:
    """What each call of a turn asks; of each helper one, and no more than the rules allow."""
    calls: list[Consult | Malformed] = []
    asked: set[str] = set()
    for call in found:
        if call.problem:
            reason = call.problem
        elif call.name not in rules.agents:
            reason = f"there is no function called {call.name!r}. Functions: {', '.join(rules.agents) or 'none'}."
        elif call.name in asked or len(asked) >= rules.fan_out:
            reason = f"a turn may call {rules.fan_out} function(s), each once; this call was not answered."
        else:
            asked.add(call.name)
            prefix = text[: found[0].start].replace(SPELLED, "")
            calls.append(Consult(call.name, call.query.replace(SPELLED, "").strip(), "" if calls else prefix))
            continue
        calls.append(Malformed(reason, text[call.start : call.end].replace(SPELLED, "")))
    return tuple(calls)
