"""A policy that is led to consult first and, every other time, to answer then: a small model does neither by itself."""

from __future__ import annotations

import dataclasses

from aipo_env import TokenAction, TurnRequest
from aipo_env.markup import BOX_CLOSE, BOX_OPEN, CONSULT_CLOSE, consult_open
from algorithms.codec import TransformersCodec
from algorithms.samplers import BackendPolicy


class GuidedPolicy:
    """Puts a consult's markup around a query that the policy samples, or a box around an answer that it samples.

    The forced ids belong to the action, with log-probability 0.0: they were chosen with probability one. What the query and
    the answer say, and every unguided turn, is the model's.

    Args:
        policy: samples.
        codec: the policy's.
        helpers: which one is asked is drawn from the turn's seed.
        max_query_tokens: the most sampled ids of a query or an answer.
        calls: whether consults are calls of functions as Hermes writes them, and the end token is forced too.
    """

    def __init__(
        self,
        policy: BackendPolicy,
        codec: TransformersCodec,
        helpers: tuple[str, ...],
        max_query_tokens: int = 12,
        *,
        calls: bool = False,
    ) -> None:
        self.name = f"{policy.name}-guided"
        self.forced: dict[tuple[int, ...], tuple[int, int]] = {}
        """How many ids were forced at the beginning and at the end of each guided action, by its ids."""
        self._policy, self._codec, self._helpers, self._max_query_tokens = policy, codec, helpers, max_query_tokens
        self._calls, self._end = calls, codec.end_texts[0] if calls else ""

    async def act(self, request: TurnRequest) -> TokenAction:
        """A forced consult in the first turn; in the second a forced answer or, like all later ones, the policy's own."""
        if request.turn == 0 and request.assisted:
            helper = self._helpers[request.seed % len(self._helpers)]
            if self._calls:
                opening = f'<tool_call>\n{{"name": "{helper}", "arguments": {{"query": "'
                return await self._between(request, opening, '"}}\n</tool_call>', '"\\')
            return await self._between(request, consult_open(helper), CONSULT_CLOSE, "<")
        if request.turn == 1 and request.seed % 2 == 0:
            return await self._between(request, BOX_OPEN, BOX_CLOSE, "}")
        return await self._policy.act(request)

    async def _between(self, request: TurnRequest, before: str, behind: str, ends: str) -> TokenAction:
        opening = tuple(self._codec.encode_markup(before))
        closing = tuple(self._codec.encode_markup(behind + self._end))
        limit = self._max_query_tokens
        sampled = await self._policy.act(
            dataclasses.replace(request, token_ids=request.token_ids + opening, max_tokens=limit, stop=tuple(ends))
        )
        ids, logprobs = list(sampled.ids), list(sampled.logprobs or ())
        # An end token or what would end the text is left out: the forced end stands in its place.
        while ids and (ids[-1] in self._codec.eos_ids or set(ends) & set(self._codec.decode(ids[-1:]))):
            del ids[-1], logprobs[-1]
        if not ids:
            # A query that says nothing would not be asked.
            opening = (*opening, *self._codec.encode("7"))
        action = (*opening, *ids, *closing)
        self.forced[action] = (len(opening), len(closing))
        return TokenAction(action, (0.0,) * len(opening) + (*logprobs,) + (0.0,) * len(closing))
