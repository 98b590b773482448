from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aipo_env
from aipo_env import Answer, Consult, EpisodeConfig, Reply, Segment, Source, TokenAction, Trajectory
from aipo_env.dialects.base import TokenCodec
from aipo_env.errors import AipoError, ConfigurationError, DataFormatError
from aipo_env.game import ConsultGame
from tests.helpers import CharacterCodec, Recorder, SumTasks

NAMES = ("verify", "knowledge")


class PairCodec(CharacterCodec):
    """Two characters a token, so that a token may reach beyond the end of an action."""

    fingerprint = "pairs"
    EOS = 2**42
    eos_ids = reserved_ids = frozenset({EOS})

    def encode(self, text: str) -> list[int]:
        return [sum(ord(c) << 21 * i for i, c in enumerate(text[at : at + 2])) for at in range(0, len(text), 2)]

    encode_tag = encode

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(part) for i in ids if i < self.EOS for part in (i & 0x1FFFFF, i >> 21) if part)


def make_game(codec: TokenCodec | None = None, **rules: object) -> ConsultGame:
    config = EpisodeConfig(**{"agents": NAMES, **rules})  # type: ignore[arg-type]
    agents = {name: Recorder("fine", name) for name in NAMES}
    return ConsultGame(SumTasks(), agents, config, prompt="bare", codec=codec, env_id="sums-consult")


PIECES = st.sampled_from(
    [
        '<consult agent="verify">', '<consult agent="knowledge">', '<consult agent="nobody">', "</consult>", "q", " ",
        '<consult agent="verify">ask</consult>', '<consult agent="knowledge">and this</consult>', "<notice>", "</notice>",
        '<feedback agent="verify">', "</feedback>", "\\boxed{", "\\boxed{6}", "}", "<answer>", "</answer>", "<", "consult", "&lt;",
        "é数", "some words of some length", "<notice>the consult tag was not closed with </consult>.</notice>",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=6).map("".join)
TURNS = st.one_of(TEXTS, TEXTS.map(lambda text: '<consult agent="verify">ask</consult>' + text))


@dataclasses.dataclass(frozen=True)
class Turn:
    """What a random policy does, before it is known whether there are tokens."""

    text: str
    form: str
    ends: bool
    length: bool


TURN = st.builds(
    Turn,
    text=TURNS,
    form=st.sampled_from(["text", "tokens", "sampled", "sampled", "consult", "consults", "answer"]),
    ends=st.booleans(),
    length=st.booleans(),
)
REPLY = st.tuples(TEXTS, st.sampled_from(["text", "error", "ids", "sampled", "foreign", "ended"]))
RULES = st.fixed_dictionaries(
    {
        "assisted": st.sampled_from([True, True, True, False]),
        "max_consults": st.integers(0, 4),
        "max_turns": st.integers(2, 5),
        "max_chars": st.sampled_from([40, 120, 300, 10_000]),
        "max_reply_chars": st.sampled_from([1, 8, 9, 40, 500]),
        "consult_cost": st.sampled_from([0.0, 0.1]),
        "fan_out": st.integers(1, 2),
    }
)


def action_of(turn: Turn, codec: TokenCodec | None, fan_out: int) -> object:
    if turn.form == "consult":
        return Consult("verify", "is it?", turn.text.replace("<", "").replace("\\", ""))
    if turn.form == "consults":
        return [Consult("knowledge", "one"), Consult("verify", "two")][:fan_out]
    if turn.form == "answer":
        return Answer("5")
    if turn.form == "text" or codec is None:
        return turn.text
    ids = [*codec.encode(turn.text), *codec.eos_ids] if turn.ends else codec.encode(turn.text)
    logprobs = [-0.25 * (1 + i % 3) for i in range(len(ids))] if turn.form == "sampled" else None
    return TokenAction(ids, logprobs, "length" if turn.length else "stop")


def reply_of(text: str, kind: str, codec: TokenCodec | None) -> Reply:
    if kind == "error":
        return Reply("", error=text * 20)
    if kind == "text" or codec is None:
        return Reply(text)
    # An id without text: such ids are not those that encoding the text would give. An end token is not taken from a helper.
    ids = (*codec.encode(text), max(codec.eos_ids) + (kind != "ended"))
    fingerprint = "another" if kind == "foreign" else codec.fingerprint
    return Reply(text, ids, tuple(-0.5 * i for i in range(len(ids))) if kind == "sampled" else None, fingerprint)


def play(
    game: ConsultGame, index: int, turns: Sequence[Turn], replies: Sequence[tuple[str, str]], end: str, given_up: int
) -> Trajectory:
    episode = game.make_episode(index, seed=index)
    pending = list(replies)
    for number, turn in enumerate(turns):
        if episode.done or number == given_up:
            break
        episode.act(action_of(turn, game.codec, game.config.fan_out))  # type: ignore[arg-type]
        while episode.requests and pending:
            episode.reply(reply_of(*pending.pop(), game.codec))
        if number + 1 != given_up:
            game.grade(episode)
        if episode.turn_of != "policy":
            break
    episode.truncate(end)
    return episode.trajectory(sample=3)


@settings(max_examples=200, deadline=None)
@given(
    codec=st.sampled_from([None, CharacterCodec(), PairCodec()]),
    rules=RULES,
    index=st.integers(0, 99),
    turns=st.lists(TURN, min_size=1, max_size=5),
    replies=st.lists(REPLY, max_size=8),
    end=st.sampled_from(["timeout", "error", "length"]),
    given_up=st.integers(0, 8),
)
def test_whatever_was_played_is_played_again_to_the_bit(
    codec: TokenCodec | None,
    rules: dict[str, object],
    index: int,
    turns: list[Turn],
    replies: list[tuple[str, str]],
    end: str,
    given_up: int,
) -> None:
    game = make_game(codec, **rules)
    trajectory = play(game, index, turns, replies, end, given_up)
    read = Trajectory.from_json(json.loads(json.dumps(trajectory.to_json())))
    result = aipo_env.replay([read], game)
    assert [str(m) for m in result.mismatches] == []
    assert result.num_trajectories == 1


def asked_and_answered(codec: TokenCodec | None) -> Trajectory:
    game = make_game(codec)
    turns = [Turn('x<consult agent="verify">ask</consult>', "sampled", False, False)]
    turns += [Turn(r"so \boxed{5}", "sampled", True, False)]
    return play(game, 4, turns, [("fine", "sampled")], "error", 9)


def tampered(trajectory: Trajectory, number: int, **changes: object) -> Trajectory:
    segments = list(trajectory.segments)
    segments[number] = dataclasses.replace(segments[number], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(trajectory, segments=segments)


def other_id(segment: Segment) -> tuple[int, ...]:
    return (*segment.token_ids[:-1], ord("?"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: dataclasses.replace(t, reward=0.0), ["reward"]),
        (lambda t: dataclasses.replace(t, reward_parts={"correct": 0.5}), ["reward_parts"]),
        (lambda t: dataclasses.replace(t, verdict="wrong"), ["verdict"]),
        (lambda t: dataclasses.replace(t, num_consults=0), ["num_consults"]),
        (lambda t: dataclasses.replace(t, task_index=5), ["segments[0].text", "segments[0].token_ids", "task_id", "verdict"]),
        (lambda t: tampered(t, 0, text="4+2="), ["segments[0].text"]),
        (lambda t: tampered(t, 0, token_ids=other_id(t.segments[0])), ["segments[0].token_ids"]),
        (lambda t: tampered(t, 1, token_ids=other_id(t.segments[1])), ["segments[1].token_ids"]),
        (lambda t: tampered(t, 2, token_ids=other_id(t.segments[2])), ["segments[2].token_ids"]),
        (lambda t: tampered(t, 2, text=t.segments[2].text.replace("fine", "fi ne")), ["segments[2].token_ids"]),
        (lambda t: tampered(t, 1, token_ids=(-1, *t.segments[1].token_ids[1:])), ["segments[1].token_ids"]),
        (lambda t: tampered(t, 2, agent="knowledge"), ["segments[2].agent"]),
        (lambda t: tampered(t, 3, text=r"so \boxed{6}"), ["segments[3].token_ids", "verdict"]),
        (lambda t: dataclasses.replace(t, segments=t.segments[:-1]), ["stop_reason", "verdict"]),
        (lambda t: dataclasses.replace(t, segments=[*t.segments, t.segments[1]]), ["len(segments)"]),
    ],
)  # fmt: skip
def test_a_tampered_trace_is_named(change: Callable[[Trajectory], Trajectory], named: list[str]) -> None:
    trajectory = asked_and_answered(CharacterCodec())
    assert (trajectory.reward, trajectory.num_consults, [s.mu_known for s in trajectory.segments]) == (
        1.0,
        1,
        [False, False, True, False],
    )
    game = make_game(CharacterCodec())
    assert aipo_env.replay([trajectory], game).faithful
    result = aipo_env.replay([trajectory, change(trajectory)], game)
    found = [m.what for m in result.mismatches]
    assert {m.line for m in result.mismatches} == {2}
    for what in named:
        assert any(f.startswith(what) for f in found), (what, found)
    assert "line 2 (sums/4, sample 3)" in str(result.mismatches[0])


def answered(transcript: str) -> str:
    return r"\boxed{1}" if "feedback" in transcript.split("\n")[-1] else '<consult agent="knowledge">1@2</consult>'


def test_a_run_remembers_its_environment(tmp_path: Path) -> None:
    class Librarian(Recorder):
        description = "looks things up in its own way"

    path = tmp_path / "traces.jsonl"
    agents = {"knowledge": Librarian("a reply", "knowledge")}
    options = {"agents": agents, "level": 3, "style": "terse", "max_reply_chars": 4}
    played = aipo_env.collect_rollouts("rulebook-consult", answered, 3, traces=path, **options)
    assert all(t.num_consults == 1 and "looks things up in its own way" in t.text for t in played)
    record = json.loads((tmp_path / "traces.run.json").read_text())
    assert record["options"] == {"level": 3, "style": "terse", "max_reply_chars": 4}
    assert record["omitted"] == []
    result = aipo_env.replay(path)
    assert (result.num_trajectories, result.faithful) == (3, True)
    # With another environment it is another story.
    other = aipo_env.replay(path, "rulebook-consult", **{**options, "level": 2})
    assert {m.line for m in other.mismatches} == {1, 2, 3}
    assert any(m.what == "segments[0].text" for m in other.mismatches)


def test_a_solo_run_remembers_its_environment_too(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    aipo_env.collect_rollouts("rulebook", answered, 2, traces=path, level=3)
    assert aipo_env.replay(path).faithful


def test_what_cannot_be_remembered_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    env = aipo_env.make("rulebook-consult", tasks=SumTasks(), reward_fn=lambda task, answer, grade: 0.25)
    aipo_env.collect_rollouts(env, answered, 2, traces=path)
    with pytest.raises(ConfigurationError, match="reward_fn, tasks"):
        aipo_env.replay(path)
    assert aipo_env.replay(path, env).faithful
    plain = aipo_env.make("rulebook-consult", tasks=SumTasks())
    assert {m.what for m in aipo_env.replay(path, plain).mismatches} >= {"reward", "reward_parts"}


def test_replay_says_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    with pytest.raises(FileNotFoundError):
        aipo_env.replay(path)
    exact = asked_and_answered(CharacterCodec())
    aipo_env.write_traces(path, [exact])
    with pytest.raises(ConfigurationError, match=r"no .*traces\.run\.json"):
        aipo_env.replay(path)
    with pytest.raises(ConfigurationError, match="codec="):
        aipo_env.replay(path, make_game())
    with pytest.raises(ConfigurationError, match="pass env="):
        aipo_env.replay([exact])
    with pytest.raises(DataFormatError, match="no task_index"):
        aipo_env.replay([dataclasses.replace(exact, task_index=None)], make_game(CharacterCodec()))
    for field in ("task_index", "seed"):
        with pytest.raises(DataFormatError, match=rf"{field} is a whole number, got 'x'"):
            aipo_env.replay([dataclasses.replace(exact, **{field: "x"})], make_game(CharacterCodec()))  # type: ignore[arg-type]
    with pytest.raises(AipoError, match="another task family"):
        aipo_env.replay([dataclasses.replace(exact, task_index=100)], make_game(CharacterCodec()))
    path.write_text('{"a": 1}\n')
    with pytest.raises(DataFormatError, match="line 1"):
        aipo_env.replay(path, make_game())


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    aipo_env.collect_rollouts("rulebook-consult", answered, 2, traces=path, codec=CharacterCodec())
    assert aipo_env.replay(path, codec=CharacterCodec()).faithful
    with pytest.raises(ConfigurationError, match="another tokenizer"):
        aipo_env.replay(path, codec=PairCodec())
    with pytest.raises(ConfigurationError, match="hold token ids"):
        aipo_env.replay(path)


def test_text_traces_replay_in_an_environment_with_a_tokenizer() -> None:
    text = play(make_game(), 4, [Turn(r"\boxed{5}", "text", False, False)], [], "error", 9)
    assert aipo_env.replay([text], make_game(CharacterCodec())).faithful
    assert text.segments[1].source is Source.POLICY
    assert np.isclose(text.reward, 1.0)
