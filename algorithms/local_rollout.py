"""`aipo rollout` with a policy that is loaded here; the same command goes on where it was cut."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

import aipo_env
from aipo_env import ConsultEnv, Source, Trajectory
from aipo_env.run_record import RunRecord
from aipo_env.trace_files import TraceFiles
from algorithms.batch import micro_batches
from algorithms.logprobs import token_logprobs
from algorithms.policies import Policy
from algorithms.progress import count_progress
from algorithms.rollout import Roller, RolloutRequest
from algorithms.train_config import SamplingConfig


def roll_out(
    env: ConsultEnv,
    policy: Policy,
    sampling: SamplingConfig,
    *,
    num_tasks: int,
    samples: int,
    solo: bool,
    traces: Path,
    seed: int,
    shown: bool = True,
) -> int:
    """Plays the episodes that the file of traces does not hold yet; returns how many it held.

    Episodes are sampled in batches of fixed size. A batch that was cut is sampled again as a whole, so that what it adds is
    what it would have added at once, to the bit.

    Args:
        env: made with the policy's tokenizer; closed at the end.
        policy: model and tokenizer.
        sampling: temperature, limits, batch size.
        num_tasks: the first tasks of the family.
        samples: episodes of each task.
        solo: no helper answers.
        traces: the file; episodes are appended as they finish.
        seed: decides the sampling and the helpers.
        shown: shows a bar.

    Raises:
        ConfigurationError: when the file holds the episodes of another run.
    """
    total = env.tasks.num_tasks
    assisted = env.config.assisted and not solo
    requests = [
        RolloutRequest(index, assisted=assisted, seed=seed, group=index, sample=sample)
        for index in range(num_tasks if total is None else min(num_tasks, total))
        for sample in range(samples)
    ]
    facts = {"policy": policy.name, "temperature": sampling.temperature}

    def check(trajectory: Trajectory) -> str | None:
        if trajectory.assisted != assisted:
            return "it is assisted" if trajectory.assisted else "it is solo"
        recorded = {name: trajectory.metadata.get(name) for name in facts}
        return None if recorded == facts else f"it was sampled with {recorded}"

    record = RunRecord.of(
        env, policy=policy.name, seed=seed, max_tokens=sampling.max_tokens, tokenizer_name=policy.name
    )
    with contextlib.closing(env), contextlib.closing(TraceFiles(traces, record, check)) as files:
        missing = [not files.finished.get(r.task_index, 0) >> r.sample & 1 for r in requests]
        with count_progress("episodes", sum(missing), shown=shown) as advance:
            for position, trajectory in _sample(Roller(policy, env, sampling), requests, missing, seed):
                trajectory.metadata |= facts
                if missing[position]:
                    files.write(trajectory)
                    advance()
    return len(requests) - sum(missing)


def _sample(
    roller: Roller, requests: list[RolloutRequest], missing: list[bool], seed: int
) -> Iterator[tuple[int, Trajectory]]:
    """The episodes of the batches of which some are missing, with their positions."""
    size = roller.sampling.batch_size
    for start in range(0, len(requests), size):
        if any(missing[start : start + size]):
            for position, trajectory in roller.iterate(requests[start : start + size], seed):
                yield start + position, trajectory


def largest_difference(policy: Policy, traces: Path, temperature: float) -> float:
    """The largest difference between recorded log-probabilities of sampled tokens and those recomputed from the ids."""
    largest = 0.0
    trajectories = list(aipo_env.read_traces(traces))
    for part in micro_batches(trajectories, torch.zeros(len(trajectories)), 8, pad_id=0):
        with torch.no_grad():
            again_T = token_logprobs(
                policy.model,
                part.input_ids_BL,
                part.attention_mask_BL,
                part.selected_BL,
                temperature=temperature or 1.0,
            ).logprobs_T
        own_T = part.sources_T == Source.POLICY
        if bool(own_T.any()):
            largest = max(largest, float((again_T - part.behaviour_logprobs_T)[own_T].abs().max()))
    return largest
