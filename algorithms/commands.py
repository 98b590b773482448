"""The `aipo` subcommands of the learner. Importing this module needs no torch, so that `aipo --help` is quick."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from algorithms.cluster.plan import RunShape
from algorithms.train_config import SamplingConfig, TrainConfig

if TYPE_CHECKING:
    from aipo_env import Trajectory
    from algorithms.policies import Policy


def train(
    config: Annotated[TrainConfig, tyro.conf.arg(name="")], backend: Literal["local", "openrlhf"] = "local"
) -> int:
    """Train a policy on this machine; resumes what lies in --out.

    Args:
        config: of the run.
        backend: "openrlhf" trains on a cluster; all other flags are then those of algorithms/aipo_openrlhf.py.
    """
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


def _train_on_cluster(arguments: Sequence[str]) -> int | None:
    """Hands `aipo train --backend openrlhf ...` to the cluster learner, whose flags OpenRLHF reads; None for other backends."""
    rest = list(arguments)
    for number, argument in enumerate(rest):
        if argument in ("--backend=openrlhf", "--backend") and "openrlhf" in (
            argument[10:],
            *rest[number + 1 : number + 2],
        ):
            del rest[number : number + 1 + (argument == "--backend")]
            from algorithms.cluster.launch import main

            main(rest)
            return 0
    return None


train.pass_on = _train_on_cluster  # type: ignore[attr-defined]


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
    batch_size: int | None = None,
    agents: tuple[str, ...] = (),
    env_options: dict[str, int | float | str] | None = None,
    check: bool = False,
    server: str | None = None,
    model: str | None = None,
    max_in_flight: int | None = None,
    timeout: float | None = None,
    helper_server: str | None = None,
    helper_model: str | None = None,
) -> int:
    """Roll out a policy on an environment and write token-exact traces.

    With --server the model behind it plays the policy, many episodes at the same time, and --policy names its tokenizer alone;
    the same command goes on where it was cut.

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
        batch_size: episodes that run at the same time (16); not with --server.
        agents: helpers, each "name" or "name=package.module:Class".
        env_options: options of the environment, as `--env-options level 3 style terse`.
        check: recompute the log-probability of each sampled token from the trace's ids, and compare; not with --server.
        server: address of an OpenAI-compatible server that returns token ids (vLLM), such as http://localhost:8000/v1.
        model: the name under which the server serves the policy.
        max_in_flight: with --server, episodes that run at the same time (256).
        timeout: with --server, seconds for an episode.
        helper_server: address of a server whose model plays those helpers that are given by name alone.
        helper_model: the name under which it serves that model.
    """
    import aipo_env
    from aipo_env.run_record import RunRecord
    from algorithms import server_rollout
    from algorithms.policies import load_policy
    from algorithms.progress import count_progress, quiet_libraries
    from algorithms.rollout import Roller, RolloutRequest

    server_rollout.check_options(
        server=server, model=model, helper_server=helper_server, helper_model=helper_model, check=check,
        batch_size=batch_size, max_in_flight=max_in_flight, timeout=timeout,
    )  # fmt: skip
    quiet_libraries()
    options: dict[str, Any] = dict(env_options or {})
    if policy == "embedded":
        # It reads bare problems and nothing else.
        options = {"prompt": "bare", "style": "terse"} | options
    options["agents"] = server_rollout.make_agents(agents, helper_server, helper_model)
    if server is not None and model is not None:
        made = aipo_env.make(env, codec=server_rollout.load_codec(policy), **options)
        return server_rollout.roll_out(
            made, policy, server, model, num_tasks=num_tasks, samples=samples, solo=solo, out=out, seed=seed,
            max_tokens=max_tokens, temperature=temperature, max_in_flight=max_in_flight or 256, timeout=timeout,
        )  # fmt: skip
    loaded = load_policy(policy)
    made = aipo_env.make(env, codec=loaded.codec, **options)
    sampling = SamplingConfig(temperature=temperature, max_tokens=max_tokens, batch_size=batch_size or 16)
    roller = Roller(loaded, made, sampling)
    total = made.tasks.num_tasks
    tasks = range(num_tasks if total is None else min(num_tasks, total))
    requests = [
        RolloutRequest(index, assisted=made.config.assisted and not solo, seed=seed, group=index, sample=sample)
        for index in tasks
        for sample in range(samples)
    ]
    finished: list[Trajectory] = []
    record = RunRecord.of(made, policy=policy, seed=seed, max_tokens=max_tokens, tokenizer_name=policy)
    server_rollout.claim(out / "traces.jsonl", record)
    with (
        aipo_env.TraceWriter(out / "traces.jsonl") as writer,
        count_progress("episodes", len(requests)) as advance,
    ):
        for _, trajectory in roller.iterate(requests, seed):
            trajectory.metadata |= {"policy": policy, "temperature": temperature}
            writer.write(trajectory)
            finished.append(trajectory)
            advance()
    made.close()
    print(server_rollout.summary(finished))
    if check:
        print(
            f"largest difference to the recomputed log-probabilities: {_largest_difference(loaded, finished, temperature):.2g}"
        )
    print(f"traces are in {out / 'traces.jsonl'}")
    return 0


def replay(
    traces: tyro.conf.Positional[Path],
    env: str | None = None,
    env_options: dict[str, int | float | str] | None = None,
    agents: tuple[str, ...] = (),
    policy: str | None = None,
    show: int = 20,
) -> int:
    """Play recorded episodes again without any model, and tell what comes out differently.

    Exits with 1 if anything did, with 2 if the traces cannot be read or their environment is not known.

    Args:
        traces: a .jsonl file of traces. What lies beside it tells how its environment was made (traces.run.json, or the
            config.json of a training run).
        env: environment id, where nothing tells.
        env_options: its options, as `--env-options level 3 style terse`.
        agents: its helpers, each "name" or "name=package.module:Class"; nobody asks them, but the prompt describes them.
        policy: names the tokenizer of token-exact traces, as for `aipo rollout`.
        show: differences that are shown at most.
    """
    import aipo_env
    from algorithms.progress import quiet_libraries
    from algorithms.replay_game import game_of

    quiet_libraries()
    result = aipo_env.replay(traces, game_of(traces, env, env_options, agents, policy))
    if result.faithful:
        print(f"{traces}: {result.num_trajectories} episodes, all as recorded")
        return 0
    lines = {mismatch.line for mismatch in result.mismatches}
    print(f"{traces}: {result.num_trajectories} episodes, {len(lines)} of them not as recorded")
    for mismatch in result.mismatches[:show]:
        print(mismatch)
    if len(result.mismatches) > show:
        print(f"... and {len(result.mismatches) - show} differences more (--show {len(result.mismatches)})")
    return 1


def plan(run: Annotated[RunShape, tyro.conf.arg(name="")]) -> int:
    """Size a training run on a cluster: memory of each GPU and time of a step, from shapes alone.

    Exits with 1 if the run would not fit, or would wait for something; says for what, and what to change.
    """
    from algorithms.cluster.plan import plan as work_out

    result = work_out(run)
    print(f"{result.parameters / 1e9:.2f} billion parameters; {run.episodes} episodes a step\n")
    for title, memory in (("a GPU that trains", result.training_gib), ("a GPU that rolls out", result.rollout_gib)):
        parts = ", ".join(f"{name} {gib:.1f}" for name, gib in memory.items())
        print(f"{title}: {sum(memory.values()):.1f} GiB ({parts})")
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.seconds.items())
    print(f"a step: {result.step_seconds:.0f} s ({parts}); {result.tokens_per_second:,.0f} tokens a second")
    print(f"{result.sequences_in_flight} episodes of mean length fit into the engines' caches")
    asked, capacity = result.helper_requests_per_second, result.helper_capacity
    print(f"helpers: asked {asked:.1f} times a second, {capacity:.1f} can be answered")
    for problem in result.problems:
        print(f"! {problem}")
    print("\nEstimates from shapes and stated efficiencies (docs/cluster.md), not measurements.")
    return 1 if result.problems else 0


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
