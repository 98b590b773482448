"""The `aipo` subcommands of the learner. Importing this module needs no torch, so that `aipo --help` is quick."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from algorithms.train_config import SamplingConfig, TrainConfig

if TYPE_CHECKING:
    from aipo_env import Trajectory
    from algorithms.policies import Policy


def train(config: Annotated[TrainConfig, tyro.conf.arg(name="")]) -> int:
    """Train a policy on this machine; resumes what lies in --out."""
    from algorithms.progress import quiet_libraries, step_progress
    from algorithms.trainer import Trainer

    quiet_libraries()
    trainer = Trainer(config)
    with step_progress("training", config.steps) as advance:
        history = trainer.train(advance)
    if history:
        shown = {name: value for name, value in history[-1].items() if name.startswith("eval/")}
        print("  ".join(f"{name.removeprefix('eval/')} {value:.3f}" for name, value in shown.items()))
    print(f"metrics, traces, checkpoints and the trained policy are in {config.out}")
    return 0


def rollout(
    env: str = "rulebook-consult",
    policy: str = "embedded",
    num_tasks: int = 8,
    samples: int = 2,
    solo: bool = False,
    out: Path = Path("runs/rollout"),
    seed: int = 0,
    max_tokens: int = 512,
    temperature: float = 0.6,
    batch_size: int = 16,
    agents: tuple[str, ...] = (),
    env_options: dict[str, int | float | str] | None = None,
    check: bool = False,
) -> int:
    """Roll out a policy on an environment and write token-exact traces.

    Args:
        env: environment id; `aipo envs` lists them.
        policy: "embedded", "smollm2", or a directory or hub id that transformers loads.
        num_tasks: the first tasks of the family.
        samples: episodes of each task.
        solo: no helper answers.
        out: folder; traces are appended to traces.jsonl there as episodes finish.
        seed: decides the sampling and the helpers.
        max_tokens: tokens behind the prompt.
        temperature: of the sampling; 0 is greedy. (Training samples at 1.)
        batch_size: episodes that run at the same time.
        agents: helpers, each "name" or "name=package.module:Class".
        env_options: options of the environment, as `--env-options level 3 style terse`.
        check: recompute the log-probability of each sampled token from the trace's ids, and compare.
    """
    import aipo_env
    from aipo_env.registry import parse_agents
    from algorithms.policies import load_policy
    from algorithms.progress import count_progress, quiet_libraries
    from algorithms.rollout import Roller, RolloutRequest

    quiet_libraries()
    loaded = load_policy(policy)
    options: dict[str, Any] = dict(env_options or {})
    if policy == "embedded":
        # It reads bare problems and nothing else.
        options = {"prompt": "bare", "style": "terse"} | options
    made = aipo_env.make(env, codec=loaded.codec, agents=parse_agents(agents), **options)
    roller = Roller(loaded, made, SamplingConfig(temperature=temperature, max_tokens=max_tokens, batch_size=batch_size))
    total = made.tasks.num_tasks
    tasks = range(num_tasks if total is None else min(num_tasks, total))
    requests = [
        RolloutRequest(index, assisted=made.config.assisted and not solo, seed=seed, group=index, sample=sample)
        for index in tasks
        for sample in range(samples)
    ]
    finished: list[Trajectory] = []
    with (
        aipo_env.TraceWriter(out / "traces.jsonl") as writer,
        count_progress("episodes", len(requests)) as advance,
    ):
        for _, trajectory in roller.iterate(requests, seed):
            trajectory.metadata |= {"policy": policy, "temperature": temperature}
            writer.write(trajectory)
            finished.append(trajectory)
            advance()
    correct = sum(t.verdict == "correct" for t in finished)
    consults = sum(t.num_consults for t in finished)
    cut = sum(t.stop_reason in ("length", "max_turns", "max_chars") for t in finished)
    print(
        f"{env}, {'solo' if solo or not made.config.assisted else 'assisted'}: {correct} of {len(finished)} correct "
        f"({correct / len(finished):.3f}); {consults / len(finished):.2f} consults an episode; {cut} cut by a budget"
    )
    if check:
        print(
            f"largest difference to the recomputed log-probabilities: {_largest_difference(loaded, finished, temperature):.2g}"
        )
    print(f"traces are in {out / 'traces.jsonl'}")
    return 0


def warmup(out: Path = Path("runs/embedded"), steps: int = 2000, seed: int = 0) -> int:
    """Train the embedded policy's start weights again (supervised; minutes).

    Args:
        out: folder for the model and its tokenizer.
        steps: optimizer steps.
        seed: decides initialisation and data.
    """
    from algorithms.progress import quiet_libraries, step_progress
    from algorithms.warmup import WarmupConfig, warm_up

    quiet_libraries()
    with step_progress("warm-up", steps) as advance:
        warm_up(
            WarmupConfig(steps=steps, seed=seed),
            out,
            lambda step, loss: advance({"step": step, "loss": loss}),
        )
    print(f"the policy is in {out}; use it with --policy {out}")
    return 0


def demo(
    out: Path = Path("runs/demo"),
    seed: int = 0,
    full: bool = False,
    steps: int | None = None,
    processes: int = min(2, os.cpu_count() or 1),
) -> int:
    """Train the embedded policy on rulebook-consult with AIPO, beside GRPO and masked helper tokens.

    Args:
        out: folder for summary.json, the learning curves, transcripts and the runs.
        seed: decides tasks, sampling and helpers; the start policy is always the same.
        full: adds the variants clone and luffy.
        steps: optimizer steps of each method; the default is what takes minutes on two cores.
        processes: methods that are trained at the same time, one thread each.
    """
    from algorithms.demo import run_demo

    run_demo(out, seed=seed, full=full, steps=steps, processes=processes)
    return 0


def _largest_difference(policy: Policy, trajectories: list[Trajectory], temperature: float) -> float:
    import torch

    from aipo_env import Source
    from algorithms.batch import micro_batches
    from algorithms.logprobs import token_logprobs

    largest = 0.0
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
