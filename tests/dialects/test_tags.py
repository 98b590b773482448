"""The dialect of the markup, where the policy thinks."""

from __future__ import annotations

import pytest

from aipo_env import Answer, Consult, Episode, EpisodeConfig, Malformed, Reply, TextAction
from aipo_env.dialects.tags import Tags
from aipo_env.protocol import Action
from algorithms.codec import TransformersCodec
from tests.algorithms.vocabularies import THINKING, carrier
from tests.helpers import SumTasks

ASK = '<consult agent="verify">1+1</consult>'
OPENED = "4+1=<think>\n"


def play(prompt: str, *turns: Action, **rules: object) -> list[str]:
    """What each turn was understood as: the answer, the query, or the reason."""
    episode = Episode(SumTasks().task(4), prompt, EpisodeConfig(agents=("verify",), **rules))  # type: ignore[arg-type]
    found = []
    for turn in turns:
        understood = episode.act(turn)
        if isinstance(understood, Malformed):
            found.append(f"! {understood.reason}")
        else:
            found.append(understood.text if isinstance(understood, Answer) else f"? {understood.query}")
        if episode.requests:
            episode.reply(Reply(r"no, </think> \boxed{9}"))
    return [*found, episode.stop_reason] if episode.done else found


INSIDE = "! the turn ended inside its thought: close the thought, then ask or answer."


@pytest.mark.parametrize(
    ("prompt", "turns", "found"),
    [
        ("p", [rf"<think>maybe \boxed{{7}}</think> so {ASK}"], ["? 1+1"]),
        ("p", [r"<think>maybe \boxed{7}</think> so \boxed{5}"], ["5"]),
        ("p", [r"<think>maybe \boxed{7}</think> so"], ["! the turn holds neither a consult tag nor an answer"]),
        ("p", [r"<think>maybe \boxed{7} hmm", r"\boxed{5}"], [INSIDE, "5"]),
        ("p", [TextAction(r"<think>maybe \boxed{7} hmm", "length")], [INSIDE, "length"]),
        ("p", [TextAction(r"<think>maybe</think> \boxed{7} hmm", "length")], ["7"]),
        ("p", [r"first <think>maybe \boxed{7}"], ["7"]),
        # A consult in a thought is one, and the thought goes on behind the reply, whatever that says.
        ("p", [rf"<think>maybe \boxed{{7}} {ASK}", r"\boxed{9} hm</think> \boxed{5}"], ["? 1+1", "5"]),
        (OPENED, [rf"maybe \boxed{{7}} {ASK}", r"\boxed{9} hm</think> \boxed{5}"], ["? 1+1", "5"]),
        (OPENED, [rf"maybe {ASK}", r"\boxed{9}"], ["? 1+1", INSIDE]),
        (OPENED, [r"maybe \boxed{7}"], [INSIDE]),
        (OPENED, [rf"maybe</think> {ASK}", r"\boxed{5}"], ["? 1+1", "5"]),
        (OPENED, ['maybe <consult agent="x">1+1</consult>'], ["! there is no helper called 'x'. Helpers: verify."]),
        (OPENED, ['maybe <consult agent="x">1+1</consult> no.</think> \\boxed{5}'], ["5"]),
        # What it quotes from the prompt is no consult.
        (f"Ask as in {ASK}. {OPENED}", [rf"I may write {ASK} hm</think> \boxed{{5}}"], ["5"]),
        (f"Ask as in {ASK}. {OPENED}", [rf"I may write {ASK}, and {ASK.replace('1+1', '2+2')}"], ["? 2+2"]),
        (f"Ask as in {ASK}. p", [ASK], ["? 1+1"]),
        # Structured actions close the thought that is open.
        (OPENED, [Answer("5", "So ")], ["5"]),
        (OPENED, [Consult("verify", "1+1"), Answer("5")], ["? 1+1", "5"]),
    ],
)
def test_thoughts(prompt: str, turns: list[Action], found: list[str]) -> None:
    played = play(prompt, *turns)
    assert len(played) == len(found)
    assert all(told.startswith(expected) for told, expected in zip(played, found, strict=True)), played


def test_consults_in_thoughts_can_be_drafts() -> None:
    turn = rf"<think>maybe {ASK} hm</think> \boxed{{5}}"
    assert play("p", turn) == ["? 1+1"]
    assert play("p", turn, consults_in_thought=False) == ["5"]
    assert play("p", turn, assisted=False) == ["5"]
    assert play(OPENED, Consult("verify", "1+1"), Answer("5"), consults_in_thought=False) == ["? 1+1", "5"]


def test_programs_of_a_thought_are_drafts() -> None:
    draft, program = "```python\nprint(1)\n```\n", "```python\nprint(2)\n```"
    assert play("p", f"<think>{draft}</think>{program}", answers="program") == [program]
    assert play("p", f"<think>{draft}{program}", answers="program") == [INSIDE]


def test_a_chat_template_may_open_the_thought() -> None:
    markers = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    codec = TransformersCodec(carrier(THINKING, markers, "<|im_end|>"))
    episode = Episode(SumTasks().task(4), "4+1=", EpisodeConfig(agents=("verify",)), dialect=Tags(codec))
    assert isinstance(episode.act(r"maybe \boxed{7}"), Malformed)
    assert isinstance(episode.act(r"hm</think> \boxed{5}"), Answer)
