"""One episode, played by a policy that takes a turn at a time. No clock, no files."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import cast

from aipo_env.episode import Episode
from aipo_env.errors import ConfigurationError, GradingError, InvalidActionError
from aipo_env.game import ConsultGame
from aipo_env.graded_ahead import GradedAhead
from aipo_env.markup import CONSULT_CLOSE
from aipo_env.protocol import Action, TokenAction, TurnPolicy, TurnRequest

PolicyLike = TurnPolicy | Callable[[str], str] | Callable[[str], Awaitable[str]]
"""A policy, or a function from the transcript to the turn, synchronous or asynchronous."""


class FunctionPolicy:
    """A policy made of a function of the transcript; a synchronous one runs in a thread, so that a slow one blocks nobody.

    Args:
        function: maps the transcript to the text of the turn.
        executor: the threads of a synchronous function; None for those of the event loop.
    """

    def __init__(self, function: Callable[[str], str | Awaitable[str]], executor: Executor | None = None) -> None:
        self.name = getattr(function, "__name__", type(function).__name__).strip("<>")
        self._function = function
        self._executor = executor

    async def act(self, request: TurnRequest) -> Action:
        """Calls the function with the transcript."""
        if inspect.iscoroutinefunction(self._function):
            return cast("Action", await self._function(request.transcript))
        loop = asyncio.get_running_loop()
        return cast("Action", await loop.run_in_executor(self._executor, self._function, request.transcript))


def as_policy(policy: PolicyLike, executor: Executor | None = None) -> TurnPolicy:
    """Makes a policy of what stands for one.

    Args:
        policy: something with a `name` and an `async def act(self, request)`, or a function of the transcript.
        executor: the threads of a synchronous function.
    """
    act = getattr(policy, "act", None)
    if act is not None and not inspect.isclass(policy):
        if inspect.iscoroutinefunction(act) and isinstance(getattr(policy, "name", None), str):
            return cast("TurnPolicy", policy)
    elif callable(policy) and not inspect.isclass(policy):
        return FunctionPolicy(policy, executor)
    came = f"the class {policy.__name__}" if inspect.isclass(policy) else type(policy).__name__
    raise ConfigurationError(
        "a policy has a `name` and an `async def act(self, request: TurnRequest) -> Action`, or is a function `str -> str` of "
        f"the transcript; got {came}. Pass an instance, and make `act` asynchronous."
    )


def turn_request(episode: Episode, *, seed: int, max_tokens: int | None = None, exact: bool) -> TurnRequest:
    """What a policy is asked for its next turn.

    Args:
        episode: in which it is the policy's turn.
        seed: the policy's for this turn.
        max_tokens: that are left for it.
        exact: whether the episode has a tokenizer.
    """
    config = episode.config
    return TurnRequest(
        transcript=episode.transcript,
        token_ids=tuple(i for segment in episode.segments for i in segment.token_ids) if exact else (),
        # With several consults a turn no single string ends one.
        stop=(CONSULT_CLOSE,) if config.assisted and config.fan_out == 1 else (),
        max_tokens=max_tokens,
        seed=seed,
        turn=episode.turn,
        task_id=episode.task.id,
        assisted=config.assisted,
    )


class Player:
    """Plays episodes of a game with one policy; any number at the same time.

    Args:
        game: tasks, helpers and rules.
        policy: takes the turns.
        max_tokens: tokens behind the prompt, helpers' replies included; None for no limit.
        executor: the threads in which answers are graded.
    """

    def __init__(
        self,
        game: ConsultGame,
        policy: TurnPolicy,
        *,
        max_tokens: int | None = None,
        executor: Executor | None = None,
    ) -> None:
        self._tasks = GradedAhead(game.tasks, executor)
        self.game = copy.copy(game)
        self.game.tasks = self._tasks
        self.policy = policy
        self.max_tokens = max_tokens

    def start(self, task_index: int, *, seed: int, assisted: bool) -> Episode:
        """The episode that `play` plays."""
        return self.game.make_episode(task_index, seed=seed, assisted=assisted)

    async def play(self, episode: Episode, turn_seed: Callable[[int], int]) -> BaseException | None:
        """Plays an episode to its end.

        Args:
            episode: from `start`.
            turn_seed: the policy's seed as a function of the number of turns taken.

        Returns:
            None, or why a turn could not be taken: the policy cannot act (`ServiceError`, `TimeoutError`,
            `ConnectionError`), or the machinery that grades its answer failed (`GradingError`), which says nothing about
            the answer. The episode still runs then.

        Raises:
            InvalidActionError: for an action that is none, or longer than the tokens that were left.
        """
        exact = self.game.codec is not None
        while not episode.done:
            left = self._tokens_left(episode)
            if left is not None and left <= 0:
                episode.truncate("length")
                break
            request = turn_request(episode, seed=turn_seed(episode.turn), max_tokens=left, exact=exact)
            try:
                action = await self.policy.act(request)
            except (TimeoutError, ConnectionError) as error:
                return error
            if isinstance(action, TokenAction) and left is not None and len(action.ids) > left:
                raise InvalidActionError(
                    f"{self.policy.name} was asked for at most {left} tokens (TurnRequest.max_tokens) and returned "
                    f"{len(action.ids)}. Stop sampling there, with finish_reason='length'."
                )
            try:
                await self._tasks.act(episode, action)
            except GradingError as error:
                return error
            if episode.requests:
                await self.game.ask(episode)
        return None

    def _tokens_left(self, episode: Episode) -> int | None:
        if self.max_tokens is None:
            return None
        return self.max_tokens - sum(len(segment.token_ids) for segment in episode.segments[1:])
