"""NoisyAgent: makes a helper wrong at a given rate, for experiments."""

from __future__ import annotations

import dataclasses
import random
import re
from typing import Final

from aipo_agents.middleware.base import Middleware
from aipo_agents.request_key import RequestKey, key_digest
from aipo_agents.text import WORDS
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import Agent, ConsultRequest, Reply

_FORMAL: Final = re.compile(r"[0-9;:+*/=()!?@#~&$^.\s-]*[0-9][0-9;:+*/=()!?@#~&$^.\s-]*")
"""Digits and signs alone, as in an expansion."""
_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_FACT: Final = re.compile(r"[0-9+*/^().-]*[0-9)]\s*=\s*([0-9]+)")

_OPPOSITES: Final[dict[str, str]] = WORDS["opposites"]


class NoisyAgent(Middleware):
    """Wraps an agent and spoils its replies at a given rate; a spoilt reply keeps its form.

    - Digits and signs alone (a rulebook expansion): all digits are drawn anew, and at least one differs.
    - A verdict is turned round; "cannot tell" becomes a verdict.
    - In other text one number changes; without numbers, a word becomes its opposite.

    Error replies pass through. A spoilt reply has no token ids and no log-probabilities: they belonged to
    another text.

    Args:
        agent: the agent to wrap; its name is kept.
        noise: the share of replies that are spoilt, 0 to 1.
        salt: another salt spoils other replies; requests with the same seed and salt are treated alike.

    Raises:
        ConfigurationError: `noise` is out of its range, or `agent` is no agent.
    """

    def __init__(self, agent: Agent, noise: float = 0.3, *, salt: int = 0) -> None:
        if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise <= 1:
            raise ConfigurationError(f"NoisyAgent: noise is the share of wrong replies, from 0 to 1; got {noise!r}.")
        if isinstance(salt, bool) or not isinstance(salt, int):
            raise ConfigurationError(f"NoisyAgent: salt must be an integer, got {salt!r}.")
        super().__init__(agent)
        self.noise, self.salt = float(noise), salt

    async def respond(self, request: ConsultRequest) -> Reply:
        """The wrapped agent's reply, spoilt or not by the request's seed alone."""
        reply = await self.agent.respond(request)
        if reply.error is not None:
            return reply
        # A string seed is hashed with SHA-512: neighbouring request seeds give unrelated draws.
        rng = random.Random(f"noise/{self.name}/{self.salt}/{request.seed}")
        if rng.random() >= self.noise:
            return reply
        return dataclasses.replace(reply, text=spoil(reply.text, rng, request.query), token_ids=None, logprobs=None)

    def request_key(self, request: ConsultRequest) -> RequestKey:
        """The wrapped agent's key with what the noise depends on: the seed decides which replies are spoilt."""
        inner = super().request_key(request)
        digest = key_digest("NoisyAgent", inner.digest, self.name, self.noise, self.salt, request.seed)
        return RequestKey(digest, inner.deterministic and self.noise == 0)


def spoil(text: str, rng: random.Random, query: str = "") -> str:
    """A wrong text of the same form; always different from `text`.

    Args:
        text: what the agent said.
        rng: the only source of chance.
        query: what it was asked; a reversed verdict takes its reason from it.
    """
    if _FORMAL.fullmatch(text):
        return _redraw_digits(text, rng)
    if text.startswith("correct"):
        return "incorrect" + _false_reason(query, rng)
    if text.startswith("incorrect") or text.startswith("cannot tell"):
        return "correct"
    if _NUMBER.search(text):
        return change_number(text, rng)
    return _change_word(text, rng)


def _redraw_digits(text: str, rng: random.Random) -> str:
    positions = [index for index, char in enumerate(text) if char in "0123456789"]
    chars = list(text)
    # One digit is sure to change, so that the whole differs; a single wrong digit makes its place sum wrong.
    sure = rng.choice(positions)
    for index in positions:
        chars[index] = _other_digit(chars[index], rng) if index == sure else str(rng.randrange(10))
    return "".join(chars)


def _false_reason(query: str, rng: random.Random) -> str:
    """`: 17+25 is 52` for a query that states 17+25=42."""
    fact = _FACT.search(query[:1000])
    if fact is None:
        return ""
    left = fact[0].rpartition("=")[0].strip()
    return f": {left} is {change_number(fact[1], rng)}"


def change_number(text: str, rng: random.Random) -> str:
    """A text with one digit of one of its numbers, of which there is one, changed."""
    number = rng.choice(list(_NUMBER.finditer(text)))
    digits = [index for index in range(number.start(), number.end()) if text[index] != "."]
    index = rng.choice(digits)
    # A number keeps its length: no new leading zero, and one that was there stays a digit.
    leading = index == number.start() and len(digits) > 1 and text[index] != "0"
    digit = _other_digit(text[index], rng)
    while leading and digit == "0":
        digit = _other_digit(text[index], rng)
    return text[:index] + digit + text[index + 1 :]


def _change_word(text: str, rng: random.Random) -> str:
    swaps = {**_OPPOSITES, **{b: a for a, b in _OPPOSITES.items()}}
    pattern = "|".join(sorted(map(re.escape, swaps), key=len, reverse=True))
    matches = list(re.finditer(rf"\b(?:{pattern})\b", text))
    if not matches:
        return f"not so: {text}"
    match = rng.choice(matches)
    return text[: match.start()] + swaps[match[0]] + text[match.end() :]


def _other_digit(digit: str, rng: random.Random) -> str:
    return str((int(digit) + rng.randrange(1, 10)) % 10)
