"""Episodes that take their turns at the same time, for trainers that generate for a whole batch at once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Collection, Sequence

from aipo_env.consulting import run_sync
from aipo_env.episode import Episode
from aipo_env.errors import GradingError
from aipo_env.game import ConsultGame
from aipo_env.playing import turn_request
from aipo_env.protocol import FinishReason, TokenAction
from aipo_env.rollout import EpisodeSeeds
from aipo_env.trajectory import Trajectory

Generated = tuple[Sequence[Sequence[int]], Sequence[Sequence[float | None]] | None]
"""Ids behind each context, and their log-probabilities where they are known."""


def play_rows(
    game: ConsultGame,
    tasks: Sequence[int],
    generate: Callable[[list[list[int]], int], Generated],
    *,
    group_size: int,
    num_solo: int,
    max_tokens: int,
    eos_ids: Collection[int],
    seed: int,
    epoch: int,
    first: int = 0,
    everywhere: Callable[[int], int] = lambda running: running,
) -> list[Trajectory]:
    """Plays an episode for each row of a batch of groups.

    What was generated behind the end of a turn is dropped, and a turn that did not end is generated further: where generation
    stops decides the cost alone. Where the machinery that grades fails, an episode ends as "error".

    Args:
        game: the rules, with the policy's tokenizer.
        tasks: of each row; `group_size` rows in a row are a group.
        generate: continues contexts by up to so many tokens.
        group_size: rows of a group.
        num_solo: the first rows of each group, which get no help.
        max_tokens: tokens behind the prompt, helpers' replies included.
        eos_ids: what ends a turn.
        seed: decides the helpers' seeds, with the row and the epoch.
        epoch: how many batches came before.
        first: the first row's place in a batch of several processes.
        everywhere: from the number of running episodes to that of contexts that `generate` is given, which is more where
            several processes generate together; contexts beyond those of the episodes are repeats.
    """
    places = [divmod(first + row, group_size) for row in range(len(tasks))]
    episodes = []
    for task, (group, sample) in zip(tasks, places, strict=True):
        seeds = EpisodeSeeds(seed, task, group * group_size + sample, epoch)
        episodes.append(game.make_episode(task, seed=seeds.episode, assisted=sample >= num_solo))
    drafts = [_Draft(episode) for episode in episodes]
    spare = [_ids(episodes[0])] if episodes else [list(eos_ids)[:1]]
    while count := everywhere(len(drafts)):
        rooms = [max_tokens - draft.used for draft in drafts]
        contexts = [_ids(draft.episode) + draft.ids for draft in drafts]
        ids, logprobs = generate(contexts + spare * (count - len(contexts)), max(rooms, default=1))
        for row, (draft, room) in enumerate(zip(drafts, rooms, strict=True)):
            draft.extend(ids[row][:room], None if logprobs is None else logprobs[row], eos_ids)
            if draft.used >= max_tokens and draft.finish is None:
                draft.finish = "length"
        run_sync(_serve(game, [draft.act() for draft in drafts if draft.finish is not None]))
        for draft in drafts:
            if draft.used >= max_tokens:
                draft.episode.truncate("length")
        drafts = [draft for draft in drafts if not draft.episode.done]
    return [e.trajectory(group=group, sample=sample) for e, (group, sample) in zip(episodes, places, strict=True)]


def _ids(episode: Episode) -> list[int]:
    """The tokens of an episode so far."""
    return [i for segment in episode.segments for i in segment.token_ids]


@dataclasses.dataclass(slots=True)
class _Draft:
    """A turn while it is written."""

    episode: Episode
    ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float | None] = dataclasses.field(default_factory=list)
    finish: FinishReason | None = None

    @property
    def used(self) -> int:
        """Tokens behind the prompt."""
        return len(self.ids) + sum(len(segment.token_ids) for segment in self.episode.segments[1:])

    def extend(self, ids: Sequence[int], logprobs: Sequence[float | None] | None, eos_ids: Collection[int]) -> None:
        """Takes of what was generated what belongs to the turn."""
        text, request = self.episode.dialect.text, turn_request(self.episode, seed=0)
        for place, token in enumerate(ids):
            self.ids.append(token)
            self.logprobs.append(None if logprobs is None else logprobs[place])
            ended = token in eos_ids or token in request.stop_ids
            if ended or any(stop[-1] in text([token]) and stop in text(self.ids) for stop in request.stop):
                self.finish = "stop"
                return
        if not ids:
            self.finish = "length"

    def act(self) -> Episode:
        """Takes the turn; another begins."""
        assert self.finish is not None
        told = [value for value in self.logprobs if value is not None]
        self.episode.act(TokenAction(tuple(self.ids), tuple(told) if len(told) == len(self.ids) else None, self.finish))
        self.ids, self.logprobs, self.finish = [], [], None
        return self.episode


async def _serve(game: ConsultGame, episodes: Sequence[Episode]) -> None:
    """Does what the turns made due, for all at the same time."""
    found = await asyncio.gather(*(game.serve(episode) for episode in episodes), return_exceptions=True)
    for episode, result in zip(episodes, found, strict=True):
        if isinstance(result, GradingError):
            episode.truncate("error")
        elif isinstance(result, BaseException):
            raise result
