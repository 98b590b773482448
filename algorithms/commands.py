"""The `aipo` subcommands of the learner. Importing this module needs no torch, so that `aipo --help` is quick."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from aipo_env.checks import check_count
from aipo_env.console import command, finish_first, interrupted, print_json
from aipo_env.errors import ConfigurationError
from aipo_env.make_options import Options
from aipo_env.parsing import FLAT, ConfigFile, options_of, with_flags
from aipo_env.registry import parse_agents
from algorithms.apps.play_command import play as play
from algorithms.cluster.plan import RunShape
from algorithms.rollout_command import rollout as rollout
from algorithms.train_config import HelperConfig, TrainConfig


@command(
    "aipo train --env-options level 2 style terse prompt bare --steps 150 --out runs/mine",
    "aipo train --config run.toml --objective.agent-loss mask --out runs/mask  # the file, with one thing changed",
    "aipo train --policy Qwen/Qwen2.5-1.5B-Instruct --env math-consult --device cuda --plan --memory 24  # does it fit?",
    "aipo train --train-helper knowledge --helper-policy path/to/its/start --helper-phase alternate:20 --out runs/team",
    "aipo train --backend openrlhf --help  # on a cluster",
)
def train(
    *,
    config: Annotated[TrainConfig, FLAT] = TrainConfig(),
    helper: Annotated[HelperConfig, FLAT] = HelperConfig(),
    backend: Literal["local", "openrlhf"] = "local",
    tracker: tuple[str, ...] = ("tensorboard",),
    plan: bool = False,
    memory: float | None = None,
    quiet: bool = False,
    json: bool = False,
    config_file: ConfigFile = None,
) -> int:
    """Train a policy on this machine; resumes what lies in --out.

    Ctrl-C (or SIGTERM, SIGHUP) finishes the step, writes a checkpoint and ends with 130; the same command goes on from there.
    A run that begins to go wrong says so on standard error while it runs.

    Args:
        config: of the run.
        helper: that is trained too.
        backend: "openrlhf" trains on a cluster; all other flags are then those of algorithms/aipo_openrlhf.py.
        tracker: who is told the metrics beside metrics.jsonl: any of tensorboard, wandb, trackio.
        plan: trains nothing; says what memory the run would take, and what to change where it does not fit. Exits with 1 then.
        memory: with --plan, GiB of the device; what it has free if left out.
        quiet: no bar; words on standard error alone, for errors, problems of the run and evaluations that take long.
        json: one JSON object at the end: "out", "step", and "metrics" of the last step.
        config_file: is among the options already (`aipo_env.parsing`).
    """
    import torch

    from algorithms.checkpoint import PREFIX, list_checkpoints
    from algorithms.multi_agent import MultiAgentTrainer
    from algorithms.progress import TrainingDisplay, quiet_libraries
    from algorithms.run_folder import CHECKPOINTS
    from algorithms.run_health import best_step
    from algorithms.trackers import check_trackers
    from algorithms.trainer import Trainer

    if backend != "local":
        raise ConfigurationError(
            f"--backend {backend} stands on the command line, with the flags of algorithms/aipo_openrlhf.py beside it; a "
            "config file has options of the local trainer alone."
        )
    check_trackers(tracker)
    quiet_libraries()
    if memory is not None and not (plan and memory > 0):
        raise ConfigurationError(
            f"--memory is how many GiB --plan counts with, got {memory:g} {'' if plan else 'without it'}."
        )
    if plan and helper.train_helper is not None:
        raise ConfigurationError(
            "--plan counts a policy alone, without a helper that is trained; leave out --train-helper."
        )
    if plan:
        from algorithms.memory_plan import show

        return show(config, memory, json=json)
    trainer: Trainer | MultiAgentTrainer
    trainer = Trainer(config) if helper.train_helper is None else MultiAgentTrainer(config, helper)
    config = trainer.config
    if trainer.policy.tiny and "OMP_NUM_THREADS" not in os.environ:
        # On matrices this small threads wait for each other longer than they compute.
        torch.set_num_threads(1)
    with (
        TrainingDisplay(config.steps, shown=not quiet) as display,
        finish_first("finishing this step and writing a checkpoint; Ctrl-C again stops at once.") as stop,
    ):
        try:
            history = trainer.train(
                display.step,
                tracker,
                on_evaluation=display.evaluation,
                on_problem=lambda text: display.say(with_flags(text, options_of(train))),
                stop=lambda: stop.asked,
            )
        except KeyboardInterrupt:  # the second one: in the middle of a step, whose work is lost
            history = []
        finally:
            trainer.close()
    if not (history and trainer.finished):
        kept = list_checkpoints(config.out / CHECKPOINTS)
        if not kept and isinstance(trainer, MultiAgentTrainer):
            return interrupted(f"The same command goes on with the helper; the runs are in {config.out}.")
        if not kept:
            return interrupted(f"No step was finished; the same command starts again, in {config.out}.")
        step = int(kept[-1].name.removeprefix(PREFIX))
        return interrupted(f"The same command goes on after step {step} of {config.steps}; the run is in {config.out}.")
    metrics = history[-1]
    if json:
        print_json({"out": str(config.out), "step": trainer.step, "metrics": metrics})
    elif not quiet:
        for label, row in (("start", history[0]), ("end", metrics)):
            accuracies = [f"{n.removeprefix('eval/')} {v:.3f}" for n, v in row.items() if n.startswith("eval/")]
            print(f"{label:<6}", *accuracies, sep="  ")
        print(f"metrics, traces, checkpoints and the trained policy are in {config.out}")
        if (best := best_step(history, trainer.judged_by)) not in (None, trainer.step):
            by = "solo accuracy" if trainer.judged_by == "eval/solo_pass1" else "the policy's accuracy with it"
            print(f"the best one, by {by}, is that of step {best}: {config.out / 'best'}")
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


@command("aipo replay runs/rollout/traces.jsonl", "aipo replay traces.jsonl --env rulebook-consult --policy embedded")
def replay(
    traces: Path,
    /,
    *,
    env: str | None = None,
    env_options: Options | None = None,
    agents: tuple[str, ...] = (),
    policy: str | None = None,
    show: int = 20,
    json: bool = False,
) -> int:
    """Play recorded episodes again without any model, and tell what comes out differently.

    Exits with 1 if anything did, with 2 if the traces cannot be read or their environment is not known.

    Args:
        traces: a .jsonl file of traces. What lies beside it tells how its environment was made (traces.run.json, or the
            config.json of a training run).
        env: environment id, where nothing tells.
        env_options: its options, as `--env-options level 3 style terse`.
        agents: its helpers, each "name", "name=package.module:Class" or "name=path/to/policy"; nobody asks
            them, but the prompt describes them.
        policy: names the tokenizer of token-exact traces, as for `aipo rollout`.
        show: differences that are shown at most.
        json: one JSON object: "episodes", "faithful", and "differences" with line, task_id, sample and what differs.
    """
    import aipo_env
    from algorithms.progress import quiet_libraries
    from algorithms.replay_game import game_of

    quiet_libraries()
    result = aipo_env.replay(traces, game_of(traces, env, env_options, agents, policy))
    if json:
        differences = [dataclasses.asdict(mismatch) for mismatch in result.mismatches]
        print_json({"episodes": result.num_trajectories, "faithful": result.faithful, "differences": differences})
        return 0 if result.faithful else 1
    if result.faithful:
        number = result.num_trajectories
        print(
            f"{traces}: {f'{number} episodes, all as recorded' if number else 'no episode that could be played again'}"
        )
        return 0
    lines = {mismatch.line for mismatch in result.mismatches}
    print(f"{traces}: {result.num_trajectories} episodes, {len(lines)} of them not as recorded")
    for mismatch in result.mismatches[:show]:
        print(mismatch)
    if len(result.mismatches) > show:
        print(f"... and {len(result.mismatches) - show} differences more (--show {len(result.mismatches)})")
    return 1


@command("aipo plan --model 7b --gpus 16 --helper-gpus 8 --prompts-per-step 128")
def plan(*, run: Annotated[RunShape, FLAT] = RunShape(), json: bool = False) -> int:
    """Size a training run on a cluster: memory of each GPU and time of a step, from shapes alone.

    Exits with 1 if the run would not fit, or would wait for something; says for what, and what to change.

    Args:
        run: its shapes.
        json: one JSON object with all of it.
    """
    from algorithms.cluster.plan import plan as work_out

    result = work_out(run)
    if json:
        print_json(dataclasses.asdict(result))
        return 1 if result.problems else 0
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


@command(
    "aipo warmup --policy Qwen/Qwen2.5-1.5B-Instruct --device cuda  # then aipo train --policy runs/start",
    "aipo warmup --policy smollm2 --unless-asks 0.2 --out runs/start",
)
def warmup(
    *,
    policy: str,
    out: Path = Path("runs/start"),
    steps: int = 60,
    batch_size: int = 16,
    micro_batch_size: int = 8,
    learning_rate: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    dialect: str | None = None,
    agents: tuple[str, ...] = (),
    env_options: Options | None = None,
    unless_asks: float | None = None,
) -> int:
    """Teach a policy to ask helpers and to box its answers: supervised, minutes.

    The episodes are our own: procedural problems in words, in which a scripted policy asks the helpers and answers. Loss falls
    on what it says, never on a reply. Before and after, the policy plays 16 of them by itself.

    Args:
        policy: "embedded", "smollm2", or a directory or hub id that transformers loads.
        out: folder for the model and its tokenizer.
        steps: optimizer steps.
        batch_size: episodes of each step.
        micro_batch_size: episodes in one forward and backward pass; changes memory and speed, not the result.
        learning_rate: AdamW's peak (1e-5; 1e-3 for policies of fewer than ten million parameters).
        seed: decides the episodes.
        device: a torch device.
        dialect: how actions and replies look, as in `aipo_env.make`.
        agents: helpers, each "name", "name=package.module:Class" or "name=path/to/policy".
        env_options: options of the environment, as `--env-options max_consults 2`.
        unless_asks: a policy that asks in this share of episodes before is written to --out as it is.
    """
    import aipo_env
    from algorithms.policies import load_policy
    from algorithms.progress import TrainingDisplay, quiet_libraries
    from algorithms.warmup import fit
    from algorithms.warmup_episodes import PROBED, Exercises, ask_rate, row_maker

    quiet_libraries()
    for flag, value in {"--steps": steps, "--batch-size": batch_size, "--micro-batch-size": micro_batch_size}.items():
        check_count(flag, value, what="how many")
    if unless_asks is not None and not 0 <= unless_asks <= 1:
        raise ConfigurationError(f"--unless-asks is a share of episodes, from 0 to 1, got {unless_asks}.")
    options: dict[str, Any] = {**(env_options or {}), **({} if dialect is None else {"dialect": dialect})}
    loaded = load_policy(policy, device)
    env = aipo_env.make(
        "dataset-consult", tasks=Exercises(), codec=loaded.codec, agents=parse_agents(agents), **options
    )
    rate = learning_rate or (1e-3 if loaded.tiny else 1e-5)
    try:
        print(f"before: asked in {(asked := ask_rate(loaded, env)):.0%} of {PROBED} episodes")
        if unless_asks is None or asked < unless_asks:
            with TrainingDisplay(steps, "warm-up") as display:
                fit(
                    loaded, row_maker(env, loaded.codec, seed), steps=steps, batch_size=batch_size, learning_rate=rate,
                    rise=max(1, steps // 10), micro_batch_size=micro_batch_size,
                    on_step=lambda step, loss: display.step({"step": float(step), "loss": loss}),
                )  # fmt: skip
            print(f"after: asked in {ask_rate(loaded, env):.0%}")
    except KeyboardInterrupt:
        return interrupted("Nothing was written; the same command starts again.")
    finally:
        env.close()
    loaded.save(out)
    print(f"the policy is in {out}; use it with --policy {out}")
    return 0


@command("aipo demo", "aipo demo --steps 20 --out runs/quick  # to see that it works, not what is learnt")
def demo(
    *,
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

    try:
        run_demo(out, seed=seed, full=full, steps=steps, processes=processes)
    except KeyboardInterrupt:
        return interrupted(f"The demo starts from the beginning each time; what it wrote so far is in {out}.")
    return 0
