"""`aipo rollout`, with a policy that is loaded here or behind a server; the same command goes on where it was cut."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import aipo_env
from aipo_env import ConsultEnv, Source, Trajectory
from aipo_env.console import print_json, repeats_collapsed
from aipo_env.errors import DataNotFoundError
from aipo_env.run_record import RunRecord, record_path
from aipo_env.trace_files import FAULTS, errors_path

if TYPE_CHECKING:
    from algorithms.codec import TransformersCodec
    from algorithms.policies import Policy
    from algorithms.samplers import BackendPolicy


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


def roll_out(
    env: ConsultEnv,
    policy: BackendPolicy,
    *,
    tokenizer_name: str,
    num_tasks: int,
    samples: int,
    solo: bool,
    traces: Path,
    seed: int,
    max_tokens: int,
    max_in_flight: int,
    timeout: float | None,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Plays the episodes that `traces` does not hold yet; returns 1 if a fault ended some of them.

    Args:
        env: made with the policy's tokenizer; closed at the end, as the policy's backend is.
        policy: whose name tells how it is sampled too.
        tokenizer_name: of the policy, for the record.
        num_tasks: the first tasks of the family.
        samples: episodes of each task.
        solo: no helper answers.
        traces: the file; episodes are appended as they finish.
        seed: decides the sampling and the helpers.
        max_tokens: tokens behind the prompt.
        max_in_flight: episodes that run at the same time.
        timeout: seconds for an episode; None for no limit.
        quiet: no bar, no words but errors.
        json: a JSON object in place of the words.
    """
    total = env.tasks.num_tasks

    async def play() -> tuple[list[str], int]:
        episodes = aipo_env.rollout(
            env,
            policy,
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
                dataclasses.replace(RunRecord.read(side), tokenizer_name=tokenizer_name).write(side)
                ended = [t.redacted() if t.confidential else t async for t in episodes if t.stop_reason in FAULTS]
        finally:
            await policy.backend.aclose()
            await env.game.aclose()
        return [str(t.metadata.get("error")) for t in ended], episodes.num_resumed

    with repeats_collapsed():
        faults, num_resumed = asyncio.run(play())
    report(traces, num_resumed, faults, quiet=quiet, json=json)
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
