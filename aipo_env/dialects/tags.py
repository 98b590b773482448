r"""The dialect of the markup: `<consult agent="verify">...</consult>` asks, `<feedback ...>` replies, `\boxed{...}` answers.

The default: a base model learns it from the prompt, and alone afterwards the policy can write both sides of it itself. A turn
that asks ends with its tag, and the reply follows there; where the policy has ended its turn without an action, a notice
stands in the next turn of the chat template.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aipo_env import markup
from aipo_env.dialects.base import (
    Helpers,
    Place,
    Reading,
    TokenCodec,
    closing,
    decoded,
    own_ids,
    recorded_reply,
    restored,
)
from aipo_env.dialects.thinking import FIRST_LETTERS, Thought, find_thought, hide_thought, opened_by
from aipo_env.prompts import build_prompt
from aipo_env.protocol import Answer, Consult, FinishReason, Malformed, Reply
from aipo_env.trajectory import Segment, Source

if TYPE_CHECKING:
    from aipo_env.episode import EpisodeConfig


class Tags:
    """See the module.

    Args:
        codec: makes episodes token-exact.
        helpers: what the prompt says of each.
        answers: what an answer is.
    """

    name = "tags"
    closing = markup.CONSULT_CLOSE
    max_calls: int | None = None

    def __init__(
        self, codec: TokenCodec | None = None, helpers: Helpers | None = None, answers: markup.AnswerForm = "value"
    ) -> None:
        self.codec = codec
        self._helpers, self._answers = helpers or {}, answers
        self._tails: dict[tuple[int, ...], str | None] = {}
        """What the ends of prompts leave open: prompts in a chat template end alike."""

    def prompt(self, template: str, problem: str) -> str:
        """The template with the tags of the helpers; markup in the problem is made harmless."""
        return build_prompt(template, problem, self._helpers, answers=self._answers)

    def begin(self, prompt: str, *, invites: bool) -> Segment:
        """The prompt in the chat template."""
        ids = () if self.codec is None else tuple(self.codec.encode_prompt(prompt))
        return Segment(Source.PROMPT, prompt, ids)

    def text(self, ids: Sequence[int]) -> str:
        """Without control tokens."""
        assert self.codec is not None
        return self.codec.decode(ids)

    def ids(self, text: str) -> tuple[int, ...]:
        """Tags that are single tokens become so."""
        return () if self.codec is None else tuple(self.codec.encode_tag(text))

    def read(
        self,
        text: str,
        rules: EpisodeConfig,
        before: Sequence[Segment],
        *,
        ids: Sequence[int] | None = None,
        finish: FinishReason = "stop",
    ) -> Reading:
        """The first complete tag decides, and what is drafted in a thought is no answer; see `markup`."""
        thought = find_thought(text, self._thinks(before) or False)
        if thought is not None and rules.asks and rules.consults_in_thought:
            found = self._read_thought(text, thought, rules, before[0].text)
            if found is not None:
                return found
        parser = markup.ActionParser(
            rules.agents,
            consults=rules.asks,
            answers=rules.answers,
            extraction=rules.extraction,
            ended=finish == "stop",
        )
        understood = parser.parse(hide_thought(text, thought))
        if thought is not None:
            understood = restored(understood, text, thought)
        # Behind a complete consult nothing belongs to the turn; an answer turn is kept whole.
        span = None if isinstance(understood, Answer) else parser.consult_span
        end = len(text) if span is None else span[1]
        return self._with_adjacent(understood, text, end, rules)

    def _with_adjacent(
        self, understood: Consult | Answer | Malformed, text: str, end: int, rules: EpisodeConfig
    ) -> Reading:
        if not isinstance(understood, Consult):
            return Reading(understood, end)
        if rules.fan_out == 1:
            return Reading(understood, end, (understood,))
        more, end = markup.adjacent_consults(text, end, rules.agents, understood, rules.fan_out)
        return Reading(understood, end, (understood, *more))

    def _read_thought(self, text: str, thought: Thought, rules: EpisodeConfig, prompt: str) -> Reading | None:
        """The first consult in a thought that is no quotation of the prompt, nor broken with more thought behind it."""
        start = thought.start
        while True:
            parser = markup.ActionParser(rules.agents, drafts=True)
            understood = parser.parse(text[start : thought.end])
            if parser.consult_span is None:
                return None
            tag, end = (start + position for position in parser.consult_span)
            quoted = text[tag:end] in prompt or markup.escape(text[tag:end]) in prompt
            if not quoted and (isinstance(understood, Consult) or not text[end:].strip()):
                if isinstance(understood, Consult):
                    understood = dataclasses.replace(understood, prefix=text[:tag])
                return self._with_adjacent(understood, text, end, rules)
            start = end

    def _thinks(self, before: Sequence[Segment]) -> str | None:
        """The style of the thought in which the policy's turn begins: the prompt opened it, or a consult stands in it."""
        opened = self._opened(before[0])
        policy = Source.POLICY
        if opened is None:
            for segment in before:
                if segment.source is policy and segment.text[:1] in FIRST_LETTERS:
                    break
            else:
                return None
        said: list[str] = []
        for number in range(1, len(before)):
            segment = before[number]
            ends = segment.source is Source.TEMPLATE and not segment.agent
            if ends and not before[number - 1].text.endswith(markup.CONSULT_CLOSE):
                said = []  # a notice to a turn that had ended begins another
            if segment.source is policy and not segment.agent:
                said.append(segment.text)
        thought = find_thought("".join(said), opened or False)
        return None if thought is None or thought.closed else thought.style

    def _opened(self, prompt: Segment) -> str | None:
        """The style of the thought that the prompt leaves open."""
        if not prompt.token_ids:
            return opened_by(prompt.text)
        tail = prompt.token_ids[-16:]
        if tail not in self._tails:
            if len(self._tails) > 1024:
                self._tails.clear()
            self._tails[tail] = opened_by(decoded(getattr(self.codec, "spell", self.text), tail) or "")
        return self._tails[tail]

    def render(
        self, action: Consult | Answer | Sequence[Consult], rules: EpisodeConfig, before: Sequence[Segment]
    ) -> str:
        """Consults stand directly behind each other."""
        lead = closing(self._thinks(before), action, rules)
        if isinstance(action, Consult | Answer):
            return lead + markup.render(action, answers=rules.answers, consults=rules.asks)
        return lead + "".join(map(markup.render, action))

    def reply(self, agent: str, reply: Reply, place: Place) -> list[Segment]:
        """The reply between its tags, which are AGENT too; a helper's own ids are kept where its tokenizer is the policy's."""
        # What does not fit any more is cut, so that a chatty helper cannot overrun the budget without end.
        content = markup.escape(reply.text)[: place.room]
        opening, closing = markup.feedback_open(agent), markup.FEEDBACK_CLOSE
        text = opening + content + closing
        if self.codec is None:
            return [Segment(Source.AGENT, text, agent=agent)]
        ids, logprobs = own_ids(self.codec, reply, content)
        known = logprobs is not None
        before, after = self.codec.encode_tag(opening), self.codec.encode_tag(closing)
        around = [0.0] * len(before), [0.0] * len(after)
        ids = ids if ids is not None else self.codec.encode(content)
        logprobs = [*around[0], *(logprobs if logprobs is not None else [0.0] * len(ids)), *around[1]]
        return [Segment(Source.AGENT, text, (*before, *ids, *after), tuple(logprobs), agent=agent, mu_known=known)]

    def closer(self, agent: str) -> str:
        """The tag."""
        return markup.FEEDBACK_CLOSE

    def open_reply(self, agent: str, place: Place) -> list[Segment]:
        """The tag."""
        opening = markup.feedback_open(agent)
        return [Segment(Source.TEMPLATE, opening, self.ids(opening), agent=agent)]

    def end_reply(self, agent: str, place: Place) -> list[Segment]:
        """Nothing, or the tag."""
        closing = "" if place.closed else markup.FEEDBACK_CLOSE
        return [Segment(Source.TEMPLATE, closing, self.ids(closing), agent=agent)] if closing else []

    def notice(self, message: str, agent: str, place: Place) -> list[Segment]:
        """The message between its tags, where the policy has ended its turn in the next turn of the chat template."""
        text = f"{markup.NOTICE_OPEN}{markup.escape(message)}{markup.NOTICE_CLOSE}"
        last = place.before[-1].token_ids
        if self.codec is not None and last and last[-1] in self.codec.eos_ids:
            ids = tuple(self.codec.encode_next_turn(text))
            # What ended this turn may be what begins the next one (GLM).
            ids = ids[1:] if ids[:1] == last[-1:] else ids
        else:
            ids = self.ids(text)
        return [Segment(Source.TEMPLATE, text, ids, agent=agent)]

    def messages(self, prompt: str, record: Sequence[Segment]) -> list[dict[str, str]]:
        """Turns are the assistant's; what follows them, up to the next, is the user's."""
        told = [{"role": "user", "content": prompt}]
        for policy, run in itertools.groupby(record[1:], lambda segment: segment.source is Source.POLICY):
            told.append({"role": "assistant" if policy else "user", "content": "".join(s.text for s in run)})
        return told

    def retell(self, prompt: str, behind: Sequence[Segment]) -> str:
        """The transcript."""
        return prompt + "".join(segment.text for segment in behind)

    def reply_of(self, segment: Segment) -> Reply:
        """What stands between the tags, with the ids where they are the helper's own."""
        opening, closing = markup.feedback_open(segment.agent), markup.FEEDBACK_CLOSE
        content = segment.text.removeprefix(opening).removesuffix(closing)
        if markup.escape(content) != content:
            # Only the cut at the end of a long reply leaves what looks like the start of a tag; a letter more, and it is none.
            return Reply(content + "x")
        if self.codec is None:
            return Reply(content)
        edges = len(self.codec.encode_tag(opening)), len(segment.token_ids) - len(self.codec.encode_tag(closing))
        return recorded_reply(self.codec, segment, content, *edges)

    def without_codec(self) -> Tags:
        """The same as text."""
        return Tags(None, self._helpers, self._answers)
