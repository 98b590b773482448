"""One episode, played by a policy that takes a turn at a time. No clock, no files."""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from collections.abc import Awaitable, Callable
from typing import cast

from aipo_env.episode import POLICY, Episode
from aipo_env.errors import ConfigurationError, GradingError, InvalidActionError
from aipo_env.game import ConsultGame
from aipo_env.protocol import Action, TokenAction, TurnPolicy, TurnRequest
from aipo_env.threads import call

PolicyLike = TurnPolicy | Callable[[str], str] | Callable[[str], Awaitable[str]]
"""A policy, or a function from the transcript to the turn, synchronous or asynchronous."""


class FunctionPolicy:
    """A policy made of a function of the transcript; a synchronous one runs in a thread, so that a slow one blocks nobody.

    Its name is the function's; that of a lambda or a `functools.partial` says too what it does, so that two are told apart.

    Args:
        function: maps the transcript to the text of the turn.
    """

    def __init__(self, function: Callable[[str], str | Awaitable[str]]) -> None:
        self.name = _function_name(function)
        self._function = function

    async def act(self, request: TurnRequest) -> Action:
        """Calls the function with the transcript."""
        return await call(self._function, request.transcript)


def _function_name(function: Callable[..., object]) -> str:
    name = str(getattr(function, "__name__", type(function).__name__))
    if isinstance(function, functools.partial):
        what: object = (_function_name(function.func), function.args, sorted(function.keywords.items()))
    elif isinstance(function, types.FunctionType) and name == "<lambda>":
        # What it closes over may show nothing but its address: then it is known in this process alone.
        cells = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
        what = (cells, _code(function.__code__), function.__defaults__, function.__kwdefaults__)
    else:
        return name
    return f"{name.strip('<>')}-{hashlib.blake2b(repr(what).encode(), digest_size=4).hexdigest()}"


def _code(code: types.CodeType) -> object:
    """What makes two pieces of code the same, wherever they stand."""
    constants = [_code(value) if isinstance(value, types.CodeType) else value for value in code.co_consts]
    return code.co_code, code.co_names, constants


def as_policy(policy: PolicyLike) -> TurnPolicy:
    """Makes a policy of what stands for one.

    Args:
        policy: something with a `name` and an `async def act(self, request)`, or a function of the transcript.
    """
    act = getattr(policy, "act", None)
    if act is not None and not inspect.isclass(policy):
        if inspect.iscoroutinefunction(act) and isinstance(getattr(policy, "name", None), str):
            return cast("TurnPolicy", policy)
    elif callable(policy) and not inspect.isclass(policy):
        return FunctionPolicy(policy)
    came = f"the class {policy.__name__}" if inspect.isclass(policy) else type(policy).__name__
    raise ConfigurationError(
        "a policy has a `name` and an `async def act(self, request: TurnRequest) -> Action`, or is a function `str -> str` of "
        f"the transcript; got {came}. Pass an instance, and make `act` asynchronous."
    )


def turn_request(episode: Episode, *, seed: int, max_tokens: int | None = None) -> TurnRequest:
    """What a policy is asked for its next turn.

    Args:
        episode: in which it is the policy's turn.
        seed: the policy's for this turn.
        max_tokens: that are left for it.
    """
    config, dialect = episode.config, episode.dialect
    closing, codec = dialect.closing, dialect.codec
    # With several consults a turn no single string ends one.
    stop = (closing,) if closing and config.asks and config.fan_out == 1 else ()
    stop_ids: list[int] = [] if codec is None else sorted(codec.eos_ids)
    if episode.replying:
        closing = dialect.closer(episode.replying)
        ids = dialect.ids(closing)
        stop, stop_ids = ((), [*stop_ids, *ids]) if len(ids) == 1 else ((closing,), stop_ids)
    return TurnRequest(
        transcript=episode.transcript,
        token_ids=tuple(i for segment in episode.segments for i in segment.token_ids) if codec else (),
        stop=stop,
        max_tokens=max_tokens,
        seed=seed,
        turn=episode.turn,
        task_id=episode.task.id,
        assisted=config.assisted,
        stop_ids=tuple(stop_ids),
        replying=episode.replying,
        tell=functools.partial(dialect.messages, episode.prompt, tuple(episode.segments)),
    )


class Player:
    """Plays episodes of a game with one policy; any number at the same time.

    Args:
        game: tasks, helpers and rules.
        policy: takes the turns.
        max_tokens: tokens behind the prompt, helpers' replies included; None for no limit.
    """

    def __init__(self, game: ConsultGame, policy: TurnPolicy, *, max_tokens: int | None = None) -> None:
        self.game = game
        self.policy = policy
        self.max_tokens = max_tokens

    async def start(self, task_index: int, *, seed: int, assisted: bool) -> Episode:
        """The episode that `play` plays."""
        await self.game.prepare(task_index)
        return self.game.make_episode(task_index, seed=seed, assisted=assisted)

    async def play(
        self,
        episode: Episode,
        turn_seed: Callable[[int], int],
        changed: Callable[[], None] = lambda: None,
        *,
        until: str | None = None,
    ) -> BaseException | None:
        """Plays an episode to its end.

        Args:
            episode: from `start`.
            turn_seed: the policy's seed as a function of the number of turns taken.
            changed: called whenever the episode has changed, before somebody is waited for.
            until: a helper before whose reply it stops.

        Returns:
            None, or why it does not go on: the policy cannot act (`ServiceError`, `TimeoutError`, `ConnectionError`), or
            the machinery that grades its answer failed (`GradingError`), which says nothing about the answer. The episode
            still runs then, and can be played on.

        Raises:
            InvalidActionError: for an action that is none, or longer than the tokens that were left.
        """
        while not episode.done:
            if episode.turn_of == POLICY:
                left = self._tokens_left(episode)
                if left is not None and left <= 0:
                    episode.truncate("length")
                    break
                request = turn_request(episode, seed=turn_seed(episode.num_acts), max_tokens=left)
                changed()
                try:
                    action = await self.policy.act(request)
                except (TimeoutError, ConnectionError) as error:
                    return error
                if isinstance(action, TokenAction) and left is not None and len(action.ids) > left:
                    raise InvalidActionError(
                        f"{self.policy.name} was asked for at most {left} tokens (TurnRequest.max_tokens) and returned "
                        f"{len(action.ids)}. Stop sampling there, with finish_reason='length'."
                    )
                episode.act(action)
            if until is not None and episode.turn_of == until:
                break
            changed()
            try:
                await self.game.serve(episode)
            except GradingError as error:
                return error
        return None

    def _tokens_left(self, episode: Episode) -> int | None:
        if self.max_tokens is None:
            return None
        return self.max_tokens - sum(len(segment.token_ids) for segment in episode.segments[1:])
