"""The game itself: a pure state machine. No gymnasium, no pettingzoo, no clock, no I/O.

The policy acts; if it consults, the addressed helper acts; then it is the policy's turn again, until it answers or a
budget is spent. Every face of the environment (Gymnasium, PettingZoo, batched rollouts) drives this class and adds
nothing to the rules.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from aipo_env import markup
from aipo_env.checks import check_count, check_number
from aipo_env.errors import ConfigurationError, EpisodeStateError, InvalidActionError
from aipo_env.grading import Grade
from aipo_env.protocol import (
    Action,
    Answer,
    Consult,
    ConsultRequest,
    FinishReason,
    Malformed,
    Reply,
    TextAction,
    TokenAction,
)
from aipo_env.tasks.base import Task
from aipo_env.trajectory import Segment, Source, Trajectory

POLICY = "policy"
_BUDGETS = {
    "max_consults": "how many consults are answered",
    "max_turns": "how many turns the policy has",
    "max_chars": "how long the transcript may become behind the prompt",
    "max_reply_chars": "how long a reply may be",
    "fan_out": "how many consults one turn may carry",
}


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


@dataclasses.dataclass(frozen=True, slots=True)
class _Turn:
    """An action as it was understood."""

    text: str
    tokens: TokenAction | None
    finish: FinishReason
    understood: Consult | Answer | Malformed
    consults: list[Consult]
    """All that the turn asks for; `understood` is the first of them."""
    end: int
    """Where the turn's action ends in the text; what stands behind it does not belong to the turn."""


RewardFunction = Callable[[Task, Answer | None, Grade | None], float | Mapping[str, float]]
"""A user's reward: gets the task, the answer (None if there was none) and its grade; returns the reward or its parts."""


@dataclasses.dataclass(frozen=True, slots=True)
class EpisodeConfig:
    """The rules of an episode."""

    agents: tuple[str, ...] = ("verify", "knowledge", "reasoning")
    """The helpers that may be addressed, in the order of the consult mask."""
    assisted: bool = True
    """Whether helpers answer. In a solo episode nothing is inserted and a consult tag is text like any other."""
    max_consults: int = 4
    """Consults that are answered; later ones get a notice."""
    max_turns: int = 8
    """Turns of the policy, malformed ones included."""
    max_chars: int = 100_000
    """Characters of the transcript behind the prompt, helpers' replies included."""
    max_reply_chars: int = 8_000
    """Longer replies of a helper are cut here."""
    consult_cost: float = 0.0
    """Subtracted from the reward for each answered consult."""
    helper_view: Literal["transcript", "query"] = "transcript"
    """What a helper gets to see: the query and the transcript, or the query alone."""
    leak_filter: bool = False
    """Whether a reply that states the gold answer, which the policy has not, is held back; a notice takes its place. Who asks
    the helpers sees to it (`ConsultGame.ask_agents`)."""
    fan_out: int = 1
    """Consults, of different helpers, that one turn may carry: tags that follow each other directly. They are asked at
    the same time; the replies stand in the order of the tags."""
    answers: markup.AnswerForm = "value"
    """What an answer is: a "value" stands in its tag, a "program" may be the turn's last fenced block. The task family's
    own `answers` comes first."""
    extraction: markup.Extraction = "boxed"
    r"""What marks a value as the answer: "boxed" is `\boxed{...}` and `<answer>` alone; "lenient" takes `The answer is 5.`,
    `#### 5` and the like too, for comparisons with harnesses that do."""

    def __post_init__(self) -> None:
        for name, what in _BUDGETS.items():
            check_count(name, getattr(self, name), what=what, least=int(name != "max_consults"))
        cost = "what a consult takes from the reward"
        check_number("consult_cost", self.consult_cost, what=cost, inclusive=True)
        if self.assisted and (self.max_turns < 2 or not self.agents):
            raise ConfigurationError(
                "a consult episode needs at least one helper and max_turns >= 2 (one turn to ask, one to answer); got "
                f"{len(self.agents)} helpers and max_turns={self.max_turns}. For an episode without help use the solo id "
                "(the one without '-consult')."
            )
        if self.leak_filter not in (False, True):
            raise ConfigurationError(f"leak_filter is True or False (1 or 0), got {self.leak_filter!r}.")
        if self.helper_view not in ("transcript", "query"):
            raise ConfigurationError(f"helper_view is 'transcript' or 'query', got {self.helper_view!r}.")
        if self.answers not in ("value", "program"):
            raise ConfigurationError(f"answers is 'value' or 'program', got {self.answers!r}.")
        if self.extraction not in ("boxed", "lenient"):
            raise ConfigurationError(f"extraction is 'boxed' or 'lenient', got {self.extraction!r}.")
        if POLICY in self.agents:
            raise ConfigurationError(f"{POLICY!r} is the policy's own name; give the helper another one.")
        for agent in self.agents:
            if markup.parse(markup.render(Consult(agent, "q")), self.agents) != Consult(agent, "q"):
                raise ConfigurationError(
                    f"a helper's name is letters, digits, '_' and '-' and starts with a letter; got {agent!r}."
                )


class Episode:
    """One problem being solved.

    Args:
        task: the problem.
        prompt: what the policy sees first; the task's text in it is already escaped by the caller's template.
        grade: grades an answer's text.
        config: the rules.
        seed: the helpers' seeds derive from it.
        codec: makes the episode token-exact; without it only text is recorded.
        reward_fn: replaces the 0/1 reward for a correct answer.
        env_id: recorded in the trajectory.
        task_index: the task's index in its family, recorded in the trajectory.
    """

    def __init__(
        self,
        task: Task,
        prompt: str,
        grade: Callable[[str], Grade],
        config: EpisodeConfig | None = None,
        *,
        seed: int = 0,
        codec: TokenCodec | None = None,
        reward_fn: RewardFunction | None = None,
        env_id: str = "",
        task_index: int | None = None,
    ) -> None:
        self.task = task
        self.config = config if config is not None else EpisodeConfig()
        self.turn_of: str | None = POLICY
        """Whose turn it is: "policy", a helper's name, or None when the episode is over."""
        self.turn = 0
        """Turns that the policy has taken."""
        self.num_consults = 0
        self.stop_reason = ""
        self.terminated = self.truncated = False
        self.reward_parts: dict[str, float] = {}
        self.grade: Grade | None = None
        self.segments: list[Segment] = []
        self.last_action: Consult | Answer | Malformed | None = None
        self._grade_answer = grade
        self._reward_fn = reward_fn
        self._codec = codec
        self._env_id = env_id
        self.seed = seed
        self._task_index = task_index
        self._last_read: tuple[Action, _Turn] | None = None
        self._pending: deque[tuple[str, ConsultRequest | str]] = deque()
        """Whose reply is due, in the order of the tags; a text in a request's place is a notice that waits its turn."""
        self.chars_left = self.config.max_chars
        """Characters that are left of `max_chars`."""
        self._transcript: list[str] = []
        ids = () if codec is None else tuple(codec.encode_prompt(prompt))
        self._append(Segment(Source.PROMPT, prompt, ids))

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.turn_of is None

    @property
    def transcript(self) -> str:
        """Everything so far, prompt first, as the policy sees it."""
        if len(self._transcript) > 1:
            self._transcript = ["".join(self._transcript)]
        return self._transcript[0]

    @property
    def requests(self) -> dict[str, ConsultRequest]:
        """What each consulted helper is asked, in the order in which `reply` takes the replies; empty if none is due."""
        return {agent: request for agent, request in self._pending if isinstance(request, ConsultRequest)}

    @property
    def request(self) -> ConsultRequest:
        """What the helper is asked whose turn it is; EpisodeStateError when no helper is to act."""
        return self._waiting()[1]

    def _waiting(self) -> tuple[str, ConsultRequest]:
        if self._pending:
            agent, request = self._pending[0]
            assert isinstance(request, ConsultRequest)
            return agent, request
        raise EpisodeStateError(f"no consult is waiting for a reply; it is {self.turn_of or 'nobody'}'s turn.")

    @property
    def consult_mask(self) -> list[int]:
        """1 for each helper that may be consulted now, in the order of `config.agents`."""
        open_ = self.config.assisted and self.turn_of == POLICY and self.num_consults < self.config.max_consults
        return [int(open_)] * len(self.config.agents)

    @property
    def reward(self) -> float:
        """The sum of `reward_parts` so far."""
        return sum(self.reward_parts.values())

    def act(self, action: Action, *, grade: Grade | None = None) -> Consult | Answer | Malformed:
        """The policy takes its turn.

        Args:
            action: text, a structured action or several consults (which lower to text), or the sampler's tokens.
            grade: of the answer that `understand` finds in it; None to have it graded here.

        Returns:
            What the turn was understood as; of several consults the first.

        Raises:
            InvalidActionError: for an action of another type, or a structured one that the markup cannot say.
            EpisodeStateError: when it is not the policy's turn.
        """
        if self.turn_of != POLICY:
            raise EpisodeStateError(
                "the episode is over; reset it." if self.done else f"it is {self.turn_of}'s turn: a reply is due."
            )
        turn = self._read(action)
        self._last_read = None
        self.turn += 1
        self.last_action = understood = turn.understood
        if len(turn.text) > self.chars_left:
            self._overflow(turn.text, turn.tokens)
            return understood
        self._record_policy(turn.text, turn.end, turn.tokens)
        if isinstance(understood, Answer):
            self._finish("answer", answer=understood, grade=grade)
        elif isinstance(understood, Malformed):
            self._malformed(understood, turn.finish)
        else:
            self._consult(turn.consults)
        return understood

    def understand(self, action: Action) -> Consult | Answer | Malformed:
        """What `act` would understand this action as; changes nothing. Raises as `act` does for an action that is none."""
        return self._read(action).understood

    def turn_is_complete(self, text: str) -> bool:
        """Whether the policy's turn, of which this is written so far, is over whatever it would write behind it.

        A sampler that asks may stop there; a turn without a consult ends where the policy ends it.
        """
        if not self.config.assisted or markup.CONSULT_CLOSE not in text:
            return False
        turn = self._read(text)
        if turn.consults:
            return len(turn.consults) == self.config.fan_out or not markup.may_be_consult(text[turn.end :])
        return self.parser().feed(text)

    def parser(self, finish: FinishReason = "stop") -> markup.ActionParser:
        """A parser for one turn by these rules; `finish` is how the turn ended."""
        config = self.config
        return markup.ActionParser(
            config.agents,
            consults=config.assisted,
            answers=config.answers,
            extraction=config.extraction,
            ended=finish == "stop",
        )

    def reply(self, reply: Reply) -> None:
        """The helper whose turn it is answers.

        Raises:
            EpisodeStateError: when no helper is to act.
        """
        agent, _ = self._waiting()
        self._pending.popleft()
        if reply.error is not None:
            self._notice(f"{agent} could not answer: {reply.error}"[:300], agent)
        else:
            self._record_reply(agent, reply)
            self.num_consults += 1
            if self.config.consult_cost:
                spent = self.reward_parts.get("consult_cost", 0.0)
                self.reward_parts["consult_cost"] = spent - self.config.consult_cost
        self._pass_turn()

    def truncate(self, reason: FinishReason | str) -> None:
        """Ends a running episode from outside: the sampler ran out of tokens, the caller gave up."""
        if not self.done:
            self._pending.clear()
            self._finish(reason, truncated=True)

    def trajectory(self, **fields: object) -> Trajectory:
        """The record so far. `fields` fill those of `Trajectory` that the episode does not know (group, sample)."""
        values: dict[str, object] = {
            "env_id": self._env_id,
            "task_id": self.task.id,
            "segments": list(self.segments),
            "reward": self.reward,
            "reward_parts": dict(self.reward_parts),
            "stop_reason": self.stop_reason,
            "assisted": self.config.assisted,
            "verdict": "" if self.grade is None else self.grade.verdict.value,
            "num_consults": self.num_consults,
            "seed": self.seed,
            "task_index": self._task_index,
            "metadata": dict(self.task.metadata),
            "confidential": self.task.confidential,
        }
        return Trajectory(**{**values, **fields})  # type: ignore[arg-type]

    def _read(self, action: Action) -> _Turn:
        if self._last_read is not None and self._last_read[0] is action:
            # Whoever grades ahead, or checks a batch of actions, has asked about this one just now.
            return self._last_read[1]
        text = self._lower(action)
        tokens = action if isinstance(action, TokenAction) else None
        finish = action.finish_reason if isinstance(action, TokenAction | TextAction) else "stop"
        if len(text) > self.chars_left:
            left = f"{self.chars_left} of max_chars={self.config.max_chars} were left."
            malformed = Malformed(f"the turn has {len(text)} characters; {left}", text[: self.chars_left])
            return _Turn(text, tokens, finish, malformed, [], len(text))
        parser = self.parser(finish)
        parser.feed(text, last=True)
        understood = parser.finish()
        # Behind a complete consult nothing belongs to the turn; an answer turn is kept whole.
        end = len(text) if isinstance(understood, Answer) or parser.consult_end is None else parser.consult_end
        consults = [understood] if isinstance(understood, Consult) else []
        if consults and self.config.fan_out > 1:
            more, end = markup.adjacent_consults(text, end, self.config.agents, consults[0], self.config.fan_out)
            consults += more
        if not isinstance(action, str | TextAction | TokenAction) and not self._says(action, understood, consults):
            shown = understood.reason if isinstance(understood, Malformed) else repr(understood)[:120]
            raise InvalidActionError(
                f"a structured action must be readable in the episode's markup as what it is; {str(action)[:120]} reads as "
                f"{text[:120]!r} there, which is understood as: {shown} Leave tags and unbalanced braces out of its texts, or "
                "act with a str."
            )
        turn = _Turn(text, tokens, finish, understood, consults, end)
        self._last_read = action, turn
        return turn

    def _says(
        self,
        action: Consult | Answer | Sequence[Consult],
        understood: Consult | Answer | Malformed,
        consults: Sequence[Consult],
    ) -> bool:
        """Whether a structured action was understood as itself."""
        if isinstance(action, Answer):
            return isinstance(understood, Answer) and markup.same_answer(action, understood, self.config.answers)
        wanted = [action] if isinstance(action, Consult) else action
        first = wanted[0]
        if not (self.config.assisted and first.agent in self.config.agents and first.query.strip()):
            # Nobody there, or nothing to answer: an observation that says so, as it is for text.
            return isinstance(understood, Malformed)
        asked = [(part.agent, part.query.strip()) for part in wanted]
        return [(part.agent, part.query) for part in consults] == asked and consults[0].prefix == first.prefix

    def _lower(self, action: Action) -> str:
        if isinstance(action, str):
            return action
        for part in action if isinstance(action, list | tuple) else [action]:
            said = dataclasses.astuple(part) if isinstance(part, Consult | Answer | TextAction) else ()
            if not all(isinstance(field, str) for field in said):
                raise InvalidActionError(
                    f"the fields of an action are str; got {str(part)[:120]}. Say str(...) of them."
                )
        if isinstance(action, TextAction):
            return action.text
        if isinstance(action, Consult | Answer):
            return markup.render(action, answers=self.config.answers, consults=self.config.assisted)
        if isinstance(action, TokenAction):
            if self._codec is None:
                raise InvalidActionError(
                    "a TokenAction needs an environment with a tokenizer: pass codec= when making it."
                )
            return self._codec.decode(action.ids)
        if isinstance(action, list | tuple) and action and all(isinstance(part, Consult) for part in action):
            helpers = [part.agent for part in action]
            if len(helpers) > self.config.fan_out or len(set(helpers)) < len(helpers):
                raise InvalidActionError(
                    f"a turn may consult {self.config.fan_out} helper(s) (fan_out), each once; got {', '.join(helpers)}. "
                    "Ask in several turns, or make the environment with a larger fan_out."
                )
            return "".join(map(markup.render, action))
        raise InvalidActionError(
            "an action is a str, Consult, Answer or TokenAction (or TextAction), or a list of Consults; got "
            f"{type(action).__name__}: {str(action)[:80]!r}."
        )

    def _append(self, segment: Segment) -> None:
        self.segments.append(segment)
        self._transcript.append(segment.text)

    def _record_policy(self, text: str, end: int, tokens: TokenAction | None) -> None:
        self.chars_left -= end
        if tokens is None:
            ids = self._encode(text[:end])
            self._append(Segment(Source.POLICY, text[:end], ids))
            return
        assert self._codec is not None
        ids = tuple(tokens.ids)
        logprobs = tuple(tokens.logprobs or ())
        count = len(ids) if end == len(text) else tokens_covering(self._codec, ids, end)
        kept = self._codec.decode(ids[:count])
        self._append(Segment(Source.POLICY, kept, ids[:count], logprobs[:count]))
        if count < len(ids):
            # Sampled past the end of the action: in the sampler's context, so in the record, but not the policy's
            # doing.
            self._append(Segment(Source.TEMPLATE, text[len(kept) :], ids[count:]))

    def _encode(self, text: str) -> tuple[int, ...]:
        return () if self._codec is None else tuple(self._codec.encode_tag(text))

    def _record_reply(self, agent: str, reply: Reply) -> None:
        content = markup.escape(reply.text)
        # What does not fit any more is cut, so that a chatty helper cannot overrun the budget without end.
        content = content[: max(0, min(self.config.max_reply_chars, self.chars_left))]
        opening, closing = markup.feedback_open(agent), markup.FEEDBACK_CLOSE
        text = opening + content + closing
        self.chars_left -= len(text)
        if self._codec is None:
            self._append(Segment(Source.AGENT, text, agent=agent))
            return
        own = reply.token_ids is not None and reply.tokenizer == self._codec.fingerprint and content == reply.text
        # Of a helper's ids none may open a turn, whatever they decode to.
        own = own and self._codec.reserved_ids.isdisjoint(reply.token_ids or ())
        ids = list(reply.token_ids or ()) if own else self._codec.encode(content)
        known = own and reply.logprobs is not None
        logprobs = list(reply.logprobs or ()) if known else [0.0] * len(ids)
        before, after = self._codec.encode_tag(opening), self._codec.encode_tag(closing)
        self._append(
            Segment(
                Source.AGENT,
                text,
                tuple(before + ids + after),
                tuple([0.0] * len(before) + logprobs + [0.0] * len(after)),
                agent=agent,
                mu_known=known,
            )
        )

    def _notice(self, message: str, agent: str = "") -> None:
        text = f"{markup.NOTICE_OPEN}{markup.escape(message)}{markup.NOTICE_CLOSE}"
        self.chars_left -= len(text)
        last = self.segments[-1].token_ids
        if self._codec is not None and last and last[-1] in self._codec.eos_ids:
            ids = tuple(self._codec.encode_next_turn(text))
            # What ended this turn may be what begins the next one (GLM).
            ids = ids[1:] if ids[:1] == last[-1:] else ids
        else:
            ids = self._encode(text)
        self._append(Segment(Source.TEMPLATE, text, ids, agent=agent))

    def _consult(self, consults: Sequence[Consult]) -> None:
        if self.turn >= self.config.max_turns:
            # No turn is left in which a reply could be used.
            self._finish("max_turns", truncated=True)
            return
        left = self.config.max_consults - self.num_consults
        for number, consult in enumerate(consults):
            if number >= left:
                message = f"no consults are left ({self.config.max_consults} were allowed); answer now."
                self._pending.append((consult.agent, message))
                continue
            transcript = self.transcript if self.config.helper_view == "transcript" else ""
            seed, confidential = self._consult_seed(number), self.task.confidential
            said = sum(s.source is Source.AGENT and s.agent == consult.agent for s in self.segments)
            hints = self.task.hints.get(consult.agent, ())[said:]
            request = ConsultRequest(
                consult.query, transcript, self.task.id, seed, confidential=confidential, hints=hints
            )
            self._pending.append((consult.agent, request))
        self._pass_turn()

    def _consult_seed(self, number: int) -> int:
        """The helper's seed for a consult of this turn: a function of the episode's seed, the turn and the number alone."""
        key = f"{self.seed}/{self.turn}/{number}".encode()
        # A hash costs a tenth of a SeedSequence, and one draw of 32 bits is all that is needed.
        return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big")

    def _pass_turn(self) -> None:
        """Gives the turn to the next helper whose reply is due, else to the policy."""
        while self._pending and isinstance(self._pending[0][1], str):
            agent, message = self._pending.popleft()
            self._notice(str(message), agent)
        self.turn_of = self._pending[0][0] if self._pending else POLICY
        if not self._pending and self.chars_left <= 0:
            self._finish("max_chars", truncated=True)

    def _malformed(self, malformed: Malformed, finish: FinishReason) -> None:
        if finish == "length":
            self._finish("length", truncated=True)
        elif not self.config.assisted:
            # Alone there is nobody to tell the policy to go on: a turn that ends without an answer is the last.
            self._finish("no_answer")
        elif self.turn >= self.config.max_turns:
            self._finish("max_turns", truncated=True)
        else:
            self._notice(malformed.reason)
            if self.chars_left <= 0:
                self._finish("max_chars", truncated=True)

    def _overflow(self, text: str, tokens: TokenAction | None) -> None:
        """A turn that is longer than what is left of the transcript ends the episode; its text is cut, its ids are not."""
        if tokens is None:
            cut = text[: self.chars_left]
            self._append(Segment(Source.POLICY, cut, self._encode(cut)))
        else:
            self._append(Segment(Source.POLICY, text, tuple(tokens.ids), tuple(tokens.logprobs or ())))
        self.chars_left = 0
        self._finish("max_chars", truncated=True)

    def _finish(
        self, reason: str, *, truncated: bool = False, answer: Answer | None = None, grade: Grade | None = None
    ) -> None:
        self.grade = self._grade_answer(answer.text) if answer is not None and grade is None else grade
        if self._reward_fn is None:
            self.reward_parts["correct"] = float(self.grade is not None and self.grade.correct)
        else:
            self.reward_parts |= _reward_parts(self._reward_fn(self.task, answer, self.grade))
        self.stop_reason = reason
        self.truncated, self.terminated = truncated, not truncated
        self.turn_of = None


def _reward_parts(returned: float | Mapping[str, float]) -> dict[str, float]:
    """The parts of a reward that a user's function returned."""
    named = returned if isinstance(returned, Mapping) else {"correct": returned}
    try:
        parts = {str(name): float(value) for name, value in named.items()}
    except (TypeError, ValueError):
        parts = {}
    if "consult_cost" in parts or len(parts) < len(named) or not all(map(math.isfinite, parts.values())):
        raise ConfigurationError(
            "reward_fn returns a finite number, or a mapping from names of parts to finite numbers, 'consult_cost' not among "
            f"them, which is the environment's own; got {str(returned)[:200]}. Return 0.0 where there is no reward."
        )
    return parts


def tokens_covering(codec: TokenCodec, ids: Sequence[int], end: int) -> int:
    """The least number of leading ids whose text reaches `end` characters."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(codec.decode(ids[:middle])) >= end:
            high = middle
        else:
            low = middle + 1
    return low
