from __future__ import annotations

import asyncio
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo_agents import KnowledgeAgent, NoisyAgent, ReasoningAgent, VerifyAgent
from aipo_agents.noise import spoil
from aipo_agents.request_key import RequestKey, request_key
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import Agent, ConsultRequest, Reply
from aipo_env.tasks.rulebook import evaluate_expansion
from tests.agents.asking import ask, reply_to
from tests.helpers import Recorder

KNOWLEDGE = KnowledgeAgent()


class Fixed:
    """Always the same reply."""

    name = "fixed"

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    async def respond(self, request: ConsultRequest) -> Reply:
        return self.reply


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 0.9, 1.0])
def test_the_rate_is_what_it_says(noise: float) -> None:
    agent = NoisyAgent(KNOWLEDGE, noise)
    wrong = sum(ask(agent, "473@128", seed=seed) != "4+4+1;7+7+2;3+3+8" for seed in range(1500))
    # Four standard deviations, so that only a wrong rate fails.
    assert abs(wrong - 1500 * noise) <= 4 * (1500 * noise * (1 - noise)) ** 0.5


def test_a_spoilt_expansion_keeps_its_form_and_loses_its_value() -> None:
    agent = NoisyAgent(KNOWLEDGE, 1.0)
    texts = {ask(agent, "473@128", seed=seed) for seed in range(200)}
    assert len(texts) > 190
    for text in texts:
        assert re.fullmatch(r"\d\+\d\+\d;\d\+\d\+\d;\d\+\d\+\d", text)
    values = [evaluate_expansion(text) for text in texts]
    assert sum(value == "091614" for value in values) <= 2
    assert re.fullmatch(r"\(\d{3}@\d{3}\)#\d{6}", ask(agent, "473$128"))


def test_verdicts_are_turned_round() -> None:
    agent = NoisyAgent(VerifyAgent(), 1.0)
    assert re.fullmatch(r"incorrect: 17\+25 is \d\d", ask(agent, "17+25=42"))
    assert ask(agent, "17+25=42") != "incorrect: 17+25 is 42"
    assert ask(agent, "x^2-1=(x-1)(x+1)") == "incorrect"
    assert ask(agent, "17+25=43") == "correct"
    assert ask(agent, "47*12=?") == "correct"


def test_steps_and_words_change_a_little() -> None:
    agent = NoisyAgent(ReasoningAgent(), 1.0)
    text, right = ask(agent, "2x+3=7"), "subtract 3 from both sides: 2x=4"
    assert len(text) == len(right)
    assert sum(a != b for a, b in zip(text, right, strict=True)) == 1
    assert spoil("the sum is even", random.Random(0)) in (
        "the difference is even",
        "the sum is not even",
        "the sum is odd",
    )
    assert spoil("hm", random.Random(0)) == "not so: hm"


@given(st.text(max_size=80), st.integers(0, 2**32), st.text(max_size=30))
@settings(deadline=None, max_examples=300)
def test_a_spoilt_text_differs(text: str, seed: int, query: str) -> None:
    assert spoil(text, random.Random(seed), query) != text


@given(st.from_regex(r"[0-9]\+[0-9]\+[0-9](;[0-9]\+[0-9]\+[0-9]){0,7}", fullmatch=True), st.integers(0, 2**32))
@settings(deadline=None, max_examples=200)
def test_any_expansion_stays_well_formed(text: str, seed: int) -> None:
    spoilt = spoil(text, random.Random(seed))
    assert re.sub("[0-9]", "d", spoilt) == re.sub("[0-9]", "d", text)


def test_the_seed_decides_and_nothing_else() -> None:
    agent, again = NoisyAgent(KNOWLEDGE, 0.5), NoisyAgent(KNOWLEDGE, 0.5)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    first = [ask(agent, "473@128", seed=seed) for seed in range(50)]
    assert (random.getstate(), repr(np.random.get_state())) == before  # noqa: NPY002

    async def shuffled() -> list[str]:
        order = list(range(50))[::-1]
        replies = await asyncio.gather(*(again.respond(ConsultRequest("473@128", seed=seed)) for seed in order))
        return [reply.text for reply in replies][::-1]

    assert asyncio.run(shuffled()) == first
    other = NoisyAgent(KNOWLEDGE, 0.5, salt=1)
    assert [ask(other, "473@128", seed=seed) for seed in range(50)] != first


def test_error_replies_pass_through() -> None:
    reply = Reply("", error="the server is down")
    assert reply_to(NoisyAgent(Fixed(reply), 1.0), "x") is reply


def test_tokens_of_a_spoilt_reply_are_dropped() -> None:
    reply = Reply("2x=4", token_ids=(1, 2), logprobs=(-0.1, -0.2))
    assert reply_to(NoisyAgent(Fixed(reply), 0.0), "x") is reply
    spoilt = reply_to(NoisyAgent(Fixed(reply), 1.0), "x")
    assert spoilt.token_ids is None
    assert spoilt.logprobs is None


def test_a_failing_agent_propagates() -> None:
    class Broken:
        name = "broken"

        async def respond(self, request: ConsultRequest) -> Reply:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(NoisyAgent(Broken(), 1.0), "x")


def test_options_are_validated() -> None:
    assert NoisyAgent(KNOWLEDGE).name == "knowledge"
    assert isinstance(NoisyAgent(KNOWLEDGE), Agent)
    for noise in (-0.1, 1.1, float("nan"), True, "0.3"):
        with pytest.raises(ConfigurationError, match="share of wrong replies"):
            NoisyAgent(KNOWLEDGE, noise)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="wraps an agent"):
        NoisyAgent("knowledge")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="salt"):
        NoisyAgent(KNOWLEDGE, salt=0.5)  # type: ignore[arg-type]


def test_the_key_tells_apart_what_the_noise_tells_apart() -> None:
    class Greedy(Recorder):
        def request_key(self, request: ConsultRequest) -> RequestKey:
            return RequestKey(request.query, deterministic=True)

    def key(noise: float, seed: int = 1, salt: int = 0) -> RequestKey:
        return request_key(NoisyAgent(Greedy(), noise, salt=salt), ConsultRequest("q", seed=seed))

    assert key(0.3) == key(0.3)
    assert len({key(0.3), key(0.3, seed=2), key(0.3, salt=1), key(0.5)}) == 4
    assert key(0.0).deterministic
    assert not key(0.3).deterministic
