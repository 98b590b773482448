"""A driver of some forty lines over the PettingZoo face gets what `HelperTrainer` gets: nothing of it needs our trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import aipo_env
from aipo_agents.backends import Generation
from aipo_agents.verify import VerifyAgent
from aipo_env.consulting import run_sync
from aipo_env.playing import turn_request
from aipo_env.protocol import Agent, ConsultRequest, Reply, TurnPolicy
from aipo_env.rollout import EpisodeSeeds
from algorithms.multi_agent import HelperTrainer, TrainedHelper
from algorithms.policies import load_policy
from algorithms.rollout import local_policy
from algorithms.train_config import SamplingConfig, TrainConfig
from benchmarks.roles.knowledge import expand
from benchmarks.roles.setting import RULES

# -- the driver ----------------------------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """A reply as a learner takes it; those of one query are compared."""

    view: list[int]
    reply: Reply
    reward: float


def play(
    env: aipo_env.ParallelConsultEnv, policy: TurnPolicy, helpers: Mapping[str, Agent], seeds: EpisodeSeeds, max_tokens: int,
    until: str | None = None,
) -> float:  # fmt: skip
    """Plays to the end, or to the first query to a helper; returns what the team earns on the way."""
    earned = 0.0
    while env.agents and env.episode.turn_of != until:
        episode, actions = env.episode, dict[str, Any]()
        if episode.turn_of == "policy":
            left = max_tokens - sum(len(segment.token_ids) for segment in episode.segments[1:])
            if left <= 0:
                break
            request = turn_request(episode, seed=seeds.turn(episode.num_acts), max_tokens=left)
            actions["policy_0"] = run_sync(policy.act(request))
        for name, asked in episode.requests.items():
            actions[f"{name}_0"] = run_sync(helpers[name].respond(asked))
        earned += env.step(actions)[1]["policy_0"]
    return earned


def branch_out(
    env: aipo_env.ParallelConsultEnv, policy: TurnPolicy, helpers: Mapping[str, Agent], helper: TrainedHelper,
    tasks: Sequence[int], *, seed: int, replies: int, max_tokens: int,
) -> list[list[Sample]]:  # fmt: skip
    """Plays each task up to the first query to the helper, forks there for each reply, and plays on."""
    groups = []
    for slot, task in enumerate(tasks):
        seeds = EpisodeSeeds(seed, task, 0, slot)
        env.reset(options={"task_index": task})
        env.episode.seed = seeds.episode
        play(env, policy, helpers, seeds, max_tokens, until=helper.name)
        if env.episode.turn_of != helper.name:
            continue
        group = []
        for sample in range(replies):
            fork, seeds = env.fork(), EpisodeSeeds(seed, task, 1 + sample, slot)
            request = dataclasses.replace(fork.episode.request, seed=seeds.episode)
            reply = run_sync(helper.respond(request))
            fork.step({f"{helper.name}_0": reply})
            group.append(Sample(helper.view(request)[1], reply, play(fork, policy, helpers, seeds, max_tokens)))
        groups.append(group)
    return groups


# -- that it is the trainer's --------------------------------------------------------------------------------------------


class Sometimes(TrainedHelper):
    """One that is right by half of the seeds, and writes what the embedded policy happens to write by the others."""

    async def sample(self, request: ConsultRequest) -> Generation:
        if request.seed % 2:
            return await super().sample(request)
        ids = self.policy.codec.encode(expand(request.query, "@"))
        return Generation("", (*ids, min(self.policy.eos_ids)), (-0.5,) * (len(ids) + 1))


@pytest.mark.parametrize(("max_tokens", "rewards"), [(48, {0.0, 1.0}), (35, {0.0})])  # 35 end amid the answer
def test_a_driver_has_the_samples_rewards_and_groups_of_the_trainer(
    max_tokens: int, rewards: set[float], tmp_path: Path
) -> None:
    sampling = SamplingConfig(max_tokens=max_tokens)
    config = TrainConfig(
        env_options=RULES,
        out=tmp_path,
        seed=3,
        prompts_per_step=8,
        samples_per_prompt=4,
        solo_share=1.0,
        sampling=sampling,
    )
    team, policy = load_policy("embedded"), load_policy("embedded")
    trainer = HelperTrainer(config, "knowledge", team, policy=policy)
    trainer.helper = helper = Sometimes("knowledge", policy)
    collected = trainer.collect()
    groups = [[t for t in collected if t.group == group] for group in range(1 + max(t.group for t in collected))]

    # A turn ends behind its consult, as in the trainer: where it may hold several, the policy writes on.
    env = aipo_env.make_parallel("rulebook-consult", controlled=None, fan_out=1, codec=team.codec, **RULES)
    team.model.eval()
    policy.model.eval()
    driven = branch_out(
        env, local_policy(team, sampling), {"knowledge": helper, "verify": VerifyAgent()}, helper, trainer._tasks(0),
        seed=trainer.sampling_seed(0), replies=4, max_tokens=max_tokens,
    )  # fmt: skip
    assert [len(group) for group in driven] == [len(group) for group in groups]
    assert 4 <= len(groups) < 8  # some ask nobody
    for mine, theirs in zip(driven, groups, strict=True):
        for sample, t in zip(mine, theirs, strict=True):
            view, written = t.segments
            said = len(sample.reply.token_ids or ())
            assert view.token_ids == tuple(sample.view)
            assert written.token_ids[:said] == sample.reply.token_ids
            assert set(written.token_ids[said:]) <= policy.eos_ids
            assert written.logprobs[:said] == pytest.approx(sample.reply.logprobs, abs=1e-4)
            assert t.reward == sample.reward
    assert {t.reward for t in collected} == rewards
