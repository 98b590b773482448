"""The game itself: a pure state machine. No gymnasium, no pettingzoo, no clock, no I/O.

The policy acts; if it consults, the addressed helper acts; then it is the policy's turn again, until it answers, which makes
it the grader's turn, or a budget is spent. Every face of the environment (Gymnasium, PettingZoo, batched rollouts) drives this
class and adds nothing to the rules.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from aipo_env.checks import check_count, check_number
from aipo_env.dialects.base import Dialect, Place, Reading, tokens_covering
from aipo_env.dialects.tags import Tags
from aipo_env.errors import ConfigurationError, EpisodeStateError, InvalidActionError
from aipo_env.grading import Grade
from aipo_env.markup import AnswerForm, Extraction, same_answer
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

POLICY, GRADER = "policy", "grader"
_BUDGETS = {
    "max_consults": "how many consults are answered",
    "max_turns": "how many turns the policy has",
    "max_chars": "how long the transcript may become behind the prompt",
    "max_reply_chars": "how long a reply may be",
    "fan_out": "how many consults one turn may carry",
}


class Turn(NamedTuple):
    """An action as it was read in an episode's present state."""

    text: str
    tokens: TokenAction | None
    finish: FinishReason
    reading: Reading


_SAMPLED, _WRITTEN = (TokenAction, TextAction), (str, TextAction, TokenAction)
_NAME = re.compile("[A-Za-z][A-Za-z0-9_-]{0,63}")

RewardFunction = Callable[[Task, Answer | None, Grade | None], float | Mapping[str, float]]
"""A user's reward: gets the task, the answer (None if there was none) and its grade; returns the reward or its parts."""


@dataclasses.dataclass(frozen=True, slots=True)
class EpisodeConfig:
    """The rules of an episode."""

    agents: tuple[str, ...] = ("verify", "knowledge", "reasoning")
    """The helpers that may be addressed, in the order of the consult mask."""
    assisted: bool = True
    """Whether helpers answer."""
    solo: Literal["plain", "self-help"] = "plain"
    """What an episode is in which none does. "plain": nothing is inserted, and a consult tag is text like any other.
    "self-help": behind a consult the policy gets the place of the reply, with what the dialect puts around it, and writes the
    reply itself. In assisted episodes the marker that closes a reply is then learnt like the reply."""
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
    answers: AnswerForm = "value"
    """What an answer is: a "value" stands in its tag, a "program" may be the turn's last fenced block. The task family's
    own `answers` comes first."""
    extraction: Extraction = "boxed"
    r"""What marks a value as the answer: "boxed" is `\boxed{...}` and `<answer>` alone; "lenient" takes `The answer is 5.`,
    `#### 5` and the like too, for comparisons with harnesses that do."""

    consults_in_thought: bool = True
    """Whether a consult counts that stands in a thought of the policy; what it quotes from the prompt never does."""

    def __post_init__(self) -> None:
        for name, what in _BUDGETS.items():
            check_count(name, getattr(self, name), what=what, least=int(name != "max_consults"))
        cost = "what a consult takes from the reward"
        check_number("consult_cost", self.consult_cost, what=cost, inclusive=True)
        if self.solo not in ("plain", "self-help"):
            raise ConfigurationError(f"solo is 'plain' or 'self-help', got {self.solo!r}.")
        if self.asks and (self.max_turns < 2 or not self.agents):
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
        for agent in self.agents:
            if agent in (POLICY, GRADER):
                raise ConfigurationError(f"{agent!r} is the {agent}'s own name; give the helper another one.")
            if _NAME.fullmatch(agent) is None:
                raise ConfigurationError(
                    f"a helper's name is letters, digits, '_' and '-' and starts with a letter; got {agent!r}."
                )

    @property
    def asks(self) -> bool:
        """Whether a consult is an action: a helper replies, or the policy itself."""
        return self.assisted or self.solo == "self-help"


class Episode:
    """One problem being solved.

    Args:
        task: the problem.
        prompt: what the policy sees first; the task's text in it is already escaped by the caller's template.
        config: the rules.
        seed: the helpers' seeds derive from it.
        dialect: how actions and replies look; the tags, as text, by default.
        invites: whether the prompt speaks of the helpers.
        reward_fn: replaces the 0/1 reward for a correct answer.
        env_id: recorded in the trajectory.
        task_index: the task's index in its family, recorded in the trajectory.
    """

    def __init__(
        self,
        task: Task,
        prompt: str,
        config: EpisodeConfig | None = None,
        *,
        seed: int = 0,
        dialect: Dialect | None = None,
        invites: bool = True,
        reward_fn: RewardFunction | None = None,
        env_id: str = "",
        task_index: int | None = None,
    ) -> None:
        self.task = task
        self.config = config if config is not None else EpisodeConfig()
        self.turn_of: str | None = POLICY
        """Whose turn it is: "policy", a helper's name, "grader", or None when the episode is over."""
        self.turn = 0
        """Turns that the policy has taken; what it writes in a helper's place is none."""
        self.replying = ""
        """The helper in whose place the policy writes now, in an episode of self-help."""
        self.num_consults = 0
        self.stop_reason = ""
        self.terminated = self.truncated = False
        self.reward_parts: dict[str, float] = {"consult_cost": 0.0} if self.config.consult_cost else {}
        self.grade: Grade | None = None
        self.segments: list[Segment] = []
        self.last_action: Consult | Answer | Malformed | None = None
        self._reward_fn = reward_fn
        self.dialect: Dialect = Tags() if dialect is None else dialect
        self._env_id = env_id
        self.seed = seed
        self._task_index = task_index
        self._closed = False
        """Whether the policy has closed the reply that it wrote last."""
        self._pending: deque[tuple[str, ConsultRequest | str]] = deque()
        """Whose reply is due, in the order of the tags; a text in a request's place is a notice that waits its turn."""
        self.chars_left = self.config.max_chars
        """Characters that are left of `max_chars`."""
        self._transcript, self._told = "", 0
        self.prompt = prompt
        """The template filled with the problem, without what a chat template puts around it."""
        self.segments.append(self.dialect.begin(prompt, invites=invites))

    def fork(self) -> Episode:
        """A copy that goes on by itself: one that is played as the original is the original, to the last id."""
        other = copy.copy(self)
        other.segments, other.reward_parts = list(self.segments), dict(self.reward_parts)
        other._pending = self._pending.copy()
        return other

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.turn_of is None

    @property
    def transcript(self) -> str:
        """Everything so far, prompt first, as the policy sees it."""
        if self._told < len(self.segments):
            self._transcript += "".join([segment.text for segment in self.segments[self._told :]])
            self._told = len(self.segments)
        return self._transcript

    @property
    def messages(self) -> list[dict[str, str]]:
        """Everything so far as a chat: role and content of each message."""
        return self.dialect.messages(self.prompt, self.segments)

    @property
    def requests(self) -> dict[str, ConsultRequest]:
        """What each consulted helper is asked, in the order in which `reply` takes the replies; empty if none is due."""
        due = self._pending if self.config.assisted else ()
        return {agent: request for agent, request in due if isinstance(request, ConsultRequest)}

    @property
    def request(self) -> ConsultRequest:
        """What the helper is asked whose turn it is; EpisodeStateError when no helper is to act."""
        return self._waiting()[1]

    def _waiting(self) -> tuple[str, ConsultRequest]:
        if self._pending and self.config.assisted:
            agent, request = self._pending[0]
            assert isinstance(request, ConsultRequest)
            return agent, request
        raise EpisodeStateError(f"no consult is waiting for a reply; it is {self.turn_of or 'nobody'}'s turn.")

    @property
    def answer(self) -> Answer:
        """What is to be graded; EpisodeStateError when no answer waits for its grade."""
        if self.turn_of != GRADER:
            raise EpisodeStateError(f"no answer is waiting for its grade; it is {self.turn_of or 'nobody'}'s turn.")
        assert isinstance(self.last_action, Answer)
        return self.last_action

    @property
    def consult_mask(self) -> list[int]:
        """1 for each helper that may be consulted now, in the order of `config.agents`."""
        mine = self.turn_of == POLICY and not self.replying
        return [int(self.config.asks and mine and self.num_consults < self.config.max_consults)] * len(
            self.config.agents
        )

    @property
    def num_acts(self) -> int:
        """How often the policy has acted: its turns, and the replies that it wrote in a helper's place."""
        return self.turn + (0 if self.config.assisted else self.num_consults)

    @property
    def reward(self) -> float:
        """The sum of `reward_parts` so far."""
        return sum(self.reward_parts.values())

    def act(self, action: Action | Turn) -> Consult | Answer | Malformed:
        """The policy takes its turn: then replies are due, a grade, its next turn, or nothing any more.

        Args:
            action: text, a structured action or several consults (which lower to text), the sampler's tokens, or what
                `read` made of one of these.

        Returns:
            What the turn was understood as; of several consults the first.

        Raises:
            InvalidActionError: for an action of another type, or a structured one that the markup cannot say.
            EpisodeStateError: when it is not the policy's turn.
        """
        if self.turn_of != POLICY:
            due = "a grade" if self.turn_of == GRADER else "a reply"
            raise EpisodeStateError(
                "the episode is over; reset it." if self.done else f"it is {self.turn_of}'s turn: {due} is due."
            )
        turn = self.read(action)
        if self.replying and len(turn.text) <= self.chars_left:
            return self._reply_itself(turn)
        self.turn += not self.replying
        reading = turn.reading
        self.last_action = understood = reading.understood
        if len(turn.text) > self.chars_left:
            self._overflow(turn.text, turn.tokens)
            return understood
        self._record_policy(turn.text, reading.end, turn.tokens)
        if isinstance(understood, Answer):
            self.turn_of = GRADER
        elif isinstance(understood, Malformed):
            self._malformed(reading.calls or (understood,), turn.finish)
        else:
            self._consult(reading.calls)
        return understood

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
            said = self.dialect.reply(agent, reply, self._place())
            if reply.given_thoughts:
                said = [dataclasses.replace(segment, given_thoughts=segment.mu_known) for segment in said]
            self._insert(said)
            self.num_consults += 1
            if self.config.consult_cost:
                self.reward_parts["consult_cost"] -= self.config.consult_cost
        self._pass_turn()

    def graded(self, grade: Grade) -> None:
        """The answer that is due is graded, which ends the episode.

        Raises:
            EpisodeStateError: when no answer waits for its grade.
        """
        self._finish("answer", answer=self.answer, grade=grade)

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
            "self_help": self.config.asks and not self.config.assisted,
            "verdict": "" if self.grade is None else self.grade.verdict.value,
            "num_consults": self.num_consults,
            "seed": self.seed,
            "task_index": self._task_index,
            "metadata": dict(self.task.metadata),
            "confidential": self.task.confidential,
        }
        return Trajectory(**{**values, **fields})  # type: ignore[arg-type]

    def read(self, action: Action | Turn) -> Turn:
        """What `act` would understand this action as; changes nothing. Raises as `act` does for an action that is none."""
        if isinstance(action, Turn):
            return action
        text = self._lower(action)
        tokens = action if isinstance(action, TokenAction) else None
        finish = action.finish_reason if isinstance(action, _SAMPLED) else "stop"
        if len(text) > self.chars_left:
            left = f"{self.chars_left} of max_chars={self.config.max_chars} were left."
            malformed = Malformed(f"the turn has {len(text)} characters; {left}", text[: self.chars_left])
            return Turn(text, tokens, finish, Reading(malformed, len(text)))
        if self.replying:
            closer = self.dialect.closer(self.replying)
            found = text.find(closer)
            assert self.last_action is not None
            return Turn(
                text, tokens, finish, Reading(self.last_action, found + len(closer) if found >= 0 else len(text))
            )
        ids = None if tokens is None else tokens.ids
        reading = self.dialect.read(text, self.config, self.segments, ids=ids, finish=finish)
        if not isinstance(action, _WRITTEN) and not self._says(action, reading):
            understood = reading.understood
            shown = understood.reason if isinstance(understood, Malformed) else repr(understood)[:120]
            raise InvalidActionError(
                f"a structured action must be readable in the episode's markup as what it is; {str(action)[:120]} reads as "
                f"{text[:120]!r} there, which is understood as: {shown} Leave tags and unbalanced braces out of its texts, or "
                "act with a str."
            )
        return Turn(text, tokens, finish, reading)

    def _says(self, action: Consult | Answer | Sequence[Consult], reading: Reading) -> bool:
        """Whether a structured action was understood as itself."""
        understood = reading.understood
        if isinstance(action, Answer):
            return isinstance(understood, Answer) and same_answer(action, understood, self.config.answers)
        wanted = [action] if isinstance(action, Consult) else action
        first = wanted[0]
        if not (self.config.asks and first.agent in self.config.agents and first.query.strip()):
            # Nobody there, or nothing to answer: an observation that says so, as it is for text.
            return isinstance(understood, Malformed)
        asked = [(part.agent, part.query.strip()) for part in wanted]
        consults = [part for part in reading.calls if isinstance(part, Consult)]
        return [(part.agent, part.query) for part in consults] == asked and consults[0].prefix.endswith(first.prefix)

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
            return self.dialect.render(action, self.config, self.segments)
        if isinstance(action, TokenAction):
            if self.dialect.codec is None:
                raise InvalidActionError(
                    "a TokenAction needs an environment with a tokenizer: pass codec= when making it."
                )
            return self.dialect.text(action.ids)
        if isinstance(action, list | tuple) and action and all(isinstance(part, Consult) for part in action):
            helpers = [part.agent for part in action]
            if len(helpers) > self.config.fan_out or len(set(helpers)) < len(helpers):
                raise InvalidActionError(
                    f"a turn may consult {self.config.fan_out} helper(s) (fan_out), each once; got {', '.join(helpers)}. "
                    "Ask in several turns, or make the environment with a larger fan_out."
                )
            return self.dialect.render(action, self.config, self.segments)
        raise InvalidActionError(
            "an action is a str, Consult, Answer or TokenAction (or TextAction), or a list of Consults; got "
            f"{type(action).__name__}: {str(action)[:80]!r}."
        )

    def _insert(self, segments: Sequence[Segment]) -> None:
        """Records what stands between two turns of the policy."""
        self.segments += segments
        for segment in segments:
            self.chars_left -= len(segment.text)

    def _place(self) -> Place:
        """Where what follows the policy's turn now stands."""
        room = max(0, min(self.config.max_reply_chars, self.chars_left))
        last = self.segments[-1]
        first = last.source is Source.POLICY and not last.agent
        ends = self.config.solo == "self-help"
        return Place(self.segments, room, first, not self._pending, ends, self._closed)

    def _record_policy(self, text: str, end: int, tokens: TokenAction | None) -> None:
        self.chars_left -= end
        agent = self.replying
        if tokens is None:
            self.segments.append(Segment(Source.POLICY, text[:end], self.dialect.ids(text[:end]), agent=agent))
            return
        ids = tuple(tokens.ids)
        logprobs = tuple(tokens.logprobs or ())
        codec = self.dialect.codec
        count = len(ids) if end == len(text) or codec is None else tokens_covering(self.dialect.text, ids, end)
        kept = self.dialect.text(ids[:count])
        self.segments.append(Segment(Source.POLICY, kept, ids[:count], logprobs[:count], agent=agent))
        if count < len(ids):
            # Sampled past the end of the action: in the sampler's context, so in the record, but not the policy's
            # doing.
            self.segments.append(Segment(Source.TEMPLATE, text[len(kept) :], ids[count:]))

    def _reply_itself(self, turn: Turn) -> Consult | Answer | Malformed:
        """The policy has written what it is told in a helper's place."""
        end = turn.reading.end
        self._record_policy(turn.text, end, turn.tokens)
        agent, self.replying = self.replying, ""
        self._closed = turn.text[:end].endswith(self.dialect.closer(agent))
        self.num_consults += 1
        if turn.finish == "length" and not self._closed:
            self._finish("length", truncated=True)
        else:
            self._insert(self.dialect.end_reply(agent, self._place()))
            self._pass_turn()
        return turn.reading.understood

    def _notice(self, message: str, agent: str = "") -> None:
        self._insert(self.dialect.notice(message, agent, self._place()))
        self._closed = False

    def _consult(self, calls: Sequence[Consult | Malformed]) -> None:
        if self.turn >= self.config.max_turns:
            # No turn is left in which a reply could be used.
            self._finish("max_turns", truncated=True)
            return
        left = self.config.max_consults - self.num_consults
        number = 0
        for consult in calls:
            if isinstance(consult, Malformed):
                self._pending.append(("", consult.reason))
                continue
            if number >= left:
                message = f"no consults are left ({self.config.max_consults} were allowed); answer now."
                self._pending.append((consult.agent, message))
                continue
            seen = self.config.helper_view == "transcript"
            transcript = self.dialect.retell(self.prompt, self.segments[1:]) if seen else ""
            seed, confidential = self._consult_seed(number), self.task.confidential
            hints = self.task.hints.get(consult.agent, ())
            if hints:
                hints = hints[sum(s.source is Source.AGENT and s.agent == consult.agent for s in self.segments) :]
            request = ConsultRequest(
                consult.query, transcript, self.task.id, seed, confidential=confidential, hints=hints
            )
            self._pending.append((consult.agent, request))
            number += 1
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
        if self._pending and self.config.assisted:
            self.turn_of = self._pending[0][0]
            return
        self.turn_of = POLICY
        if self._pending:
            self.replying = self._pending[0][0]
            self._insert(self.dialect.open_reply(self.replying, self._place()))
            self._pending.popleft()
        if self.chars_left <= 0:
            self._finish("max_chars", truncated=True)

    def _malformed(self, calls: Sequence[Consult | Malformed], finish: FinishReason) -> None:
        if finish == "length":
            self._finish("length", truncated=True)
        elif not self.config.asks:
            # Alone there is nobody to tell the policy to go on: a turn that ends without an answer is the last.
            self._finish("no_answer")
        elif self.turn >= self.config.max_turns:
            self._finish("max_turns", truncated=True)
        else:
            self._pending += [("", call.reason) for call in calls if isinstance(call, Malformed)]
            self._pass_turn()

    def _overflow(self, text: str, tokens: TokenAction | None) -> None:
        """A turn that is longer than what is left of the transcript ends the episode; its text is cut, its ids are not."""
        if tokens is None:
            cut = text[: self.chars_left]
            self.segments.append(Segment(Source.POLICY, cut, self.dialect.ids(cut), agent=self.replying))
        else:
            logprobs = tuple(tokens.logprobs or ())
            self.segments.append(Segment(Source.POLICY, text, tuple(tokens.ids), logprobs, agent=self.replying))
        self.chars_left = 0
        self._finish("max_chars", truncated=True)

    def _finish(
        self, reason: str, *, truncated: bool = False, answer: Answer | None = None, grade: Grade | None = None
    ) -> None:
        self.grade = grade
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
