"""Helpers that are trained so that the policy ends well.

A helper's reply is a one-turn episode in which the helper is the policy: samples, advantages and objective serve it unchanged.
What a reply earns is decided by playing on. From an episode that has come to a consult, `samples_per_prompt` replies branch
off, each is played to the end by the policy, and the replies to one query are the group that is compared.

A helper of the policy's own weights and view would be the policy alone, so it has weights of its own.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import aipo_env
from aipo_agents.backends.base import CompletionSampling, Generation
from aipo_agents.backends.transformers_model import TransformersModel
from aipo_agents.llm import LLMAgent, role_prompt
from aipo_agents.verdicts import leading_verdict
from aipo_agents.verify import VerifyAgent
from aipo_env.advantages import informative_groups
from aipo_env.consulting import ask_together, run_sync
from aipo_env.episode import Episode
from aipo_env.errors import ConfigurationError, ServiceError, unknown_id
from aipo_env.make_options import AgentLike
from aipo_env.playing import Player
from aipo_env.protocol import ConsultRequest, Reply
from aipo_env.registry import parse_agents
from aipo_env.rollout import EpisodeSeeds
from aipo_env.training_sample import to_training_sample
from aipo_env.trajectory import Segment, Source, Trajectory
from algorithms import batch as batches
from algorithms.checkpoint import list_checkpoints, load_checkpoint
from algorithms.config import ObjectiveConfig
from algorithms.logprobs import token_logprobs
from algorithms.policies import Policy, load_policy
from algorithms.rollout import LocalSampler, evaluating, local_policy
from algorithms.run_folder import CHECKPOINTS
from algorithms.train_config import HelperConfig, HelperReward, TrainConfig
from algorithms.trainer import Metrics, Trainer

log = logging.getLogger("algorithms")

SOLO_ATTEMPTS = 2
"""Of the policy at each task alone, beside the replies."""
SOLVED_ALONE = 0.9
"""What the policy earns alone from which on "marginal" pays nothing: that task needs no help."""
LOOKAHEAD = 1e-2
"""The length of the step that "lookahead" looks ahead."""
TEMPERATURE = 0.5
"""Nats a token by which a reply has to be less likely under the policy than the likeliest right one to earn 1 / e."""


class TrainedHelper:
    """A helper whose replies a model that is loaded here samples; they carry its log-probabilities.

    The model reads the role's prompt, transcript and query as `LLMAgent` puts them, or, without a chat template, the query
    alone.

    Args:
        role: the name that the policy asks for.
        policy: the helper's model and tokenizer.
        max_tokens: of a reply.
        temperature: 0 is greedy.
        max_batch: replies that are decoded together.
    """

    def __init__(
        self, role: str, policy: Policy, *, max_tokens: int = 128, temperature: float = 1.0, max_batch: int = 256
    ) -> None:
        self.name, self.policy = role, policy
        self.backend = TransformersModel(
            policy.model, policy.tokenizer, eos_ids=policy.eos_ids, name=policy.name, max_batch=max_batch
        )
        self._sampling = CompletionSampling(temperature, max_tokens=max_tokens)
        self._prompted = LLMAgent(role, self.backend) if policy.tokenizer.chat_template else None

    @classmethod
    def load(cls, role: str, folder: str | Path, **options: Any) -> TrainedHelper:
        """A helper from the folder of a policy, such as `helpers/knowledge/policy` of a run."""
        return cls(role, load_policy(str(folder)), **options)

    def view(self, request: ConsultRequest) -> tuple[str, list[int]]:
        """What the model reads for a request, as text and ids."""
        text = request.query
        if self._prompted is not None:
            text = f"{role_prompt(self.name)}\n\n{self._prompted.messages(request)[-1].content}"
        return text, self.policy.codec.encode_prompt(text)

    async def sample(self, request: ConsultRequest) -> Generation:
        """The ids of a reply, with the end token where it was sampled."""
        sampling = dataclasses.replace(self._sampling, seed=request.seed, stop_ids=tuple(sorted(self.policy.eos_ids)))
        return await self.backend.complete(self.view(request)[1], sampling)

    def as_reply(self, generation: Generation) -> Reply:
        """What was sampled, as a reply; an empty one is an error."""
        ids, logprobs = generation.token_ids or (), generation.logprobs
        said = len(ids) - (bool(ids) and ids[-1] in self.policy.eos_ids)
        text = self.policy.codec.decode(ids[:said])
        if not text.strip():
            return Reply("", error="the model wrote nothing", declined=True)
        fingerprint = self.policy.codec.fingerprint
        return Reply(text, tuple(ids[:said]), None if logprobs is None else tuple(logprobs[:said]), fingerprint)

    async def respond(self, request: ConsultRequest) -> Reply:
        """A reply; its seed is the request's."""
        return self.as_reply(await self.sample(request))


@dataclasses.dataclass
class Branch:
    """A reply, and the episode that was played on behind it."""

    request: ConsultRequest
    generation: Generation
    reply: Reply
    episode: Episode
    leaks: bool
    """Whether the reply states the gold answer."""
    reward: float
    tokens: tuple[int, int] = (0, 0)
    """From which to which of the episode's AGENT tokens the reply stands, with the tags around it."""
    policy_logprob: float = math.nan
    """The mean of their log-probabilities under the policy."""
    solo: float = 0.0
    """What the policy earns alone on the task, on the mean."""
    growth: float = 0.0
    """How much the mean grows, for each unit of its length, in a step of the policy towards other right episodes."""


class HelperTrainer(Trainer):
    """Trains a helper, with the policy as it is.

    Args:
        config: of the run, in which the helper is the `policy`: `prompts_per_step` queries a step, one of each task, and
            `samples_per_prompt` replies to each. Its objective has no AGENT term.
        role: that is trained.
        team: the policy that asks and plays on; it stays as it is.
        reward: of a reply. "team": what the episode earns that is played on behind it. "marginal": that, less what the policy
            earns alone on the task; nothing where that is 0.9 or more. "learnable": as "team", less for replies that the policy
            is less likely to write itself. "lookahead": as "team", times how much an update on the reply makes other right
            episodes likelier. "verdict", for Verify: whether the verdict is that of the embedded helper.
        may_answer: pays for replies that state the gold answer, too.
        max_reply_tokens: of a reply.
        policy: overrides `config.policy` with a loaded one; it is trained in place.
        agents: the other helpers; those of the environment by default.

    Raises:
        ConfigurationError: for a helper of the policy's own weights, for several consults in a turn (fan_out), and for a
            lookahead without other queries, or in bfloat16.
        UnknownIdError: the environment has no such helper.
    """

    judged_by = "eval/assisted_pass1"

    def __init__(
        self,
        config: TrainConfig,
        role: str,
        team: Policy,
        *,
        reward: HelperReward = "team",
        may_answer: bool = False,
        max_reply_tokens: int = 128,
        policy: Policy | None = None,
        agents: Mapping[str, AgentLike] | None = None,
    ) -> None:
        policy = policy or load_policy(config.policy, config.device)
        if policy.model is team.model:
            raise ConfigurationError(
                f"the helper {role!r} needs weights of its own: with those of the policy, and its view, it is the policy alone."
            )
        self.role, self.team, self.reward, self.may_answer = role, team, reward, may_answer
        self.helper = _helper(role, policy, config, max_reply_tokens)
        # Making an environment reads its data: once is enough.
        others = dict(agents) if agents else other_helpers(config, role)
        super().__init__(config, policy=policy, agents=others | {role: self.helper}, codec=team.codec)
        if self.env.config.fan_out > 1:
            raise ConfigurationError("a helper is trained where a turn asks one helper: leave fan_out at 1.")
        if reward == "lookahead" and (config.prompts_per_step < 2 or team.model.dtype == torch.bfloat16):
            raise ConfigurationError(
                "the reward lookahead takes a small step of the policy towards the episodes of other queries: it needs float32 "
                f"(--dtype float32) and two queries a step; got {team.model.dtype} and {config.prompts_per_step}."
            )
        told = {"role": role, "team": team.name, "reward": reward}
        self.settings["helper"] = told | {"may_answer": may_answer, "max_reply_tokens": max_reply_tokens}
        self.sampler = LocalSampler(team, config.sampling)
        self._truth = VerifyAgent() if reward == "verdict" else None
        self._branches: list[list[Branch]] = []

    def collect(self) -> list[Trajectory]:
        """The replies of this step, each an episode of one turn."""
        with evaluating(self.team.model), evaluating(self.model):
            self._branches = [branches for branches in run_sync(self._branch_out()) if branches]
            if self.reward in ("learnable", "lookahead"):
                self._score_by_policy()
            if self.reward == "lookahead":
                self._look_ahead()
        self.helper.backend.forget()
        found = []
        for group, branches in enumerate(self._branches):
            self._pay(branches)
            found += [self._trajectory(branch, group, sample) for sample, branch in enumerate(branches)]
        return found

    # -- playing ----------------------------------------------------------------------------------------------------

    async def _branch_out(self) -> list[list[Branch]]:
        sampling = self.config.sampling
        turns = local_policy(self.team, sampling)
        player, tasks = Player(self.env.game, turns, max_tokens=sampling.max_tokens), self._tasks(0)
        for task in set(tasks):
            self.env.game.task(task)  # at hand, so that episodes start together
        try:
            return await ask_together([self._branch(player, slot, task) for slot, task in enumerate(tasks)])
        finally:
            turns.backend.forget()  # type: ignore[attr-defined]

    async def _branch(self, player: Player, slot: int, task: int) -> list[Branch]:
        """The branches of one task's first query; none where the policy does not ask."""
        seed, replies = self.sampling_seed(0), self.config.samples_per_prompt
        seeds = EpisodeSeeds(seed, task, 0, slot)
        episode = await player.start(task, seed=seeds.episode, assisted=True)
        error = await player.play(episode, seeds.turn, until=self.role)
        if error is not None or episode.turn_of != self.role:
            return []
        places = [EpisodeSeeds(seed, task, 1 + sample, slot) for sample in range(replies)]
        try:
            branches = await ask_together([self._play_on(player, episode, place) for place in places])
            if self._truth is None:
                solo = await ask_together([self._alone(player, seed, slot, task, k) for k in range(SOLO_ATTEMPTS)])
                self.num_rollouts += len(solo)
                branches = [dataclasses.replace(branch, solo=float(np.mean(solo))) for branch in branches]
            return branches
        except ServiceError as error:  # more to read than the helper's context takes
            log.warning("a query is left out: %s", error)
            return []

    async def _alone(self, player: Player, seed: int, slot: int, task: int, attempt: int) -> float:
        """What an episode earns without help; nothing if it comes to no end."""
        seeds = EpisodeSeeds(seed, task, 1 + self.config.samples_per_prompt + attempt, slot)
        episode = await player.start(task, seed=seeds.episode, assisted=False)
        return 0.0 if await player.play(episode, seeds.turn) is not None else episode.reward

    async def _play_on(self, player: Player, prefix: Episode, seeds: EpisodeSeeds) -> Branch:
        episode, game = prefix.fork(), self.env.game
        request = dataclasses.replace(episode.request, seed=seeds.episode)
        generation = await self.helper.sample(request)
        reply = self.helper.as_reply(generation)
        leaks = reply.error is None and await game.gives_away(reply.text, request.query, episode)
        if self._truth is not None:
            truth, said = (await self._truth.respond(request)).text, reply.text
            right = leading_verdict(said) is not None and leading_verdict(said) == leading_verdict(truth)
            return Branch(request, generation, reply, episode, leaks, float(right))
        episode.reply(await game.screened(request, reply, episode))
        counts = [_num_agent_tokens(one) for one in (prefix, episode)]
        if await player.play(episode, seeds.turn) is not None:
            episode.truncate("error")
        return Branch(request, generation, reply, episode, leaks, episode.reward, (counts[0], counts[1]))

    # -- rewards ----------------------------------------------------------------------------------------------------

    def _pay(self, branches: Sequence[Branch]) -> None:
        if self.reward == "lookahead":
            for branch in branches:
                branch.reward *= branch.growth if branch.reward > 0 else 1.0
        # Where a question costs something, nothing would be more than what a wrong reply earns.
        least = min(0.0, *(branch.reward for branch in branches))
        for branch in branches:
            if branch.reply.error is not None or (branch.leaks and not self.may_answer):
                branch.reward = least
        if self.reward == "marginal":
            for branch in branches:
                branch.reward = branch.reward - branch.solo if branch.solo < SOLVED_ALONE else 0.0
        paid = [b for b in branches if b.reward > 0 and not math.isnan(b.policy_logprob)]
        if self.reward == "learnable" and paid:
            most = max(branch.policy_logprob for branch in paid)
            for branch in paid:
                branch.reward *= math.exp((branch.policy_logprob - most) / TEMPERATURE)

    @torch.no_grad()
    def _score_by_policy(self, branches: Sequence[Branch] | None = None) -> None:
        """How likely the policy is to write each reply itself, where it stands; of all branches if none are given."""
        given = [b for part in self._branches for b in part] if branches is None else branches
        flat = [b for b in given if b.tokens[0] < b.tokens[1]]
        for part in self._scored_parts(flat):
            logprobs_T = self._team_logprobs(part)
            for index in set(part.sequence_ids_T.tolist()):
                chosen_T = (part.sequence_ids_T == index) & (part.sources_T == Source.AGENT)
                flat[index].policy_logprob = float(logprobs_T[chosen_T][slice(*flat[index].tokens)].mean())

    def _scored_parts(self, branches: Sequence[Branch]) -> list[batches.MicroBatch]:
        samples = [to_training_sample(b.episode.trajectory()) for b in branches]
        pad_id, config = self.team.tokenizer.pad_token_id or 0, self.config
        zeros_S = np.zeros(len(samples))
        return batches.micro_batches(samples, zeros_S, config.micro_batch_size, pad_id=pad_id, device=config.device)

    def _team_logprobs(self, part: batches.MicroBatch) -> torch.Tensor:
        masks = part.input_ids_BL, part.attention_mask_BL, part.selected_BL
        return token_logprobs(self.team.model, *masks, temperature=self.config.sampling.temperature).logprobs_T

    def _look_ahead(self) -> None:
        """By which rate each right reply becomes likelier in a step of the policy towards the right episodes of other tasks.

        <grad log pi(reply), d>, how far an update on the reply goes along d, as a difference of two passes (derived in
        docs/guides/train_helper.md from LOLA, arXiv 1709.04326). d is the gradient of the log-probability of those episodes,
        replies included, as if the policy had written all, at length 1. Tasks are taken in halves, so that none is measured
        by itself.
        """
        weights = [weight for weight in self.team.model.parameters() if weight.requires_grad]
        before = [weight.detach().clone() for weight in weights]
        for half in range(2):
            scored, others = ([b for part in self._branches[k::2] for b in part] for k in (half, 1 - half))
            gradients = self._towards([b for b in others if b.reward > 0], weights)
            length = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
            if length == 0:
                continue
            old = [branch.policy_logprob for branch in scored]
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight += LOOKAHEAD / length * gradient
                self._score_by_policy(scored)
                for weight, value in zip(weights, before, strict=True):
                    weight.copy_(value)
            for branch, logprob in zip(scored, old, strict=True):
                growth = (branch.policy_logprob - logprob) / LOOKAHEAD
                branch.policy_logprob, branch.growth = logprob, 0.0 if math.isnan(growth) else growth

    def _towards(self, branches: Sequence[Branch], weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The gradient of the log-probability of all that stands behind the prompts of these episodes."""
        total = [torch.zeros_like(weight) for weight in weights]
        with torch.enable_grad():
            for part in self._scored_parts(branches):
                logprobs_T = self._team_logprobs(part)
                for gradient, more in zip(
                    total, torch.autograd.grad(logprobs_T.sum(), weights, materialize_grads=True), strict=True
                ):
                    gradient += more
        return total

    def _trajectory(self, branch: Branch, group: int, sample: int) -> Trajectory:
        played, ids = branch.episode.trajectory(group=group, sample=sample), branch.generation.token_ids or ()
        text, view = self.helper.view(branch.request)
        wrote = self.policy.codec.decode(ids)
        return dataclasses.replace(
            played,
            env_id=f"{played.env_id}/{self.role}",
            segments=[
                Segment(Source.PROMPT, text, tuple(view)),
                Segment(Source.POLICY, wrote, ids, branch.generation.logprobs or ()),
            ],
            reward=branch.reward,
            reward_parts={self.reward: branch.reward},
            stop_reason="error" if played.stop_reason == "error" else "answer",
            assisted=False,
            num_consults=0,
        )

    def metrics_of(self, trajectories: Sequence[Trajectory]) -> Metrics:
        """What the replies earned, and what they are like."""
        flat = [branch for branches in self._branches for branch in branches]
        told = {"prefixes": float(len(self._branches))}
        if flat:
            rewards, groups = [t.reward for t in trajectories], [t.group for t in trajectories]
            informative = informative_groups(rewards, groups)
            sampled = [x for t in trajectories for x in t.segments[1].logprobs]
            told |= {
                "reward": float(np.mean(rewards)),
                "informative_groups": len(set(np.array(groups)[informative].tolist())) / len(self._branches),
                "reply_tokens": float(np.mean([len(b.generation.token_ids or ()) for b in flat])),
                "distinct_replies": float(np.mean([len({b.reply.text for b in part}) for part in self._branches])),
                "leak_rate": float(np.mean([b.leaks for b in flat])),
                "entropy": -float(np.mean(sampled)),
            }
            if self._truth is None:
                told["solo"] = float(np.mean([b.solo for b in flat]))
                told["marginal"] = float(np.mean([b.episode.reward - b.solo for b in flat]))
                told["team_accuracy"] = float(np.mean([t.verdict == "correct" for t in trajectories]))
            if scored := [b.policy_logprob for b in flat if not math.isnan(b.policy_logprob)]:
                told["policy_logprob"] = float(np.mean(scored))
        return {f"helper/{self.role}/{name}": value for name, value in told.items()}


class MultiAgentTrainer:
    """Trains a helper for a policy as it is, or helper and policy in turns; resumes what lies in the folders of their runs.

    The helper's run lies in helpers/NAME of the policy's. Each phase ends with a checkpoint, so that what is played with is
    what it was, wherever a run was cut.

    Args:
        config: of the policy's run, and of the helper's in what `helper` does not say.
        helper: of the helper's.
        agents: the other helpers; those of the configuration by default.
    """

    def __init__(
        self, config: TrainConfig, helper: HelperConfig, *, agents: Mapping[str, AgentLike] | None = None
    ) -> None:
        role, objective = helper.train_helper, config.objective
        if role is None:
            raise ConfigurationError("train_helper names the helper that is trained, and is None.")
        own = dataclasses.replace(
            config,
            policy=helper.helper_policy,
            out=config.out / "helpers" / role,
            # Not the tasks that the policy meets in the same step.
            seed=config.seed + 10_000,
            steps=config.steps if helper.helper_steps is None else helper.helper_steps,
            prompts_per_step=helper.helper_queries,
            samples_per_prompt=helper.helper_replies,
            updates_per_batch=1,
            solo_share=1.0,
            final_solo_share=None,
            objective=ObjectiveConfig(
                algorithm=objective.algorithm,
                constant_length=objective.constant_length,
                kl_coef=objective.kl_coef,
                agent_loss="mask",
                policy_baseline="group",
            ),
            reply_credit="trajectory",
            branch_continuations=1,
            dynamic_sampling=0,
            overlong_buffer=0,
            curriculum="uniform",
            max_solo_rate=0.2,
            rates=None,
            sampler="local",
            engine_args={},
        )
        others = other_helpers(config, role, agents)
        model, self._every = load_policy(helper.helper_policy, config.device), helper.every
        self._asked = _helper(role, model, config, helper.helper_max_tokens)
        self.trainer = None if self._every is None else Trainer(config, agents=others | {role: self._asked})
        team = load_policy(config.policy, config.device) if self.trainer is None else self.trainer.policy
        self.helper = HelperTrainer(
            own,
            role,
            team,
            reward=helper.helper_reward,
            max_reply_tokens=helper.helper_max_tokens,
            policy=model,
            agents=others,
        )
        if self.trainer is not None:
            self.trainer.settings["helper"] = dataclasses.asdict(helper)
        self._last: Trainer = self.trainer or self.helper
        self.config, self.policy, self.judged_by = self._last.config, self._last.policy, self._last.judged_by

    @property
    def step(self) -> int:
        """Of the policy, or of the helper where the policy stays as it is."""
        return self._last.step

    @property
    def finished(self) -> bool:
        """Whether all came to their ends."""
        return self.helper.finished and self._last.finished

    def train(
        self,
        on_step: Callable[[Metrics], None] | None = None,
        trackers: Sequence[str] = ("tensorboard",),
        *,
        stop: Callable[[], bool] = lambda: False,
        **told: Any,
    ) -> list[Metrics]:
        """As `Trainer.train`; `on_step` is told of the policy's steps, or of the helper's where the policy stays as it is."""
        if self.trainer is None or self._every is None:
            return self.helper.train(on_step, trackers, stop=stop, **told)
        for one in (self.helper, self.trainer):
            # Each plays with the other as it was, from the first episode on.
            if checkpoints := list_checkpoints(one.config.out / CHECKPOINTS):
                one.load_state(load_checkpoint(checkpoints[-1]))
        history: list[Metrics] = []
        for end in range(
            self._every, max(self.helper.config.steps, self.trainer.config.steps) + self._every, self._every
        ):
            for one, tell in ((self.helper, None), (self.trainer, on_step)):
                # What it has computed with the weights of the phase before.
                self._asked.backend.forget()
                history = one.train(tell, trackers, stop=stop, until=end, **told)
                if stop():
                    return history
        return history

    def close(self) -> None:
        """Ends what the samplers started."""
        for one in (self.helper, self._last):
            one.close()


def other_helpers(
    config: TrainConfig, role: str, agents: Mapping[str, AgentLike] | None = None
) -> dict[str, AgentLike]:
    """The helpers beside the one that is trained: those that are given, or configured, or the environment's own.

    Raises:
        UnknownIdError: the trained one is none of the environment's.
    """
    options: dict[str, Any] = dict(config.env_options)
    given = agents or parse_agents(config.agents)
    helpers: dict[str, AgentLike] = dict(aipo_env.make(config.env, agents=given, **options).agents)
    if role not in helpers:
        raise unknown_id("helper", role, helpers)
    return helpers


def _helper(role: str, policy: Policy, config: TrainConfig, max_tokens: int) -> TrainedHelper:
    sampling = config.sampling
    return TrainedHelper(
        role, policy, max_tokens=max_tokens, temperature=sampling.temperature, max_batch=sampling.batch_size
    )


def _num_agent_tokens(episode: Episode) -> int:
    return sum(len(segment.token_ids) for segment in episode.segments if segment.source is Source.AGENT)
