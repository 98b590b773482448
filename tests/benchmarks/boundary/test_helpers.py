from __future__ import annotations

import asyncio
import itertools
import math

import pytest

from aipo_env.errors import ConfigurationError
from aipo_env.protocol import ConsultRequest, Reply
from algorithms.codec import TransformersCodec
from benchmarks.boundary.helpers import ForgetfulKnowledge, log_mixture
from tests.algorithms.tiny import tokenizer

RIGHT = "4+4+1;7+7+2;3+3+8"


def ask(helper: ForgetfulKnowledge, seed: int) -> Reply:
    return asyncio.run(helper.respond(ConsultRequest("473@128", "", "task", seed)))


def test_the_rate_of_wrong_replies() -> None:
    helper = ForgetfulKnowledge(0.3)
    replies = [ask(helper, seed).text for seed in range(2000)]
    assert sum(text != RIGHT for text in replies) / 2000 == pytest.approx(0.3, abs=0.03)
    assert {len(text) for text in replies} == {len(RIGHT)}
    assert replies == [ask(helper, seed).text for seed in range(2000)]


def test_log_mu_is_the_distribution_of_the_replies() -> None:
    """Over all two-digit replies the probabilities add up to 1, and each is the mixture's."""
    noise, right = 0.4, "3+7"
    total = 0.0
    for a, b in itertools.product("0123456789", repeat=2):
        probability = math.exp(sum(log_mixture(f"{a}+{b}", right, noise)))
        assert probability == pytest.approx(noise / 100 + (1 - noise) * (f"{a}+{b}" == right))
        total += probability
    assert total == pytest.approx(1.0)


def test_replies_carry_log_mu_over_the_policys_tokens() -> None:
    codec = TransformersCodec(tokenizer())
    known = ask(ForgetfulKnowledge(0.3, codec=codec), 5)
    assert known.token_ids is not None
    assert known.logprobs is not None
    assert known.tokenizer == codec.fingerprint
    assert codec.decode(known.token_ids) == known.text == ask(ForgetfulKnowledge(0.3), 5).text
    assert sum(known.logprobs) == pytest.approx(math.log(0.3 * 1e-9 + 0.7 * (known.text == RIGHT)))


def test_a_question_about_nothing() -> None:
    helper = ForgetfulKnowledge(0.0)
    assert asyncio.run(helper.respond(ConsultRequest("who are you", "", "task", 0))).text == "nothing found"
    with pytest.raises(ConfigurationError, match="below 1"):
        ForgetfulKnowledge(1.0)
