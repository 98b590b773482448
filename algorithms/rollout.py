"""Token-exact batched rollouts: many episodes of one environment, sampled from one policy.

All rows advance together. A row whose consult is complete asks its helper, which answers on a thread of its own; until then
the row waits, and the others go on. The reply's tokens are then forced, one a step, while other rows go on sampling (several a
step when all rows have tokens to take). Nothing is decoded and encoded again on the way: the ids of a trajectory are the ids
that went through the model.

Each row draws from random numbers of its own, so that its tokens do not depend on what stands beside it, nor on how long
helpers take, but for the rounding of matrix products of other shapes. Helpers that do not wait for anything leave the shapes
alone: then a rollout is reproducible to the bit.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from aipo_agents.backends.drawing import draw
from aipo_env import ConsultEnv, Episode, Reply, TokenAction, Trajectory
from aipo_env.errors import ConfigurationError, GradingError
from aipo_env.game import ConsultGame
from aipo_env.protocol import FinishReason
from algorithms.decoder import BatchDecoder
from algorithms.policies import Policy
from algorithms.train_config import SamplingConfig

PATIENCE = 0.02
"""Seconds for which the whole batch waits for replies before rows wait alone: about a decoding step."""
_LOOP_TURNS = 50
"""Turns of the event loop that are granted beside: what a helper needs that waits for nothing, however slow the machine is."""


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

    def __init__(self, index: int, request: RolloutRequest, episode: Episode, context: int | None, seed: int) -> None:
        self.index, self.request, self.episode = index, request, episode
        self.room = sys.maxsize if context is None else context - len(episode.segments[0].token_ids)
        self.forced: deque[int] = deque()
        self.turn: list[int] = []
        self.logprobs: list[float] = []
        self.num_tokens = 0
        self.consulted = False
        """Whether the turn holds the tag that closes a consult."""
        self.replies: concurrent.futures.Future[list[Reply]] | None = None
        """What the row waits for."""
        self.fault = ""
        own = np.random.SeedSequence(seed, spawn_key=(request.task_index, request.sample, request.seed))
        self.generator = torch.Generator().manual_seed(int(own.generate_state(1, np.uint64)[0] >> 1))

    def end_turn(self, game: ConsultGame, finish_reason: FinishReason) -> None:
        """Hands the turn to the episode, and queues what the environment says to it (a notice)."""
        recorded = len(self.episode.segments) + 1
        try:
            self.episode.act(TokenAction(tuple(self.turn), tuple(self.logprobs), finish_reason))
            game.grade(self.episode)
        except GradingError as error:
            self.fault = f"{type(error).__name__}: {error}"
            self.episode.truncate("error")
        self.turn, self.logprobs, self.consulted = [], [], False
        self.force_from(recorded)

    def force_from(self, recorded: int) -> None:
        """Queues the tokens of the segments from this number on."""
        for segment in self.episode.segments[recorded:]:
            self.forced.extend(segment.token_ids)
        if self.num_tokens + len(self.forced) >= self.room:
            self.episode.truncate("length")

    def take_replies(self, game: ConsultGame) -> None:
        """Hands the replies that have come to the episode, and queues them; a bug in a helper propagates."""
        assert self.replies is not None
        recorded = len(self.episode.segments)
        game.tell(self.episode, self.replies.result())
        self.replies = None
        self.force_from(recorded)

    def trajectory(self) -> Trajectory:
        """The record, with the fault that ended it, if one did."""
        trajectory = self.episode.trajectory(group=self.request.group, sample=self.request.sample)
        if self.fault:
            trajectory.metadata["error"] = self.fault
        return trajectory


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

    def iterate(self, requests: Sequence[RolloutRequest], seed: int = 0) -> Iterator[tuple[int, Trajectory]]:
        """Yields (index of the request, trajectory) as episodes finish, in batches of `sampling.batch_size`.

        What is sampled for a request is a function of the policy, `sampling`, the request and `seed` alone. An episode whose
        answer could not be graded ends as "error", with the fault in its metadata.
        """
        size = self.sampling.batch_size
        with _Helpers(self.env.game) as helpers:
            for start in range(0, len(requests), size):
                rows = [
                    self._start(start + i, request, seed) for i, request in enumerate(requests[start : start + size])
                ]
                for row in rows:
                    if row.room < 1:  # the prompt alone is too long
                        row.episode.truncate("length")
                        yield row.index, row.trajectory()
                if rows := [row for row in rows if not row.episode.done]:
                    yield from self._run(rows, helpers)

    def _start(self, index: int, request: RolloutRequest, seed: int) -> _Row:
        episode = self.env.make_episode(request.task_index, seed=request.seed, assisted=request.assisted)
        return _Row(index, request, episode, self.context, seed)

    def _run(self, rows: list[_Row], helpers: _Helpers) -> Iterator[tuple[int, Trajectory]]:
        was_training = self.policy.model.training
        self.policy.model.eval()
        try:
            decoder = BatchDecoder(self.policy.model, [row.episode.segments[0].token_ids for row in rows])
            while True:
                waits_B = torch.tensor([row.replies is not None for row in rows])
                tokens_BW = self._advance(decoder, rows)
                helpers.serve(rows, all_wait=not decoder.can_wait)
                for row in rows:
                    if row.episode.done:
                        yield row.index, row.trajectory()
                alive = [position for position, row in enumerate(rows) if not row.episode.done]
                if not alive:
                    return
                if len(alive) < len(rows):
                    rows = [rows[position] for position in alive]
                    decoder.keep(torch.tensor(alive))
                    tokens_BW, waits_B = tokens_BW[alive], waits_B[alive]
                decoder.step(tokens_BW, waits_B if bool(waits_B.any()) else None)
        finally:
            self.policy.model.train(was_training)

    def _advance(self, decoder: BatchDecoder, rows: list[_Row]) -> Int[Tensor, "batch width"]:
        """Chooses the next tokens of every row: those that it is forced to take, or a sampled one; 0 for one that waits."""
        width = min(len(row.forced) for row in rows if row.replies is None)
        tokens_BW = torch.zeros(len(rows), max(width, 1), dtype=torch.long)
        drawing = []
        for position, row in enumerate(rows):
            if row.replies is not None:
                continue
            if row.forced:
                tokens_BW[position] = torch.tensor([row.forced.popleft() for _ in range(tokens_BW.shape[1])])
                row.num_tokens += tokens_BW.shape[1]
            elif row.num_tokens >= min(self.sampling.max_tokens, row.room):
                row.end_turn(self.env.game, "length") if row.turn else row.episode.truncate("length")
            else:
                drawing.append(position)
        if not drawing:
            return tokens_BW
        logits_DV = decoder.logits_BV if len(drawing) == len(rows) else decoder.logits_BV[drawing]
        count, generators = len(drawing), [rows[position].generator for position in drawing]
        drawn = draw(logits_DV, [self.sampling.temperature] * count, [self.sampling.top_p] * count, generators)
        for position, token, logprob in zip(drawing, *drawn, strict=True):
            row = rows[position]
            tokens_BW[position, 0] = token
            row.turn.append(token)
            row.logprobs.append(logprob)
            row.num_tokens += 1
            if self._ends_turn(row, token):
                row.end_turn(self.env.game, "stop")
        return tokens_BW

    def _ends_turn(self, row: _Row, token: int) -> bool:
        if token in self._eos_ids:
            return True
        closing = row.episode.dialect.closing
        if not (closing and row.episode.config.assisted):
            return False
        # Decoding the whole turn is needed only where its end may hold the closing tag, or a consult has closed before.
        may_close = token in self._closers and closing in self.policy.codec.decode(row.turn[-32:])
        if not (row.consulted or may_close):
            return False
        row.consulted = True
        return row.episode.turn_is_complete(self.policy.codec.decode(row.turn))


class _Helpers:
    """The helpers of a game, which answer on an event loop of their own while the decoder goes on.

    They alone run there: an episode tokenises what it is told, and a tokenizer is not made for two threads. The loop starts
    with the first question, and ends, with whatever still runs on it, when the context is left.
    """

    def __init__(self, game: ConsultGame) -> None:
        self._game = game
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> _Helpers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(_end_tasks(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def serve(self, rows: Sequence[_Row], *, all_wait: bool) -> None:
        """Asks for the rows whose consult is complete, and queues the replies that are there.

        Waits where no row could go on otherwise, and a little for what has just been asked.

        Args:
            rows: those that run.
            all_wait: until every reply is there, since the rows can only go on together.
        """
        asking = [row for row in rows if row.replies is None and row.episode.requests]
        if asking:
            self._ask(asking)
        while waiting := {row.replies: row for row in rows if row.replies is not None}:
            must_wait = all_wait or len(waiting) == sum(not row.episode.done for row in rows)
            come, _ = concurrent.futures.wait(waiting, None if must_wait else 0.0, concurrent.futures.FIRST_COMPLETED)
            for replies, row in waiting.items():
                if replies in come:
                    row.take_replies(self._game)
            if not must_wait:
                return

    def _ask(self, rows: Sequence[_Row]) -> None:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="aipo-helpers", daemon=True)
            self._thread.start()
        replies = []
        for row in rows:
            asked = self._game.ask_agents(row.episode.requests, row.episode)
            row.replies = asyncio.run_coroutine_threadsafe(asked, self._loop)
            replies.append(row.replies)
        asyncio.run_coroutine_threadsafe(_grant_turns(replies), self._loop).result()
        concurrent.futures.wait(replies, PATIENCE)


async def _grant_turns(replies: Sequence[concurrent.futures.Future[list[Reply]]]) -> None:
    """Lets the loop turn until all have answered, a limited number of times."""
    for _ in range(_LOOP_TURNS):
        if all(reply.done() for reply in replies):
            return
        await asyncio.sleep(0)


async def _end_tasks() -> None:
    """Cancels all other tasks of the running loop and waits for their end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
