"""What of an episode's outcome each reply is credited with: what is not earned where its question stays without a reply.

    A = max(O - V, 0)

O is the episode's own outcome, the one sample of what comes with the reply; V is the mean outcome of continuations from before
the reply, in whose place the notice stands of a helper that could not answer. The first has the seeds of the episode itself, so
that it goes another way only where the reply makes a difference. A question that is asked again, word for word, stays without a
reply too; all others are answered as ever. Derived in docs/objective.md, section 9.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Sequence

from aipo_env.episode import Episode
from aipo_env.game import ConsultGame
from aipo_env.protocol import Agent, ConsultRequest, Reply
from aipo_env.replay import NO_REPLY, unanswered
from aipo_env.rollout import EpisodeSeeds
from aipo_env.trace_files import FAULTS
from aipo_env.trajectory import Source, Trajectory
from algorithms.rollout import LocalSampler

log = logging.getLogger("algorithms")


class _Unanswering:
    """A helper that cannot answer one question."""

    def __init__(self, agent: Agent, query: str) -> None:
        self.name, self._agent, self._query = agent.name, agent, query
        self.uses_hints = getattr(agent, "uses_hints", False)

    async def respond(self, request: ConsultRequest) -> Reply:
        return NO_REPLY if request.query == self._query else await self._agent.respond(request)


def credit_replies(
    sampler: LocalSampler,
    game: ConsultGame,
    trajectories: Sequence[Trajectory],
    tasks: Sequence[int],
    seed: int,
    *,
    continuations: int = 1,
) -> int:
    """Writes into the segments of the replies which share of the outcome they are credited with: A / O.

    Replies in episodes that earned nothing are worth nothing anyway, and cost no continuation. Where faults cut all
    continuations, nothing is known, and the reply keeps the whole credit.

    Args:
        sampler: plays on, with the policy that played the episodes.
        game: that was played.
        trajectories: the rollouts; changed in place.
        tasks: of each group.
        seed: of these rollouts.
        continuations: of each reply.

    Returns:
        How many continuations were played.
    """
    replies: list[tuple[Trajectory, int, list[Episode]]] = []
    branches = []
    for t in trajectories:
        if not t.assisted or t.outcome <= 0 or t.stop_reason in FAULTS:
            continue
        epoch = tasks[: t.group].count(tasks[t.group])
        for place, agent, request, without in unanswered(t, game):
            silent = copy.copy(game)
            silent.agents = {**game.agents, agent: _Unanswering(game.agents[agent], request.query)}
            replies.append((t, place, []))
            for number in range(continuations):
                seeds, branch = EpisodeSeeds(seed + number, tasks[t.group], t.sample, epoch), without.fork()
                branch.seed = seeds.episode
                branches.append((silent, branch, seeds.turn))
                replies[-1][2].append(branch)
    if not branches:
        return 0
    lengths = [len(branch.segments) for _, branch, _ in branches]
    faults = {id(b) for (_, b, _), error in zip(branches, sampler.play_on(branches), strict=True) if error is not None}
    if cut := sum(
        b.stop_reason == "length" and len(b.segments) == begun
        for (_, b, _), begun in zip(branches, lengths, strict=True)
    ):
        log.warning(
            "%d of %d episodes had no room for the policy behind the notice that stands in a reply's place, so that its whole "
            "credit stays: raise sampling.max_tokens",
            cut,
            len(branches),
        )
    for t, place, played in replies:
        outcomes = [branch.trajectory().outcome for branch in played if id(branch) not in faults]
        if outcomes:
            credit = max(1 - sum(outcomes) / len(outcomes) / t.outcome, 0.0)
            t.segments[place] = dataclasses.replace(t.segments[place], credit=credit)
    return len(branches)


def credit_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """The mean credit of each helper's replies in episodes that earned something."""
    credits: dict[str, list[float]] = {}
    for t in trajectories:
        for segment in t.segments:
            if segment.source is Source.AGENT and t.outcome > 0:
                credits.setdefault(segment.agent, []).append(segment.credit)
    return {f"train/reply_credit_{agent}": sum(found) / len(found) for agent, found in sorted(credits.items())}
