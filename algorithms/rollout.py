"""Token-exact batched rollouts: many episodes of one environment, sampled from one policy.

All rows advance together. A row whose consult is complete waits for no one: its helper is asked together with those of
the other rows that consulted at the same step, and the reply's tokens are then forced, one a step, while other rows go
on sampling (several a step when all rows have tokens to take). Nothing is decoded and encoded again on the way: the ids
of a trajectory are the ids that went through the model.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aipo_env import ConsultEnv, Episode, TokenAction, Trajectory
from aipo_env.consulting import run_sync
from aipo_env.errors import ConfigurationError
from aipo_env.markup import CONSULT_CLOSE, ActionParser
from aipo_env.protocol import FinishReason
from algorithms.decoder import BatchDecoder
from algorithms.policies import Policy
from algorithms.train_config import SamplingConfig


@dataclasses.dataclass(frozen=True, slots=True)
class RolloutRequest:
    """One episode to be rolled out."""

    task_index: int
    assisted: bool = True
    """Whether helpers answer; False is a solo rollout of the same task with the same prompt."""
    seed: int = 0
    """Seeds the helpers."""
    group: int = 0
    sample: int = 0


class _Row:
    """One running episode: its turn so far, and the tokens that it still has to take."""

    __slots__ = ("episode", "forced", "index", "logprobs", "num_tokens", "request", "room", "turn")

    def __init__(self, index: int, request: RolloutRequest, episode: Episode, context: int | None) -> None:
        self.index, self.request, self.episode = index, request, episode
        self.room = sys.maxsize if context is None else context - len(episode.segments[0].token_ids)
        self.forced: deque[int] = deque()
        self.turn: list[int] = []
        self.logprobs: list[float] = []
        self.num_tokens = 0

    def end_turn(self, finish_reason: FinishReason) -> None:
        """Hands the turn to the episode, and queues what the environment says to it (a notice)."""
        recorded = len(self.episode.segments) + 1
        self.episode.act(TokenAction(tuple(self.turn), tuple(self.logprobs), finish_reason))
        self.turn, self.logprobs = [], []
        self.force_from(recorded)

    def force_from(self, recorded: int) -> None:
        """Queues the tokens of the segments from this number on."""
        for segment in self.episode.segments[recorded:]:
            self.forced.extend(segment.token_ids)
        if self.num_tokens + len(self.forced) >= self.room:
            self.episode.truncate("length")


class Roller:
    """Rolls out episodes of an environment with a policy.

    Args:
        policy: model and tokenizer.
        env: made with `codec=policy.codec`.
        sampling: temperature, limits, batch size.
        context: tokens that the model takes, prompt included; an episode that reaches it ends as "length". None for no limit.
    """

    def __init__(
        self, policy: Policy, env: ConsultEnv, sampling: SamplingConfig, *, context: int | None = None
    ) -> None:
        if env.codec is None or env.codec.fingerprint != policy.codec.fingerprint:
            raise ConfigurationError(
                "the environment and the policy need the same tokenizer: make the environment with codec=policy.codec."
            )
        self.policy, self.env, self.sampling, self.context = policy, env, sampling, context
        self._closers = policy.codec.tokens_that_may_close_a_tag()
        self._eos_ids = policy.eos_ids

    def rollout(self, requests: Sequence[RolloutRequest], seed: int = 0) -> list[Trajectory]:
        """Rolls out every request; returns the trajectories in the order of the requests."""
        done = dict(self.iterate(requests, seed))
        return [done[i] for i in range(len(requests))]

    def iterate(
        self, requests: Sequence[RolloutRequest], seed: int = 0, *, first_wave: int = 0
    ) -> Iterator[tuple[int, Trajectory]]:
        """Yields (index of the request, trajectory) as episodes finish.

        Sampling is a function of the requests, `seed` and `sampling` (its batch size included) alone. The waves, each of a
        batch, do not depend on each other: the part of the requests from wave n on, with `first_wave=n`, is sampled as it is
        in the whole.
        """
        size = self.sampling.batch_size
        for wave, start in enumerate(range(0, len(requests), size), start=first_wave):
            words = np.random.SeedSequence(seed, spawn_key=(wave,)).generate_state(2)
            generator = torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]))
            rows = [self._start(start + i, request) for i, request in enumerate(requests[start : start + size])]
            for row in rows:
                if row.room < 1:  # the prompt alone is too long
                    row.episode.truncate("length")
                    yield row.index, self._trajectory(row)
            if rows := [row for row in rows if not row.episode.done]:
                yield from self._run(rows, generator)

    def _start(self, index: int, request: RolloutRequest) -> _Row:
        episode = self.env.make_episode(request.task_index, seed=request.seed, assisted=request.assisted)
        return _Row(index, request, episode, self.context)

    def _trajectory(self, row: _Row) -> Trajectory:
        return row.episode.trajectory(group=row.request.group, sample=row.request.sample)

    def _run(self, rows: list[_Row], generator: torch.Generator) -> Iterator[tuple[int, Trajectory]]:
        was_training = self.policy.model.training
        self.policy.model.eval()
        try:
            decoder = BatchDecoder(self.policy.model, [row.episode.segments[0].token_ids for row in rows])
            while True:
                tokens_BW = self._advance(decoder, rows, generator)
                self._ask_helpers(rows)
                for row in rows:
                    if row.episode.done:
                        yield row.index, self._trajectory(row)
                alive = [position for position, row in enumerate(rows) if not row.episode.done]
                if not alive:
                    return
                if len(alive) < len(rows):
                    rows = [rows[position] for position in alive]
                    decoder.keep(torch.tensor(alive))
                    tokens_BW = tokens_BW[alive]
                decoder.step(tokens_BW)
        finally:
            self.policy.model.train(was_training)

    def _advance(
        self, decoder: BatchDecoder, rows: list[_Row], generator: torch.Generator
    ) -> Int[Tensor, "batch width"]:
        """Chooses the next tokens of every row: those that it is forced to take, or a sampled one."""
        width = min(len(row.forced) for row in rows)
        if width > 0:
            taken = [[row.forced.popleft() for _ in range(width)] for row in rows]
            for row in rows:
                row.num_tokens += width
            return torch.tensor(taken)
        sampled_B, logprobs_B = sample(decoder.logits_BV, self.sampling, generator)
        sampled, logprobs = sampled_B.tolist(), logprobs_B.tolist()
        for position, row in enumerate(rows):
            if row.forced:
                sampled[position] = row.forced.popleft()
            elif row.num_tokens >= min(self.sampling.max_tokens, row.room):
                row.end_turn("length") if row.turn else row.episode.truncate("length")
                continue
            else:
                row.turn.append(sampled[position])
                row.logprobs.append(logprobs[position])
                if self._ends_turn(row, sampled[position]):
                    row.end_turn("stop")
            row.num_tokens += 1
        return torch.tensor(sampled)[:, None]

    def _ends_turn(self, row: _Row, token: int) -> bool:
        if token in self._eos_ids:
            return True
        if not row.episode.config.assisted or token not in self._closers:
            return False
        # Decoding the whole turn is needed only where its end may hold the closing tag.
        if CONSULT_CLOSE not in self.policy.codec.decode(row.turn[-32:]):
            return False
        return ActionParser(row.episode.config.agents).feed(self.policy.codec.decode(row.turn))

    def _ask_helpers(self, rows: list[_Row]) -> None:
        """Asks the helpers of all rows whose consult is complete, at the same time."""
        asking = [row for row in rows if row.episode.requests]
        if not asking:
            return
        recorded = [len(row.episode.segments) for row in asking]

        async def ask_all() -> None:
            await asyncio.gather(*(self.env.game.ask(row.episode) for row in asking))

        run_sync(ask_all())
        for row, start in zip(asking, recorded, strict=True):
            row.force_from(start)


def sample(
    logits_BV: Float[Tensor, "batch vocabulary"], sampling: SamplingConfig, generator: torch.Generator
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Draws one token a row; returns the ids and their log-probabilities under the distribution that was drawn from."""
    if sampling.temperature == 0:
        ids_B = logits_BV.argmax(dim=-1)
        return ids_B, torch.zeros_like(ids_B, dtype=torch.float32)
    logprobs_BV = (logits_BV / sampling.temperature).log_softmax(dim=-1)
    if sampling.top_p < 1:
        ordered_BV, order_BV = logprobs_BV.exp().sort(dim=-1, descending=True)
        # The token that crosses the threshold stays in.
        outside_BV = ordered_BV.cumsum(dim=-1) - ordered_BV >= sampling.top_p
        logprobs_BV = logprobs_BV.masked_fill(outside_BV.scatter(1, order_BV, outside_BV), float("-inf"))
        logprobs_BV = logprobs_BV.log_softmax(dim=-1)
    # One uniform number a row against the cumulative distribution, in fp64 so that a large vocabulary's rare tokens keep their
    # share. A number per token (torch.multinomial, p / Exp(1)) costs many times that.
    cumulative_BV = logprobs_BV.double().exp().cumsum(dim=-1)
    draw_B1 = torch.rand(len(logprobs_BV), 1, dtype=torch.float64, generator=generator).to(logprobs_BV.device)
    ids_B1 = torch.searchsorted(cumulative_BV, draw_B1 * cumulative_BV[:, -1:], right=True)
    ids_B = ids_B1.squeeze(1).clamp(max=logprobs_BV.shape[1] - 1)
    return ids_B, logprobs_BV.gather(1, ids_B[:, None]).squeeze(1)
