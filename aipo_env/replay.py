"""Plays recorded episodes again without any model, and compares: whether a trace is what its environment made of it.

The policy's turns and the helpers' replies are taken from the record; prompts, notices, token ids, grades and rewards are made
anew.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aipo_env import markup
from aipo_env.dialects.base import Dialect, decoded
from aipo_env.episode import POLICY, Episode
from aipo_env.errors import ConfigurationError, DataFormatError
from aipo_env.game import ConsultGame
from aipo_env.gym_env import ConsultEnv
from aipo_env.protocol import Action, ConsultRequest, FinishReason, Malformed, Reply, TextAction, TokenAction
from aipo_env.registry import make_game
from aipo_env.run_record import RunRecord, record_path
from aipo_env.trajectory import Segment, Source, Trajectory, numbered_traces

_ESCAPED = re.compile(r"&lt;(?=/?(?:consult|feedback|answer|notice)\b)", re.IGNORECASE)
_OWN_ENDS = ("answer", "no_answer", "max_turns", "max_chars")
"""The stop reasons that an episode comes to by itself, never from outside."""
NO_REPLY = Reply("", error="no reply", declined=True)
"""Of a helper that could not answer."""
_FIELDS = (
    "env_id",
    "task_id",
    "seed",
    "assisted",
    "self_help",
    "num_consults",
    "stop_reason",
    "verdict",
    "reward_parts",
    "reward",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Mismatch:
    """One difference between a recorded episode and its replay."""

    line: int
    """Line of the file, or position in the list, from 1."""
    task_id: str
    sample: int
    what: str
    """The field that differs: "reward", "segments[2].token_ids", ..."""
    recorded: object
    replayed: object

    def __str__(self) -> str:
        where = f"line {self.line} ({self.task_id}, sample {self.sample}): {self.what}"
        return f"{where} was {_short(self.recorded)}, is {_short(self.replayed)}"


@dataclasses.dataclass(slots=True)
class Replay:
    """What came of playing a run again."""

    num_trajectories: int = 0
    mismatches: list[Mismatch] = dataclasses.field(default_factory=list)

    @property
    def faithful(self) -> bool:
        """Whether every episode came out as it was recorded."""
        return not self.mismatches


def replay(
    traces: str | os.PathLike[str] | Iterable[Trajectory],
    env: str | ConsultEnv | ConsultGame | None = None,
    **env_options: Any,
) -> Replay:
    """Plays recorded episodes again, and compares every segment, the reward and its parts, verdict, stop reason and consults.

    Nobody is asked: helpers are needed for their descriptions alone, which stand in the prompt. The log-probabilities are
    the record's own and cannot be checked without the model.

    Args:
        traces: a JSON Lines file of traces, or trajectories.
        env: the environment of the run, as for `rollout`, or None to make it from the record beside the file
            (`<name>.run.json`). Traces with token ids need it to have the run's tokenizer.
        env_options: with an environment id, the options of `aipo_env.make`; with None, `codec` alone.

    Raises:
        ConfigurationError: for an environment that cannot have made these traces.
        DataFormatError: for a file that holds no traces, or traces without `task_index`.
    """
    game = _game(traces, env, env_options)
    plain = game.without_codec()
    result = Replay()
    for line, trajectory in _numbered(traces):
        if trajectory.withheld:
            raise ConfigurationError(
                f"line {line} ({trajectory.task_id}) cannot be played again: its task is confidential, and texts and ids "
                "were left out when it was written. An environment that keeps them (of gpqa-diamond with the option "
                "keep_texts=True) writes traces that can be; do not publish those."
            )
        has_ids = any(segment.token_ids for segment in trajectory.segments)
        if has_ids and game.codec is None:
            raise ConfigurationError(
                f"the traces hold token ids (line {line}), and the environment has no tokenizer: pass codec=, that of the run."
            )
        # Traces may be text though the environment has a tokenizer.
        result.mismatches += _compare(line, trajectory, _play_again(trajectory, game if has_ids else plain, line))
        result.num_trajectories += 1
    return result


def unanswered(trajectory: Trajectory, game: ConsultGame) -> Iterator[tuple[int, str, ConsultRequest, Episode]]:
    """For each reply of a recorded episode, the episode as it stands where the helper could not answer instead.

    Args:
        trajectory: as it was played in this process, with its texts.
        game: in which it was played.

    Yields:
        The place of the reply among the segments, the helper, what it was asked, and the episode, to be played on.

    Raises:
        DataFormatError: the game does not come to the recorded episode again.
    """
    assert trajectory.task_index is not None
    episode = game.make_episode(trajectory.task_index, seed=trajectory.seed or 0, assisted=trajectory.assisted)
    places = iter([i for i, segment in enumerate(trajectory.segments) if segment.source is Source.AGENT])
    for due in _due_replies(episode, trajectory):
        if episode.segments != trajectory.segments[: len(episode.segments)]:
            raise DataFormatError(
                f"an episode of {trajectory.task_id} did not come out as it was recorded, so that it cannot be played on "
                'otherwise. `aipo replay` names the difference; reply_credit="trajectory" does without.'
            )
        if due[0].error is None:
            agent, request, other = str(episode.turn_of), episode.request, episode.fork()
            for reply in (NO_REPLY, *due[1:]):
                other.reply(reply)
            yield next(places), agent, request, other


def _game(
    traces: str | os.PathLike[str] | Iterable[Trajectory],
    env: str | ConsultEnv | ConsultGame | None,
    env_options: dict[str, Any],
) -> ConsultGame:
    if isinstance(env, ConsultEnv | ConsultGame):
        if env_options:
            raise ConfigurationError(f"an environment that is made takes no options, got {', '.join(env_options)}.")
        return env.game if isinstance(env, ConsultEnv) else env
    if isinstance(env, str):
        return make_game(env, **env_options)
    if env_options.keys() - {"codec"}:
        raise ConfigurationError(f"{', '.join(env_options)}: options need an environment id, env=.")
    if not isinstance(traces, str | os.PathLike):
        raise ConfigurationError("trajectories by themselves do not say how their environment was made: pass env=.")
    if not record_path(traces).exists():
        # A missing file is to be told of before a missing record.
        with open(traces, "rb"):
            pass
        raise ConfigurationError(
            f"there is no {record_path(traces)} that says how the environment was made: pass env= and its options."
        )
    record, codec = RunRecord.read(record_path(traces)), env_options.get("codec")
    if codec is not None and record.tokenizer not in (None, codec.fingerprint):
        raise ConfigurationError(
            f"the traces were made with another tokenizer: its fingerprint was {record.tokenizer}, this one's is "
            f"{codec.fingerprint}."
        )
    return record.game(codec)


def _numbered(traces: str | os.PathLike[str] | Iterable[Trajectory]) -> Iterable[tuple[int, Trajectory]]:
    return numbered_traces(traces) if isinstance(traces, str | os.PathLike) else enumerate(traces, start=1)


def _play_again(trajectory: Trajectory, game: ConsultGame, line: int) -> Trajectory:
    for name, value in (("seed", trajectory.seed), ("task_index", trajectory.task_index)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise DataFormatError(f"line {line} ({trajectory.task_id}): {name} is a whole number, got {value!r}.")
    if trajectory.task_index is None:
        raise DataFormatError(
            f"line {line} ({trajectory.task_id}) has no task_index, so that its task cannot be made again; it was written by a "
            "version before that field."
        )
    try:
        episode = game.make_episode(
            trajectory.task_index, seed=trajectory.seed or 0, assisted=trajectory.assisted and game.config.assisted
        )
    except IndexError as error:
        raise ConfigurationError(f"line {line} is of another task family or split: {error}") from error
    for _ in _due_replies(episode, trajectory):
        pass
    if trajectory.stop_reason == "answer":
        game.grade(episode)
    if trajectory.stop_reason not in ("", *_OWN_ENDS):
        episode.truncate(trajectory.stop_reason)
    again = episode.trajectory()
    again.seed = trajectory.seed if trajectory.seed is None else again.seed
    return again


def _due_replies(episode: Episode, trajectory: Trajectory) -> Iterator[list[Reply]]:
    """Plays the recorded turns in an episode; halts before each reply, with it and those to the turn's other questions."""
    turns = list(_turns(trajectory.segments))
    for number, (own, after) in enumerate(turns):
        if episode.turn_of != POLICY:
            break
        episode.act(_action(episode, own, after, trajectory.stop_reason, number == len(turns) - 1))
        due = list(_replies(after, episode.dialect))
        while due and episode.requests:
            yield due
            episode.reply(due.pop(0))


def _turns(segments: Sequence[Segment]) -> Iterator[tuple[Segment, list[Segment]]]:
    """Each segment of the policy, and what follows it up to the next."""
    starts = [i for i, segment in enumerate(segments) if segment.source is Source.POLICY]
    for start, end in itertools.pairwise([*starts, len(segments)]):
        yield segments[start], list(segments[start + 1 : end])


def _action(episode: Episode, own: Segment, after: Sequence[Segment], stop_reason: str, last: bool) -> Action:
    """The action that a recorded turn was."""
    finish: FinishReason = "length" if last and stop_reason == "length" else "stop"
    understood = episode.read(TextAction(own.text, finish)).reading.understood
    codec = episode.dialect.codec
    if last and stop_reason == "max_chars" and not after and len(own.text) <= episode.chars_left:
        # A text that was too long was cut to what was left: one more character makes it too long again.
        return own.text + " "
    beyond = _beyond(understood, after) if codec is not None and (episode.dialect.closing or own.agent) else None
    cut = isinstance(understood, Malformed) or bool(own.agent)
    ran_out = last and stop_reason == "length" and cut and after in ([], [beyond])
    if codec is None:
        return TextAction(own.text, "length" if ran_out else "stop")
    ids = own.token_ids + (() if beyond is None else beyond.token_ids)
    rest = "" if beyond is None else beyond.text
    decode = episode.dialect.text
    if decoded(decode, own.token_ids) != own.text or str(decoded(decode, ids))[len(own.text) :] != rest:
        # Ids that the environment made of a text need not decode to it.
        return own.text
    logprobs = own.logprobs + (0.0,) * (len(ids) - len(own.token_ids)) if own.logprobs else None
    return TokenAction(ids, logprobs, "length" if ran_out else "stop")


def _beyond(understood: object, after: Sequence[Segment]) -> Segment | None:
    """The tokens that were sampled past the end of a turn's action, where there are any.

    They are a TEMPLATE segment, as is the notice that a malformed turn gets; that one's text is known.
    """
    unnamed = []
    for segment in after:
        if segment.source is not Source.TEMPLATE or segment.agent:
            break
        unnamed.append(segment)
    if not unnamed:
        return None
    if isinstance(understood, Malformed) and len(unnamed) == 1:
        notice = f"{markup.NOTICE_OPEN}{markup.escape(understood.reason)}{markup.NOTICE_CLOSE}"
        return None if unnamed[0].text == notice else unnamed[0]
    return unnamed[0]


def _replies(after: Iterable[Segment], dialect: Dialect) -> Iterator[Reply]:
    """What the helpers replied to a turn, in order."""
    for segment in after:
        failed = f"{markup.NOTICE_OPEN}{segment.agent} could not answer: "
        if segment.source is Source.AGENT:
            yield dialect.reply_of(segment)
        elif segment.agent and segment.text.startswith(failed):
            error = segment.text[len(failed) :].removesuffix(markup.NOTICE_CLOSE)
            # The message was cut before it was escaped.
            yield Reply("", error=_ESCAPED.sub("<", error))


def _compare(line: int, old: Trajectory, new: Trajectory) -> Iterator[Mismatch]:
    def mismatch(what: str, recorded: object, replayed: object) -> Mismatch:
        if new.confidential and what.startswith("segments"):
            # A mismatch is printed.
            recorded, replayed = (f"(withheld: {len(str(value)):,} characters)" for value in (recorded, replayed))
        return Mismatch(line, old.task_id, old.sample, what, recorded, replayed)

    # Behind the first segment that differs the others differ because of it.
    for number, (left, right) in enumerate(zip(old.segments, new.segments, strict=False)):
        if left != right:
            for field in dataclasses.fields(Segment):
                recorded, replayed = getattr(left, field.name), getattr(right, field.name)
                if recorded != replayed:
                    yield mismatch(f"segments[{number}].{field.name}", recorded, replayed)
            break
    else:
        if len(old.segments) != len(new.segments):
            yield mismatch("len(segments)", len(old.segments), len(new.segments))
    for name in _FIELDS:
        recorded, replayed = getattr(old, name), getattr(new, name)
        if recorded != replayed:
            yield mismatch(name, recorded, replayed)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:100]} ... {text[-50:]}"
