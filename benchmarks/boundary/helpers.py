"""Helpers whose mistakes are known exactly: what they really sample from can be reported with each reply."""

from __future__ import annotations

import math
import random

from aipo_agents.rulebook_queries import find_application
from aipo_env.dialects.base import TokenCodec
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import ConsultRequest, Reply

UNABLE = "cannot tell"
"""What a helper replies that is left out."""
_DIGITS = "0123456789"


class ForgetfulKnowledge:
    """Expands rulebook operators; at a given rate it has forgotten the rule and writes random digits instead.

    So mu, the distribution of its replies, is a mixture: the right expansion with weight 1 - noise, and each text of the
    same form with the same share of noise. Unlike `NoisyAgent` it may be right by chance, which keeps mu simple.

    Args:
        noise: how often the rule is forgotten, 0 to below 1.
        codec: the policy's tokenizer; replies then carry their ids and log mu. None leaves mu unknown.
        name: under which the policy asks for it.
    """

    def __init__(self, noise: float, *, codec: TokenCodec | None = None, name: str = "knowledge") -> None:
        if not 0 <= noise < 1:
            raise ConfigurationError(f"ForgetfulKnowledge: noise is a rate of at least 0 and below 1; got {noise!r}.")
        self.name, self.noise, self._codec = name, noise, codec

    async def respond(self, request: ConsultRequest) -> Reply:
        """The expansion of the application in the query, right or forgotten by the request's seed alone."""
        application = find_application(request.query)
        if application is None or application.expansion is None:
            return Reply("nothing found")
        right = application.expansion
        rng = random.Random(f"forgetful/{request.seed}")
        forgotten = rng.random() < self.noise
        text = "".join(rng.choice(_DIGITS) if forgotten and char in _DIGITS else char for char in right)
        if self._codec is None:
            return Reply(text)
        ids = self._codec.encode(text)
        if len(ids) != len(text):
            return Reply(text)  # mu is known by character alone
        return Reply(text, tuple(ids), tuple(log_mixture(text, right, self.noise)), self._codec.fingerprint)


def log_mixture(text: str, right: str, noise: float) -> list[float]:
    """Log mu of each character of `text`, given those before it, under the mixture of `ForgetfulKnowledge`.

    mu(d | prefix) = w [d = right digit] + (1 - w) / 10, where w is the posterior weight of the right text: 1 - noise at the
    start, Bayes' rule from digit to digit, 0 behind the first wrong one.
    """
    weight = 1 - noise
    logs = []
    for char, wanted in zip(text, right, strict=True):
        if wanted not in _DIGITS:
            logs.append(0.0)
            continue
        hit = weight if char == wanted else 0.0
        probability = hit + (1 - weight) / 10
        logs.append(math.log(probability))
        weight = hit / probability
    return logs


class UnableHelper:
    """In the place of a helper that is left out: whatever it is asked, it cannot tell.

    Args:
        name: under which the policy asks for it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    async def respond(self, request: ConsultRequest) -> Reply:
        """Nothing that helps."""
        return Reply(UNABLE)
