"""`aipo rollout`, with a policy that is loaded here or behind a server; the same command goes on where it was cut."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import aipo_env
from aipo_env import Source, Trajectory
from aipo_env.checks import check_count
from aipo_env.console import command, interrupted, print_json, repeats_collapsed
from aipo_env.errors import ConfigurationError, DataNotFoundError
from aipo_env.make_options import Options
from aipo_env.parsing import FLAT, ConfigFile
from aipo_env.run_record import RunRecord, record_path
from aipo_env.trace_files import FAULTS, errors_path
from algorithms.servers import Servers
from algorithms.train_config import SamplingConfig

if TYPE_CHECKING:
    from algorithms.codec import TransformersCodec
    from algorithms.policies import Policy


def load_codec(name: str) -> TransformersCodec:
    """The tokenizer of a policy, without its weights.

    Args:
        name: as for `algorithms.policies.load_policy`.

    Raises:
        DataNotFoundError: when there is nothing under this name.
    """
    from transformers import AutoTokenizer

    from algorithms.codec import TransformersCodec, load_stop_ids
    from algorithms.policies.loading import POLICIES, policy_source

    try:
        return TransformersCodec(AutoTokenizer.from_pretrained(policy_source(name)), load_stop_ids(policy_source(name)))
    except (OSError, ValueError) as error:
        raise DataNotFoundError(
            f"no tokenizer {name!r}: it is neither one of {', '.join(POLICIES)}, nor a directory with a tokenizer of "
            f"transformers, nor reachable on the hub ({type(error).__name__}: {str(error)[:200]}). Name it with --policy."
        ) from error


@command(
    "aipo rollout --num-tasks 8 --samples 2 --check",
    "aipo rollout --env math500-consult --server http://localhost:8000/v1 --model my-model --policy path/to/its/tokenizer",
    "aipo rollout --solo --json --quiet  # for scripts",
)
def rollout(
    *,
    env: str = "rulebook-consult",
    policy: str = "embedded",
    num_tasks: int = 8,
    samples: int = 2,
    solo: bool = False,
    out: Path = Path("runs/rollout"),
    seed: int = 0,
    max_tokens: int = 512,
    temperature: float = 0.6,
    agents: tuple[str, ...] = (),
    env_options: Options | None = None,
    check: bool = False,
    servers: Annotated[Servers, FLAT] = Servers(),  # noqa: B008 - frozen
    max_in_flight: int | None = None,
    timeout: float | None = None,
    quiet: bool = False,
    json: bool = False,
    config_file: ConfigFile = None,
) -> int:
    """Roll out a policy on an environment and write token-exact traces; the same command goes on where it was cut.

    With --server the model behind it plays the policy, many episodes at the same time, and --policy names its tokenizer alone.

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
        agents: helpers, each "name", "name=package.module:Class" or "name=path/to/policy".
        env_options: options of the environment, as `--env-options level 3 style terse`.
        check: recompute the log-probability of each sampled token from the trace's ids, and compare; not with --server.
        servers: of the policy, and of helpers.
        max_in_flight: episodes that run at the same time (16; with --server 256).
        timeout: seconds for an episode.
        quiet: no bar, no words but errors.
        json: one JSON object at the end: "traces", and accuracy, consults and cut episodes of "assisted" and "solo" ones.
        config_file: is among the options already (`aipo_env.parsing`).
    """
    from algorithms.policies.loading import warn_unreadable
    from algorithms.progress import quiet_libraries

    if check and servers.server is not None:
        raise ConfigurationError("--check is for a policy that is loaded here, not for --server; leave it out.")
    check_count("--num-tasks", num_tasks, what="how many tasks are played")
    check_count("--samples", samples, what="how many episodes of each task are played")
    quiet_libraries()
    options: dict[str, Any] = dict(env_options or {})
    if policy == "embedded":
        # It reads bare problems and nothing else.
        options = {"prompt": "bare"} | ({"style": "terse"} if "rulebook" in env else {}) | options
    options["agents"] = servers.agents(agents)
    traces = out / "traces.jsonl"
    max_in_flight = max_in_flight or (256 if servers.server is not None else 16)
    loaded = None
    if servers.server is None:
        from algorithms.policies import load_policy
        from algorithms.rollout import local_policy

        loaded = load_policy(policy)
        turns = local_policy(loaded, SamplingConfig(temperature, 1.0, max_tokens, max_in_flight))
    else:
        from aipo_agents.backends.base import CompletionSampling
        from algorithms.samplers import BackendPolicy

        sampling = CompletionSampling(temperature=temperature, max_tokens=max_tokens)
        turns = BackendPolicy(servers.policy(), load_codec(policy), sampling)
    turns.name = f"{turns.backend.model}, temperature {temperature:g}"
    made = aipo_env.make(env, codec=turns.codec, **options)
    warn_unreadable(turns.codec, made)
    total = made.tasks.num_tasks

    async def play() -> tuple[list[str], int]:
        episodes = aipo_env.rollout(
            made,
            turns,
            num_tasks if total is None else min(num_tasks, total),
            group_size=samples,
            max_in_flight=max_in_flight,
            seed=seed,
            solo_share=1.0 if solo else 0.0,
            max_tokens=max_tokens,
            timeout=timeout,
            traces=traces,
            progress=not quiet,
        )
        try:
            async with episodes:
                side = record_path(traces)
                dataclasses.replace(RunRecord.read(side), tokenizer_name=policy).write(side)
                ended = [t.redacted() if t.confidential else t async for t in episodes if t.stop_reason in FAULTS]
        finally:
            await turns.backend.aclose()
            await made.game.aclose()
        return [str(t.metadata.get("error")) for t in ended], episodes.num_resumed

    try:
        with repeats_collapsed():
            faults, num_resumed = asyncio.run(play())
    except KeyboardInterrupt:
        return interrupted(f"The same command goes on from there; what is finished is in {traces}.")
    report(traces, num_resumed, faults, quiet=quiet, json=json)
    if loaded is not None and check:
        difference = largest_difference(loaded, traces, temperature)
        print(
            f"largest difference to the recomputed log-probabilities: {difference:.2g}",
            file=sys.stderr if json else None,
        )
    return 1 if faults else 0


def report(traces: Path, num_resumed: int, faults: Sequence[str], *, quiet: bool, json: bool) -> None:
    """Says what a file of traces holds.

    Args:
        traces: the file.
        num_resumed: episodes that were in it before.
        faults: what ended episodes that are not in it.
        quiet: the faults alone, on standard error.
        json: one JSON object in place of the words.
    """
    if json:
        print_json(
            {
                "traces": str(traces),
                "resumed": num_resumed,
                "faults": list(faults),
                **counts(aipo_env.read_traces(traces)),
            }
        )
        return
    if not quiet:
        if num_resumed:
            print(f"{num_resumed} episodes were there already")
        print(summary(aipo_env.read_traces(traces)))
        print(f"traces are in {traces}")
    if faults:
        print(
            f"{len(faults)} episodes were ended by a fault ({errors_path(traces)}); the same command plays them again\n"
            f"the first of them by {faults[0]}",
            file=sys.stderr if quiet else None,
        )


def counts(trajectories: Iterable[Trajectory]) -> dict[str, dict[str, object]]:
    """Episodes, accuracy, consults and cut episodes, of assisted episodes and of solo ones, as far as there are any."""
    finished = list(trajectories)
    values: dict[str, dict[str, object]] = {}
    for name, assisted in (("assisted", True), ("solo", False)):
        if part := [t for t in finished if t.assisted == assisted]:
            correct = sum(t.verdict == "correct" for t in part)
            values[name] = {
                "env": part[0].env_id,
                "episodes": len(part),
                "correct": correct,
                "accuracy": correct / len(part),
                "consults": sum(t.num_consults for t in part) / len(part),
                "cut": sum(t.stop_reason in ("length", "max_turns", "max_chars") for t in part),
            }
    return values


def summary(trajectories: Iterable[Trajectory]) -> str:
    """`counts` in words, a line for assisted episodes and one for solo ones."""
    lines = [
        f"{c['env']}, {name}: {c['correct']} of {c['episodes']} correct ({c['accuracy']:.3f}); {c['consults']:.2f} consults an "
        f"episode; {c['cut']} cut by a budget"
        for name, c in counts(trajectories).items()
    ]
    return "\n".join(lines) or "no episode was finished"


def largest_difference(policy: Policy, traces: Path, temperature: float) -> float:
    """The largest difference between recorded log-probabilities of sampled tokens and those recomputed from the ids."""
    import numpy as np
    import torch

    from algorithms.batch import micro_batches
    from algorithms.logprobs import token_logprobs

    largest = 0.0
    samples = [aipo_env.to_training_sample(t) for t in aipo_env.read_traces(traces)]
    for part in micro_batches(samples, np.zeros(len(samples)), 8, pad_id=0):
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
