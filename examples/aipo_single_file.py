r"""The method in one file: a policy that may ask for help while it explores learns to do without.

    python examples/aipo_single_file.py                    # the embedded policy, on a CPU, in minutes
    python examples/aipo_single_file.py --agent-weight 0   # replies bear no loss: it learns to ask, and nothing alone

1. Of each problem `samples` rollouts are made, the first quarter alone, the others with helpers that answer if they are asked.
2. What the policy wrote itself is compared with the rollouts of the same problem and the same mode, and what helped to a right
   answer counts once more. What a helper wrote is compared with nothing: it is learnt where the rollout came right.
3. The policy's own tokens get the usual clipped surrogate. A helper's tokens were not sampled by the policy, so they get a
   coefficient of their own: pi / mu, floored at 1 where the advantage is positive (or a rare token would never be learnt),
   capped, and inside a trust region in probability. docs/objective.md derives it.

What it leaves out of the library (`aipo train`, `algorithms/`): continuous batching, servers and vLLM, helpers that take time
(here everybody waits for them), checkpoints and resuming, traces, other algorithms (GRPO, DAPO, GSPO, ...) and ablations, KL,
heads of large vocabularies, and most checks of input. Its gradients are the library's: tests/test_single_file.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

import aipo_env
from aipo_env import ConsultEnv, Source, TokenAction, Trajectory
from algorithms.policies import Policy, load_policy


@dataclasses.dataclass
class Config:
    """One run; every field is a flag (`--learning-rate 1e-4`)."""

    policy: str = "embedded"  # or a folder or hub id of transformers, with --learning-rate 1e-6 or so
    operators: str = (
        "@"  # what there is to learn: rulebook's "@", "#", "~" and "&" are known to the Knowledge helper alone
    )
    seed: int = 0
    steps: int = 60
    problems: int = 32  # in a step
    samples: int = 8  # rollouts of each problem; the first quarter of them alone
    max_tokens: int = 48  # behind the prompt, replies included
    temperature: float = 1.0
    learning_rate: float = 3e-4
    warmup_steps: int = 10  # in which the learning rate rises; then it falls linearly to 0.3 of its peak
    updates: int = 2  # optimizer steps on one batch
    clip_low: float = 0.2  # PPO's clip of pi / pi_old on POLICY tokens
    clip_high: float = 0.28
    self_imitation: float = 1.0  # what a right assisted rollout counts for the policy's own tokens beside its advantage
    agent_weight: float = 1.0  # lambda
    c_min: float = 1.0  # floor of pi / mu where A > 0
    c_max: float = 2.0  # its cap
    delta: float = (
        0.2  # how far the probability of a helper's token may move in a batch, in the direction of its advantage
    )
    max_grad_norm: float = 1.0
    eval_every: int = 20
    eval_problems: int = 100


# -- rollouts: Gymnasium environments, stepped with the sampler's own tokens ----------------------------------------------


def make_envs(policy: Policy, config: Config, split: str) -> tuple[list[ConsultEnv], list[ConsultEnv]]:
    """One environment per rollout of a batch: those without helpers, and those with them; tasks and prompts are the same."""
    options: dict[str, Any] = {
        "level": 2,
        "operators": config.operators,
        "style": "terse",
        "prompt": "bare",
        "codec": policy.codec,
    }
    solo, assisted = (aipo_env.make(env_id, split=split, **options) for env_id in ("rulebook", "rulebook-consult"))
    alone = config.problems * (config.samples // 4)
    # What was made once (tasks, helpers, rules) serves any number of episodes at the same time.
    helped = config.problems * config.samples - alone
    return [ConsultEnv(solo.game) for _ in range(alone)], [ConsultEnv(assisted.game) for _ in range(helped)]


def roll_out(
    policy: Policy, envs: Sequence[ConsultEnv], tasks: Sequence[int], config: Config, rng: torch.Generator
) -> list[Trajectory]:
    """Plays one episode in each environment, all of them turn by turn."""
    for env, task in zip(envs, tasks, strict=True):
        seed = int(torch.randint(2**31, (1,), generator=rng))  # the helpers'
        env.reset(seed=seed, options={"task_index": task})
    running = list(envs)
    while running:
        for env, turn in zip(running, sample_turns(policy, running, config, rng), strict=True):
            env.step(turn)  # where it asks, the helper's reply is in the environment's record now
        running = [env for env in running if not env.episode.done]
    return [env.trajectory for env in envs]


@torch.no_grad()
def sample_turns(policy: Policy, envs: Sequence[ConsultEnv], config: Config, rng: torch.Generator) -> list[TokenAction]:
    """One turn for each environment: up to the end token, the end of a consult where helpers answer, or the token limit."""
    contexts = [[i for segment in env.trajectory.segments for i in segment.token_ids] for env in envs]
    prompts = [len(env.trajectory.segments[0].token_ids) for env in envs]
    rooms = [config.max_tokens + prompt - len(context) for prompt, context in zip(prompts, contexts, strict=True)]
    width = max(map(len, contexts))
    mask_BL = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in contexts])
    ids_BL = torch.tensor([[0] * (width - len(c)) + c for c in contexts])
    turns: list[list[int]] = [[] for _ in envs]
    logprobs: list[list[float]] = [[] for _ in envs]
    finish: list[str] = ["length" if room <= 0 else "" for room in rooms]
    cache = None
    while "" in finish:
        positions_BL = (mask_BL.cumsum(1) - 1).clamp(min=0)[:, -ids_BL.shape[1] :]
        out = policy.model(
            ids_BL, attention_mask=mask_BL, position_ids=positions_BL, past_key_values=cache, use_cache=True
        )
        cache = out.past_key_values
        logprobs_BV = (out.logits[:, -1] / config.temperature).log_softmax(-1)
        ids_BL = torch.multinomial(logprobs_BV.exp(), 1, generator=rng)
        mask_BL = pad(mask_BL, (0, 1), value=1)
        chosen_B = logprobs_BV.gather(1, ids_BL).squeeze(1).tolist()
        for row, (token, logprob) in enumerate(zip(ids_BL.squeeze(1).tolist(), chosen_B, strict=True)):
            if finish[row]:
                continue  # it waits for the others
            turns[row].append(token)
            logprobs[row].append(logprob)
            asks = envs[row].config.assisted and ">" in policy.codec.decode([token])
            if token in policy.eos_ids or (asks and "</consult>" in policy.codec.decode(turns[row])):
                finish[row] = "stop"
            elif len(turns[row]) == rooms[row]:
                finish[row] = "length"
    actions = zip(turns, logprobs, finish, strict=True)
    return [TokenAction(ids, logprobs=values, finish_reason=reason) for ids, values, reason in actions]  # type: ignore[arg-type]


# -- the objective ---------------------------------------------------------------------------------------------------------


def advantages(rewards_S: Tensor, groups_S: Tensor, solo_S: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Of each rollout's POLICY tokens, and of its AGENT tokens: see 2. above.

    Args:
        rewards_S: one each.
        groups_S: the number of its problem.
        solo_S: whether nobody answered.
        config: of the run.
    """
    own_S, reply_S = torch.zeros_like(rewards_S), rewards_S.clamp(min=0)
    for group in set(groups_S.tolist()):
        for mode in (True, False):
            peers_S = (groups_S == group) & (solo_S == mode)
            own_S[peers_S] = rewards_S[peers_S] - rewards_S[peers_S].mean()
    return own_S + config.self_imitation * reply_S * ~solo_S, reply_S


@dataclasses.dataclass
class Batch:
    """Rollouts as rectangles: B sequences of L tokens; what is no action or reply has the source PROMPT or TEMPLATE."""

    ids_BL: Tensor
    mask_BL: Tensor
    sources_BL: Tensor
    mu_BL: Tensor
    """log mu of AGENT tokens: the helper's own log-probability, 0 where it is unknown."""
    advantages_BL: Tensor


def make_batch(trajectories: Sequence[Trajectory], own_S: Tensor, reply_S: Tensor) -> Batch:
    """Pads on the right; padding counts as TEMPLATE, which bears no loss."""
    length = max(sum(len(segment.token_ids) for segment in t.segments) for t in trajectories)

    def rectangle(values: list[list[float]], filler: float) -> Tensor:
        return torch.tensor([row + [filler] * (length - len(row)) for row in values])

    def each(value: object) -> list[list[float]]:
        return [[x for s in t.segments for x in value(s)] for t in trajectories]  # type: ignore[operator]

    sources_BL = rectangle(each(lambda s: [int(s.source)] * len(s.token_ids)), int(Source.TEMPLATE)).long()
    advantages_BL = torch.where(sources_BL == Source.AGENT, reply_S[:, None], own_S[:, None])
    return Batch(
        ids_BL=rectangle(each(lambda s: list(s.token_ids)), 0).long(),
        mask_BL=rectangle(each(lambda s: [1] * len(s.token_ids)), 0).long(),
        sources_BL=sources_BL,
        mu_BL=rectangle(each(lambda s: list(s.logprobs) or [0.0] * len(s.token_ids)), 0.0),
        advantages_BL=advantages_BL,
    )


def token_logprobs(policy: Policy, batch: Batch, config: Config) -> Tensor:
    """Log pi of each token but the first of a sequence, whose place holds 0, as the sampler's temperature makes it."""
    logits_BLV = policy.model(batch.ids_BL[:, :-1], attention_mask=batch.mask_BL[:, :-1]).logits / config.temperature
    return pad(logits_BLV.log_softmax(-1).gather(2, batch.ids_BL[:, 1:, None]).squeeze(2), (1, 0))


def compute_loss(logprobs_BL: Tensor, old_BL: Tensor, batch: Batch, config: Config) -> Tensor:
    """-J; the sum of both terms, divided by the number of POLICY tokens."""
    policy_BL, agent_BL = batch.sources_BL == Source.POLICY, batch.sources_BL == Source.AGENT
    # POLICY tokens: PPO's clipped surrogate, with DAPO's wider upper bound.
    advantages_P, log_ratio_P = batch.advantages_BL[policy_BL], (logprobs_BL - old_BL)[policy_BL]
    ratio_P = log_ratio_P.exp()
    clipped_P = ratio_P.clamp(1 - config.clip_low, 1 + config.clip_high)
    policy_term = torch.minimum(ratio_P * advantages_P, clipped_P * advantages_P).sum()
    # AGENT tokens: M * sg(w) * A * log pi.
    advantages_A, logprobs_A, old_A = batch.advantages_BL[agent_BL], logprobs_BL[agent_BL], old_BL[agent_BL]
    probability_A = logprobs_A.detach().exp()
    floor_A = config.c_min * (advantages_A > 0)
    w_A = (logprobs_A.detach() - batch.mu_BL[agent_BL]).exp().maximum(floor_A).clamp(max=config.c_max)
    moved_A = probability_A - old_A.exp()
    trusted_A = ~((advantages_A * moved_A > 0) & (moved_A.abs() > config.delta))
    agent_term = (trusted_A * w_A * advantages_A * logprobs_A).sum()
    return -(policy_term + config.agent_weight * agent_term) / policy_BL.sum()


def update(policy: Policy, optimizer: torch.optim.Optimizer, batch: Batch, config: Config) -> None:
    """The optimizer steps on one batch."""
    old_BL: Tensor | None = None
    for _ in range(config.updates):
        logprobs_BL = token_logprobs(policy, batch, config)
        old_BL = logprobs_BL.detach() if old_BL is None else old_BL
        optimizer.zero_grad()
        compute_loss(logprobs_BL, old_BL, batch, config).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), config.max_grad_norm)
        optimizer.step()


# -- the run ---------------------------------------------------------------------------------------------------------------


def accuracy(trajectories: Sequence[Trajectory]) -> float:
    """The share of right answers."""
    return sum(t.verdict == "correct" for t in trajectories) / max(1, len(trajectories))


def evaluate(policy: Policy, envs: Sequence[ConsultEnv], config: Config) -> float:
    """Accuracy on the first problems of the test split, one sample each, with the same draws every time."""
    rng = torch.Generator().manual_seed(config.seed)
    found: list[Trajectory] = []
    for start in range(0, config.eval_problems, len(envs)):
        tasks = range(start, min(start + len(envs), config.eval_problems))
        found += roll_out(policy, envs[: len(tasks)], tasks, config, rng)
    return accuracy(found)


def train(config: Config) -> float:
    """Trains, and prints as it goes; returns the accuracy alone at the end."""
    if config.samples < 8:
        raise SystemExit(f"--samples must be at least 8, two of a kind to compare; got {config.samples}.")
    policy = load_policy(config.policy)
    if policy.tiny:
        torch.set_num_threads(1)  # more cost more than they bring
    optimizer = torch.optim.AdamW(
        policy.model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    warmup, steps = max(1, config.warmup_steps), max(1, config.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * (1 - 0.7 * step / steps)
    )
    solo, assisted = make_envs(policy, config, "train")
    tests = make_envs(policy, config, "test")
    envs = solo + assisted
    solo_S = torch.tensor([True] * len(solo) + [False] * len(assisted))
    problem_S = torch.arange(config.problems).repeat(config.samples)
    np_rng, rng = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
    began, alone = time.perf_counter(), 0.0
    for step in range(config.steps + 1):
        if step % config.eval_every == 0 or step == config.steps:
            alone, helped = (evaluate(policy, part, config) for part in tests)
            seconds = time.perf_counter() - began
            print(f"step {step:4d}   test: alone {alone:.3f}, with help {helped:.3f}   {seconds:4.0f} s", flush=True)
        if step == config.steps:
            break
        indices = [envs[0].tasks.sample_index(np_rng) for _ in range(config.problems)]
        trajectories = roll_out(policy, envs, [indices[i] for i in problem_S.tolist()], config, rng)
        rewards_S = torch.tensor([t.reward for t in trajectories])
        batch = make_batch(trajectories, *advantages(rewards_S, problem_S, solo_S, config))
        update(policy, optimizer, batch, config)
        schedule.step()
    return alone


def parse(arguments: Sequence[str] | None = None) -> Config:
    """The command line's run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    for field in dataclasses.fields(Config):
        parser.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=field.default)
    return Config(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    train(parse())
