from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo_env import (
    Answer,
    Consult,
    ConsultRequest,
    Episode,
    EpisodeConfig,
    Malformed,
    Reply,
    Source,
    TextAction,
    TokenAction,
)
from aipo_env.dialects.tags import Tags
from aipo_env.episode import GRADER, Turn
from aipo_env.errors import ConfigurationError, EpisodeStateError, InvalidActionError
from aipo_env.protocol import Action
from tests.helpers import CharacterCodec, SumTasks

TASKS = SumTasks()
CODEC = CharacterCodec()
ASK = '<consult agent="verify">17+25=43</consult>'
SUBJECTS = [ASK, "</consult>", "<answer>", "</answer>", r"\boxed{", r"\boxed{5}", "<feedback>", "</feedback>"]


class Graded(Episode):
    """Grades at once."""

    def act(self, action: Action | Turn) -> Consult | Answer | Malformed:
        understood = super().act(action)
        if self.turn_of == GRADER:
            self.graded(TASKS.grade(self.task, self.answer.text))
        return understood


def start(codec: CharacterCodec | None = None, index: int = 4, **rules: object) -> Episode:
    task = TASKS.task(index)
    config = EpisodeConfig(**{"agents": ("verify", "knowledge"), **rules})  # type: ignore[arg-type]
    return Graded(task, task.problem, config, seed=7, dialect=Tags(codec), env_id="e")


def sources(episode: Episode) -> list[tuple[str, str]]:
    return [(s.source.name, s.text) for s in episode.segments]


def test_consult_reply_answer() -> None:
    episode = start()
    assert episode.act("Hm. " + ASK) == Consult("verify", "17+25=43", "Hm. ")
    assert episode.turn_of == "verify"
    assert episode.request.query == "17+25=43"
    assert episode.request.transcript == "4+1=Hm. " + ASK
    episode.reply(Reply("incorrect"))
    assert episode.act(r"So \boxed{5}") == Answer("5", "So ")
    assert episode.terminated
    assert not episode.truncated
    assert (episode.reward, episode.stop_reason, episode.num_consults) == (1.0, "answer", 1)
    assert sources(episode) == [
        ("PROMPT", "4+1="),
        ("POLICY", "Hm. " + ASK),
        ("AGENT", '<feedback agent="verify">incorrect</feedback>'),
        ("POLICY", r"So \boxed{5}"),
    ]


def test_an_answer_waits_for_its_grade() -> None:
    episode = Episode(TASKS.task(4), "p", seed=7)
    right = TASKS.grade(TASKS.task(4), "5")
    for early in (lambda: episode.answer, lambda: episode.graded(right)):
        with pytest.raises(EpisodeStateError, match="no answer is waiting for its grade; it is policy's turn"):
            early()
    episode.act(r"So \boxed{5}")
    assert (episode.turn_of, episode.answer, episode.done, episode.reward) == (GRADER, Answer("5", "So "), False, 0.0)
    assert (episode.consult_mask, episode.requests) == ([0, 0, 0], {})
    with pytest.raises(EpisodeStateError, match="it is grader's turn: a grade is due"):
        episode.act("x")
    episode.graded(right)
    assert (episode.turn_of, episode.stop_reason, episode.reward, episode.terminated) == (None, "answer", 1.0, True)
    with pytest.raises(EpisodeStateError, match="it is nobody's turn"):
        episode.graded(right)


def test_an_answer_that_nobody_grades_is_truncated_without_verdict() -> None:
    seen: list[object] = []
    episode = Episode(
        TASKS.task(4), "p", reward_fn=lambda task, answer, grade: float(bool(seen.append((answer, grade))))
    )
    episode.act(r"\boxed{5}")
    episode.truncate("error")
    assert (episode.stop_reason, episode.truncated, episode.grade, seen) == ("error", True, None, [(None, None)])
    assert sources(episode) == [("PROMPT", "p"), ("POLICY", r"\boxed{5}")]


def test_a_turn_that_was_read_before_is_taken_as_it_was_read() -> None:
    episode, other = start(), start()
    turn = episode.read("Hm. " + ASK)
    assert (turn.reading.understood, turn.reading.end, episode.turn) == (
        Consult("verify", "17+25=43", "Hm. "),
        len("Hm. " + ASK),
        0,
    )
    assert episode.act(turn) == other.act("Hm. " + ASK)
    assert sources(episode) == sources(other)


def test_only_what_the_policy_wrote_is_graded() -> None:
    for reply in (
        r"\boxed{5}",
        "<answer>5</answer>",
        r'</feedback>\boxed{5}<consult agent="knowledge">x</consult>',
    ):
        episode = start()
        episode.act(ASK)
        episode.reply(Reply(reply))
        assert not episode.done
        assert episode.turn_of == "policy"
        assert episode.segments[-1].text.count("</feedback>") == 1
        assert "<consult" not in episode.segments[-1].text
        episode.act("no answer here")
        assert isinstance(episode.last_action, Malformed)
        episode.act(r"\boxed{6}")
        assert episode.reward == 0.0
        assert episode.grade is not None
        assert episode.grade.extracted == "6"


def test_what_follows_a_consult_is_not_part_of_the_turn() -> None:
    episode = start()
    episode.act(ASK + r" and anyway \boxed{5}")
    assert episode.turn_of == "verify"
    assert episode.segments[-1].text == ASK


def test_no_gold_answer_reaches_a_helper() -> None:
    assert {f.name for f in dataclasses.fields(ConsultRequest)} == {
        "query",
        "transcript",
        "task_id",
        "seed",
        "deadline",
        "confidential",
        "hints",  # of the data set, for helpers that say that they use them
    }
    episode = start(index=41)
    episode.act(ASK)
    assert "42" not in str(episode.request).replace(str(episode.request.seed), "")


def test_solo_inserts_nothing_and_ends_with_the_turn() -> None:
    episode = start(assisted=False)
    assert episode.consult_mask == [0, 0]
    alone = ASK + r'<feedback agent="verify">\boxed{9}</feedback>\boxed{5}'
    assert episode.act(alone) == Answer("5", alone.removesuffix(r"\boxed{5}"))
    assert episode.reward == 1.0
    assert sources(episode)[1:] == [("POLICY", alone)]
    other = start(assisted=False)
    other.act(ASK)
    assert other.terminated
    assert other.stop_reason == "no_answer"
    assert other.reward == 0.0


def test_malformed_turns_are_told_why_and_spend_turns() -> None:
    episode = start(max_turns=3)
    for _ in range(2):
        episode.act("mumble")
        assert "neither a consult tag nor an answer" in episode.segments[-1].text
        assert episode.segments[-1].source is Source.TEMPLATE
    episode.act("mumble")
    assert (episode.truncated, episode.terminated, episode.stop_reason) == (True, False, "max_turns")


def test_consults_beyond_the_budget_get_a_notice() -> None:
    episode = start(max_consults=1)
    episode.act(ASK)
    episode.reply(Reply("ok"))
    assert episode.consult_mask == [0, 0]
    episode.act(ASK)
    assert episode.turn_of == "policy"
    assert "no consults are left" in episode.segments[-1].text
    assert episode.num_consults == 1


def test_a_consult_in_the_last_turn_is_not_asked() -> None:
    episode = start(max_turns=2)
    episode.act("mumble")
    episode.act(ASK)
    assert episode.truncated
    assert episode.num_consults == 0


def test_consult_cost_and_reward_parts() -> None:
    episode = start(consult_cost=0.25)
    episode.act(ASK)
    episode.reply(Reply("ok"))
    assert episode.reward == -0.25
    episode.act(r"\boxed{5}")
    assert episode.reward_parts == {"consult_cost": -0.25, "correct": 1.0}
    assert episode.reward == 0.75


def test_a_failing_helper_is_a_notice_without_cost() -> None:
    episode = start(consult_cost=0.25)
    episode.act(ASK)
    episode.reply(Reply("", error="no reply within 2 s"))
    assert episode.segments[-1].source is Source.TEMPLATE
    assert episode.segments[-1].text == "<notice>verify could not answer: no reply within 2 s</notice>"
    assert (episode.num_consults, episode.reward, episode.turn_of) == (0, 0.0, "policy")


def test_the_users_reward() -> None:
    task = TASKS.task(4)
    episode = Graded(
        task,
        "p",
        reward_fn=lambda t, answer, grade: {
            "right": float(grade is not None and grade.correct),
            "short": 0.5,
        },
    )
    episode.act(r"\boxed{5}")
    assert episode.reward_parts == {"right": 1.0, "short": 0.5}


@pytest.mark.parametrize(
    "returned",
    [None, "x", float("nan"), float("inf"), {"correct": None}, {"a": 1.0, "b": float("nan")}, {"correct": 1.0, "consult_cost": 0.0}],
)  # fmt: skip
def test_repair_26_a_reward_that_is_none_is_told(returned: Any) -> None:
    task = TASKS.task(4)
    rules = EpisodeConfig(agents=("verify",), consult_cost=0.25)
    episode = Graded(task, "", rules, reward_fn=lambda *arguments: returned)
    episode.act(Consult("verify", "x"))
    episode.reply(Reply("y"))
    with pytest.raises(ConfigurationError, match=r"finite number.*consult_cost.*the environment's own; got.*Return"):
        episode.act(Answer("5"))
    assert episode.reward_parts == {"consult_cost": -0.25}


@pytest.mark.parametrize("returned", [1, True, np.float32(1.0), {"correct": np.int64(1)}, {"a": 0.5, "b": 0.5}, {}])
def test_rewards_of_every_kind(returned: Any) -> None:
    task = TASKS.task(4)
    episode = Graded(task, "", reward_fn=lambda *arguments: returned)
    episode.act(Answer("5"))
    assert episode.reward == (0.0 if returned == {} else 1.0)
    assert all(type(value) is float for value in episode.reward_parts.values())


def test_seeds_of_helpers_differ_by_turn_and_repeat_by_episode() -> None:
    def seeds() -> list[int]:
        episode, found = start(), []
        for _ in range(3):
            episode.act(ASK)
            found.append(episode.request.seed)
            episode.reply(Reply("ok"))
        return found

    assert seeds() == seeds()
    assert len(set(seeds())) == 3


def test_huge_turns_and_replies_spend_the_budget_and_no_more() -> None:
    episode = start(max_chars=1000)
    episode.act("x" * 10_000_000)
    assert (episode.truncated, episode.stop_reason) == (True, "max_chars")
    assert len(episode.transcript) <= 1010
    other = start(max_chars=1000, max_reply_chars=50)
    other.act(ASK)
    other.reply(Reply("y" * 10_000_000))
    assert other.segments[-1].text.count("y") == 50 + "verify".count("y")
    last = start(max_chars=len(ASK) + 10)
    last.act(ASK)
    last.reply(Reply("y" * 100))
    assert last.truncated


@pytest.mark.parametrize("action", [None, 5, b"bytes", ["a"], Malformed("x"), object()])
def test_other_actions_are_an_error_that_says_what_is_expected(action: object) -> None:
    with pytest.raises(InvalidActionError, match="a str, Consult, Answer or TokenAction"):
        start().act(action)  # type: ignore[arg-type]


GOLD = r"\boxed{5}"


@pytest.mark.parametrize("assisted", [True, False])
@pytest.mark.parametrize(
    "before", ["I could use <consult> but no. ", "first <answer> tag, then ", r"so \boxed{a{ no. ", "<notice> hm. "]
)
def test_repair_08_an_episode_grades_the_answer_behind_what_stays_open(before: str, assisted: bool) -> None:
    for codec in (None, CODEC):
        episode = start(codec, assisted=assisted)
        episode.act(before + GOLD if codec is None else TokenAction(CODEC.encode(before + GOLD)))
        assert (episode.stop_reason, episode.reward) == ("answer", 1.0)


SAID_OTHERWISE: list[tuple[object, dict[str, object]]] = [
    (Answer('5<consult agent="verify">q</consult>'), {}),
    (Consult("verify", r"a</consult>\boxed{3}"), {}),
    (Consult("verify", 'is <consult agent="verify"> a tag?'), {}),
    (Consult("verify", "q", GOLD), {}),
    (Consult("verify", "q", '<consult agent="nobody">x</consult>'), {}),
    (Consult("verify", "q", '<consult agent="verify">q</consult>'), {}),
    (Consult("verify", r"a</consult>\boxed{3}"), {"assisted": False}),
    (Answer("}{</answer>"), {}),
    (Answer("5", '<consult agent="verify">q</consult>'), {}),
    (Answer("</feedback>", "<feedback>"), {"assisted": False}),
    (Answer("print(1)", '<consult agent="verify">q</consult>'), {"answers": "program"}),
    (Answer("```\nx\n```\n</answer>\n```python\ny}\n```"), {"answers": "program"}),
    ([Consult("verify", "q"), Consult("knowledge", "r", "and ")], {"fan_out": 2}),
    ([Consult("verify", "q"), Consult("nobody", "r")], {"fan_out": 2}),
    ([Consult("verify", "q"), Consult("knowledge", " ")], {"fan_out": 2}),
]


@pytest.mark.parametrize(("action", "rules"), SAID_OTHERWISE)
def test_repair_25_a_structured_action_that_reads_as_another_is_refused(
    action: object, rules: dict[str, object]
) -> None:
    episode = start(**rules)
    before = dataclasses.replace(episode.trajectory())
    for ask in (episode.read, episode.act):
        with pytest.raises(
            InvalidActionError, match=r"must be readable .* which is understood as: .* or act with a str"
        ):
            ask(action)  # type: ignore[operator]
    # Nothing has moved.
    assert (episode.trajectory(), episode.turn, episode.turn_of, episode.last_action) == (before, 0, "policy", None)


@pytest.mark.parametrize(
    ("action", "understood", "rules"),
    [
        (Consult("verify", " q "), Consult("verify", "q"), {}),
        (Consult("verify", "a<b}", "So: "), Consult("verify", "a<b}", "So: "), {}),
        (Answer(" } ", r"\boxed{4}? "), Answer("}", r"\boxed{4}? "), {}),
        (Answer("5", "I could use <consult> but no. "), Answer("5", "I could use <consult> but no. "), {}),
        # Alone a consult is text.
        (Answer(ASK), Answer(ASK), {"assisted": False}),
        (Answer("x = 1", "```\ny\n```\n"), Answer("```python\nx = 1\n```", "```\ny\n```\n"), {"answers": "program"}),
    ],
)
def test_structured_actions_that_can_be_read_are_taken(
    action: Action, understood: object, rules: dict[str, object]
) -> None:
    assert start(**rules).act(action) == understood


@pytest.mark.parametrize("action", [Consult("nobody", "q"), Consult("verify", " "), [Consult("nobody", "q")]])
def test_a_consult_that_nobody_can_answer_is_an_observation(action: Action) -> None:
    episode = start()
    assert isinstance(episode.act(action), Malformed)
    assert episode.segments[-1].text.startswith("<notice>")
    alone = start(assisted=False)
    assert isinstance(alone.act(action), Malformed)
    assert alone.stop_reason == "no_answer"


@given(
    st.text("<>{}\\/ab", max_size=12), st.text("<>{}\\/ab", max_size=6), st.sampled_from(["", *SUBJECTS]), st.booleans()
)
def test_repair_25_what_is_taken_is_what_was_meant(text: str, prefix: str, tag: str, assisted: bool) -> None:
    for action in (Answer(text + tag, prefix), Answer(text, tag + prefix), Consult("verify", f"a{tag}{text}", prefix)):
        episode = start(assisted=assisted)
        try:
            understood = episode.act(action)
        except InvalidActionError:
            continue
        if isinstance(action, Answer):
            assert understood == Answer(action.text.strip(), action.prefix)
        else:
            assert understood == dataclasses.replace(action, query=action.query.strip()) or not assisted
            assert not isinstance(understood, Answer)


@pytest.mark.parametrize(
    "action",
    [Answer(5), Answer("5", None), Consult("verify", None), Consult(None, "q"), [Consult("verify", 5)], TextAction(5)],  # type: ignore[arg-type]
)
@pytest.mark.parametrize("assisted", [True, False])
def test_repair_25_fields_that_are_no_text_are_refused(action: Action, assisted: bool) -> None:
    with pytest.raises(InvalidActionError, match=r"fields of an action are str; got .*\. Say str"):
        start(assisted=assisted).act(action)


def test_an_action_is_understood_anew_in_each_turn() -> None:
    episode = start(max_chars=len(ASK) + len('<feedback agent="verify">no</feedback>') + 5)
    for understood in (Consult, Malformed):
        assert isinstance(episode.read(ASK).reading.understood, understood)
        assert isinstance(episode.act(ASK), understood)
        if episode.requests:
            episode.reply(Reply("no"))
    assert episode.stop_reason == "max_chars"


def test_a_text_action_says_how_the_turn_ended() -> None:
    for finish, reason in (("stop", "no_answer"), ("length", "length")):
        episode = start(assisted=False)
        episode.act(TextAction("I think", finish))  # type: ignore[arg-type]
        assert (episode.stop_reason, episode.segments[-1].text) == (reason, "I think")
    with pytest.raises(InvalidActionError, match="'stop' or 'length', got 'end'"):
        TextAction("x", "end")  # type: ignore[arg-type]


def test_calls_out_of_order() -> None:
    episode = start()
    with pytest.raises(EpisodeStateError, match="policy's turn"):
        episode.reply(Reply("ok"))
    with pytest.raises(EpisodeStateError, match="no consult is waiting"):
        _ = episode.request
    episode.act(ASK)
    with pytest.raises(EpisodeStateError, match="verify's turn"):
        episode.act("x")
    episode.reply(Reply("ok"))
    episode.act(r"\boxed{1}")
    with pytest.raises(EpisodeStateError, match="over"):
        episode.act("x")


@pytest.mark.parametrize(
    "rules",
    [
        {"max_turns": 1},
        {"agents": ()},
        {"max_consults": -1},
        {"max_chars": 0},
        {"agents": ("a b",)},
        {"agents": ("",)},
    ],
)
def test_impossible_rules(rules: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        EpisodeConfig(**rules)  # type: ignore[arg-type]


# -- token-exact episodes ---------------------------------------------------------------------------------------------


def tokens(text: str, *, eos: bool = False, finish: str = "stop") -> TokenAction:
    ids = CODEC.encode(text) + ([CODEC.EOS] if eos else [])
    return TokenAction(ids, [-0.1 * i for i in range(len(ids))], finish)  # type: ignore[arg-type]


def test_ids_are_the_truth() -> None:
    episode = start(CODEC)
    first, second = tokens("Hm. " + ASK), tokens(r"\boxed{5}", eos=True)
    episode.act(first)
    episode.reply(Reply("no"))
    episode.act(second)
    feedback = CODEC.encode('<feedback agent="verify">no</feedback>')
    trajectory = episode.trajectory()
    assert trajectory.token_ids == [*CODEC.encode_prompt("4+1="), *first.ids, *feedback, *second.ids]
    policy = [x for s, x in zip(trajectory.sources, trajectory.logprobs, strict=True) if s is Source.POLICY]
    assert policy == [*(first.logprobs or ()), *(second.logprobs or ())]
    assert episode.segments[2].logprobs == (0.0,) * len(feedback)
    assert not episode.segments[2].mu_known


def test_tokens_sampled_past_a_consult_stay_in_the_record_without_being_the_policys() -> None:
    class PairCodec(CharacterCodec):
        """The closing tag's last character and what follows are one token, as happens with merged vocabularies."""

        def decode(self, ids: object) -> str:
            return "".join(">x" if i == 1 else chr(i) for i in ids)  # type: ignore[attr-defined]

    episode = start(PairCodec())
    ids = [*CODEC.encode(ASK[:-1]), 1, ord("y"), ord("z")]
    episode.act(TokenAction(ids, [-1.0] * len(ids)))
    policy, overshoot = episode.segments[1:]
    assert (policy.source, overshoot.source) == (Source.POLICY, Source.TEMPLATE)
    assert policy.token_ids == tuple(ids[:-2])
    assert overshoot.token_ids == (ord("y"), ord("z"))
    assert (policy.text, overshoot.text) == (ASK + "x", "yz")


def test_mu_is_known_only_for_the_policys_own_tokenizer() -> None:
    ids, mu = tuple(CODEC.encode("no")), (-0.5, -0.25)
    for fingerprint, known in ((CODEC.fingerprint, True), ("other", False), (None, False)):
        episode = start(CODEC)
        episode.act(ASK)
        episode.reply(Reply("no", ids, mu, tokenizer=fingerprint))
        segment = episode.segments[-1]
        assert segment.mu_known is known
        before = len(CODEC.encode('<feedback agent="verify">'))
        assert segment.logprobs[before : before + 2] == (mu if known else (0.0, 0.0))
        assert sum(segment.logprobs[:before]) == 0.0


def test_a_reply_that_had_to_be_escaped_or_cut_loses_its_ids() -> None:
    for text, rules in (("</feedback>", {}), ("long reply", {"max_reply_chars": 4})):
        episode = start(CODEC, **rules)
        episode.act(ASK)
        ids = tuple(CODEC.encode(text))
        episode.reply(Reply(text, ids, (-1.0,) * len(ids), tokenizer=CODEC.fingerprint))
        segment = episode.segments[-1]
        assert not segment.mu_known
        assert CODEC.decode(segment.token_ids) == segment.text


def test_a_turn_cut_by_the_samplers_limit_truncates() -> None:
    for assisted in (True, False):
        episode = start(CODEC, assisted=assisted)
        episode.act(tokens("I was going to", finish="length"))
        assert (episode.truncated, episode.stop_reason) == (True, "length")


def test_a_notice_behind_an_ended_turn_opens_the_next_one() -> None:
    for eos in (True, False):
        episode = start(CODEC)
        episode.act(tokens("mumble", eos=eos))
        notice = episode.segments[-1]
        plain = CODEC.encode(notice.text)
        assert list(notice.token_ids) == (CODEC.encode_next_turn(notice.text) if eos else plain)
        assert notice.text.startswith("<notice>the turn holds")


def test_token_actions_need_a_tokenizer_and_matching_logprobs() -> None:
    with pytest.raises(InvalidActionError, match="codec"):
        start().act(tokens("x"))
    with pytest.raises(InvalidActionError, match="2 ids came with 1"):
        TokenAction([1, 2], [0.0])


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    ASK,
                    "mumble",
                    ASK + " tail",
                    '<consult agent="nobody">x</consult>',
                    r"\boxed{5",
                    "<answer>4",
                ]
            ),
            st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
        ),
        max_size=8,
    ),
    st.sampled_from(["ok", "</feedback>", r"\boxed{5}", "<notice>", ""]),
)
def test_tokens_and_text_give_the_same_transcript(turns: list[str], reply: str) -> None:
    by_text, by_tokens = start(CODEC), start(CODEC)
    for turn in [*turns, r"\boxed{5}"]:
        for episode, action in ((by_text, turn), (by_tokens, tokens(turn))):
            if not episode.done:
                episode.act(action)
                if episode.turn_of == "verify":
                    episode.reply(Reply(reply))
    kept = [
        s.text for s in by_tokens.segments if not (s.source is Source.TEMPLATE and not s.text.startswith("<notice>"))
    ]
    assert kept == [s.text for s in by_text.segments]
    assert (by_text.reward, by_text.stop_reason, by_text.turn) == (
        by_tokens.reward,
        by_tokens.stop_reason,
        by_tokens.turn,
    )
    assert CODEC.decode(by_tokens.trajectory().token_ids) == by_tokens.transcript


# -- several consults in one turn -------------------------------------------------------------------------------------

ASK_RULE = '<consult agent="knowledge">rule</consult>'


def feedback(agent: str, text: str) -> str:
    return f'<feedback agent="{agent}">{text}</feedback>'


def test_consults_of_one_turn_are_answered_in_the_order_of_their_tags() -> None:
    episode = start(fan_out=2, consult_cost=0.25)
    assert episode.act("Hm. " + ASK_RULE + ASK) == Consult("knowledge", "rule", "Hm. ")
    assert list(episode.requests) == ["knowledge", "verify"]
    # Asked at the same time: each sees both questions and neither reply.
    assert {request.transcript for request in episode.requests.values()} == {"4+1=Hm. " + ASK_RULE + ASK}
    assert [request.query for request in episode.requests.values()] == ["rule", "17+25=43"]
    assert len({request.seed for request in episode.requests.values()}) == 2
    assert episode.turn_of == "knowledge"
    assert episode.consult_mask == [0, 0]
    episode.reply(Reply("K"))
    assert (episode.turn_of, list(episode.requests)) == ("verify", ["verify"])
    episode.reply(Reply("V"))
    assert (episode.turn_of, episode.turn, episode.num_consults, episode.reward) == ("policy", 1, 2, -0.5)
    assert sources(episode)[1:] == [
        ("POLICY", "Hm. " + ASK_RULE + ASK),
        ("AGENT", feedback("knowledge", "K")),
        ("AGENT", feedback("verify", "V")),
    ]
    with pytest.raises(EpisodeStateError, match="policy's turn"):
        episode.reply(Reply("late"))


def test_a_list_of_consults_is_its_text() -> None:
    by_list, by_text = start(fan_out=2), start(fan_out=2)
    by_list.act([Consult("verify", "17+25=43", "Hm. "), Consult("knowledge", "rule")])
    by_text.act("Hm. " + ASK + ASK_RULE)
    assert by_list.requests == by_text.requests
    assert by_list.trajectory() == by_text.trajectory()


def test_white_space_may_stand_between_the_tags_and_nothing_else() -> None:
    episode = start(fan_out=2)
    episode.act(ASK + " \n\t" + ASK_RULE + "\n")
    assert list(episode.requests) == ["verify", "knowledge"]
    assert episode.segments[-1].text == ASK + " \n\t" + ASK_RULE
    for between in (" and ", r"\boxed{5}", '<consult agent="nobody">x</consult>', "<consult>", "</consult>"):
        episode = start(fan_out=2)
        episode.act(ASK + between + ASK_RULE)
        assert list(episode.requests) == ["verify"]
        assert episode.segments[-1].text == ASK


def test_a_turn_addresses_each_helper_once_and_no_more_than_fan_out() -> None:
    episode = start(fan_out=2)
    episode.act(ASK + ASK + ASK_RULE)
    assert list(episode.requests) == ["verify"]
    assert episode.segments[-1].text == ASK
    for fan_out in (1, 2):
        episode = start(fan_out=fan_out, agents=("verify", "knowledge", "reasoning"))
        episode.act(ASK + ASK_RULE + '<consult agent="reasoning">next</consult>')
        assert list(episode.requests) == ["verify", "knowledge"][:fan_out]
        assert episode.segments[-1].text == (ASK + ASK_RULE if fan_out == 2 else ASK)


def test_a_list_of_consults_that_cannot_all_be_asked_is_an_error() -> None:
    for fan_out, helpers in ((2, ["verify", "verify"]), (1, ["verify", "knowledge"])):
        episode = start(fan_out=fan_out)
        with pytest.raises(InvalidActionError, match="each once"):
            episode.act([Consult(helper, "q") for helper in helpers])
        assert episode.turn == 0


def test_a_fan_out_beyond_the_budget_gets_a_notice_in_its_place() -> None:
    episode = start(fan_out=2, max_consults=1)
    episode.act(ASK + ASK_RULE)
    assert list(episode.requests) == ["verify"]
    episode.reply(Reply("V"))
    assert episode.turn_of == "policy"
    assert [(s.source, s.agent) for s in episode.segments[2:]] == [
        (Source.AGENT, "verify"),
        (Source.TEMPLATE, "knowledge"),
    ]
    assert "no consults are left (1 were allowed)" in episode.segments[-1].text
    episode.act(ASK + ASK_RULE)
    assert episode.turn_of == "policy"
    assert [s.agent for s in episode.segments[-2:]] == ["verify", "knowledge"]
    assert episode.num_consults == 1


def test_a_failing_helper_leaves_the_others_of_its_turn_alone() -> None:
    episode = start(fan_out=2, consult_cost=0.25)
    episode.act(ASK + ASK_RULE)
    episode.reply(Reply("", error="gone"))
    assert episode.turn_of == "knowledge"
    episode.reply(Reply("K"))
    assert [(s.source, s.agent) for s in episode.segments[2:]] == [
        (Source.TEMPLATE, "verify"),
        (Source.AGENT, "knowledge"),
    ]
    assert (episode.num_consults, episode.reward) == (1, -0.25)


def test_the_replies_of_one_turn_share_the_characters_that_are_left() -> None:
    turn = ASK + ASK_RULE
    frame = len(feedback("verify", ""))
    episode = start(fan_out=2, max_chars=len(turn) + frame + 4)
    episode.act(turn)
    episode.reply(Reply("y" * 100))
    assert episode.segments[-1].text == feedback("verify", "yyyy" + "y" * frame)
    # Nothing is left, but its reply is due: it is cut to nothing, and the episode ends behind it.
    assert (episode.turn_of, episode.done) == ("knowledge", False)
    episode.reply(Reply("z" * 100))
    assert episode.segments[-1].text == feedback("knowledge", "")
    assert (episode.truncated, episode.stop_reason) == (True, "max_chars")


def test_a_fan_out_in_the_last_turn_asks_nobody() -> None:
    episode = start(fan_out=2, max_turns=2)
    episode.act("mumble")
    episode.act(ASK + ASK_RULE)
    assert (episode.stop_reason, episode.requests) == ("max_turns", {})


def test_an_episode_ended_from_outside_takes_no_further_reply() -> None:
    episode = start(fan_out=2)
    episode.act(ASK + ASK_RULE)
    episode.reply(Reply("V"))
    episode.truncate("timeout")
    assert episode.requests == {}
    with pytest.raises(EpisodeStateError):
        episode.reply(Reply("K"))


def test_alone_several_tags_are_text() -> None:
    episode = start(fan_out=2, assisted=False)
    turn = ASK + ASK_RULE + r"\boxed{5}"
    assert isinstance(episode.act(turn), Answer)
    assert (episode.requests, episode.reward) == ({}, 1.0)
    assert sources(episode)[1:] == [("POLICY", turn)]


def test_ids_behind_the_last_of_several_tags_are_not_the_policys() -> None:
    episode = start(CODEC, fan_out=2)
    action = tokens(ASK + " " + ASK_RULE + " tail", eos=True)
    episode.act(action)
    policy, overshoot = episode.segments[1:]
    assert (policy.text, overshoot.text) == (ASK + " " + ASK_RULE, " tail")
    assert (policy.source, overshoot.source) == (Source.POLICY, Source.TEMPLATE)
    assert policy.token_ids + overshoot.token_ids == tuple(action.ids)
    assert policy.logprobs == tuple(action.logprobs or ())[: len(policy.token_ids)]
    for name in ("verify", "knowledge"):
        ids = tuple(CODEC.encode(name))
        episode.reply(Reply(name, ids, (-1.0,) * len(ids), tokenizer=CODEC.fingerprint))
    assert [s.mu_known for s in episode.segments[-2:]] == [True, True]
    assert CODEC.decode(episode.trajectory().token_ids) == episode.transcript


@given(
    st.lists(st.sampled_from([ASK, ASK_RULE, " ", "\n", "Hm.", '<consult agent="reasoning">n</consult>']), max_size=7),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_a_turn_carries_the_leading_run_of_different_helpers(parts: list[str], fan_out: int, allowed: int) -> None:
    episode = start(CODEC, agents=("verify", "knowledge", "reasoning"), fan_out=fan_out, max_consults=allowed)
    by_text = start(CODEC, agents=("verify", "knowledge", "reasoning"), fan_out=fan_out, max_consults=allowed)
    episode.act(tokens("".join(parts)))
    by_text.act("".join(parts))
    names = {ASK: "verify", ASK_RULE: "knowledge", '<consult agent="reasoning">n</consult>': "reasoning"}
    run: list[str] = []
    for part in parts:
        if part in names and names[part] not in run and len(run) < fan_out:
            run.append(names[part])
        elif run and part.strip():
            break
    assert list(episode.requests) == list(by_text.requests) == run[:allowed]
    for name in run[:allowed]:
        assert episode.turn_of == by_text.turn_of == name
        for one in (episode, by_text):
            one.reply(Reply(name))
    assert episode.turn_of == by_text.turn_of == "policy"
    answered = [s.agent for s in by_text.segments if s.agent]
    assert answered == run
    assert episode.num_consults == len(run[:allowed])


PIECES = (
    *(
        "7",
        " ",
        "\n",
        "\\boxed{5}",
        "\\boxed{",
        "}",
        "<answer>5</answer>",
        "```python\n1\n```\n",
        "</consult>",
        "<con",
        "sult ",
    ),
    *(f'<consult agent="{name}">q</consult>' for name in ("verify", "knowledge", "nobody")),
    *('<consult agent="verify">', "<consult", "<feedback>", "</feedback>"),
)


@given(
    pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=8),
    behind=st.lists(st.sampled_from(PIECES), max_size=4),
    fan_out=st.integers(1, 3),
    answers=st.sampled_from(["value", "program"]),
)
def test_repair_13_nothing_behind_a_complete_turn_belongs_to_it(
    pieces: list[str], behind: list[str], fan_out: int, answers: str
) -> None:
    """Whatever is written behind as many consults as a turn may hold, it is the same; elsewhere one may follow directly."""

    def outcome(text: str) -> tuple[object, list[str], str]:
        episode = start(fan_out=fan_out, answers=answers)
        action = episode.act(text)
        own = "" if isinstance(action, Answer) else episode.segments[1].text
        return (action.reason if isinstance(action, Malformed) else action), list(episode.requests), own

    text = "".join(pieces)
    _, asked, own = outcome(text)
    left = text[len(own) :].strip()
    if len(asked) == fan_out or (asked and left and not "<consult".startswith(left[:8])):
        assert outcome(text) == outcome(text + "".join(behind))


@pytest.mark.parametrize("codec", [None, CODEC])
def test_a_fork_that_is_played_as_the_original_is_the_original(codec: CharacterCodec | None) -> None:
    def act(one: Episode, text: str) -> None:
        ids = [] if codec is None else codec.encode(text)
        one.act(TokenAction(ids, [-0.5] * len(ids)) if ids else text)

    episode = start(codec, fan_out=2, consult_cost=0.25)
    act(episode, ASK + '<consult agent="knowledge">rule</consult>')
    episode.reply(Reply("no"))
    before = episode.trajectory()
    fork, other = episode.fork(), episode.fork()
    seeds = set()
    for one, reply in ((fork, "the sum"), (other, "something else"), (episode, "the sum")):
        assert one.turn_of == "knowledge"
        seeds.add(one.request.seed)
        one.reply(Reply(reply))
        act(one, r"So it is \boxed{5}.")
        assert one.done
    assert len(seeds) == 1
    assert fork.trajectory() == episode.trajectory() != other.trajectory()
    assert other.reward_parts == {"consult_cost": -0.5, "correct": 1.0}
    assert before.reward_parts == {"consult_cost": -0.25}
    assert before.segments == episode.segments[: len(before.segments)]
