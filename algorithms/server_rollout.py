"""`aipo rollout` with models behind servers: the policy's, the helpers', or both."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import aipo_env
from aipo_env import ConsultEnv, Trajectory
from aipo_env.errors import ConfigurationError, DataNotFoundError
from aipo_env.registry import DEFAULT_AGENTS, AgentLike, parse_agents
from aipo_env.run_record import RunRecord, record_path
from aipo_env.trace_files import FAULTS, errors_path

if TYPE_CHECKING:
    from algorithms.codec import TransformersCodec


def check_options(
    *,
    server: str | None,
    model: str | None,
    helper_server: str | None,
    helper_model: str | None,
    check: bool,
    batch_size: int | None,
    max_in_flight: int | None,
    timeout: float | None,
) -> None:
    """Raises ConfigurationError for options that contradict each other."""
    for address, name, flag in ((server, model, ""), (helper_server, helper_model, "helper-")):
        if (address is None) != (name is None):
            raise ConfigurationError(
                f"--{flag}server and --{flag}model go together: the address, and the model served there."
            )
    misplaced = {"--check": check or None, "--batch-size": batch_size} if server is not None else {
        "--max-in-flight": max_in_flight,
        "--timeout": timeout,
    }  # fmt: skip
    if given := ", ".join(flag for flag, value in misplaced.items() if value is not None):
        side = "a policy that is loaded here, not for --server" if server is not None else "--server"
        raise ConfigurationError(f"{given} is for {side}; leave it out.")


def load_codec(name: str) -> TransformersCodec:
    """The tokenizer of a policy, without its weights.

    Args:
        name: as for `algorithms.policies.load_policy`.

    Raises:
        DataNotFoundError: when there is nothing under this name.
    """
    from transformers import AutoTokenizer

    from algorithms.codec import TransformersCodec
    from algorithms.policies.loading import POLICIES, policy_source

    try:
        return TransformersCodec(AutoTokenizer.from_pretrained(policy_source(name)))
    except (OSError, ValueError) as error:
        raise DataNotFoundError(
            f"no tokenizer {name!r}: it is neither one of {', '.join(POLICIES)}, nor a directory with a tokenizer of "
            f"transformers, nor reachable on the hub ({type(error).__name__}: {str(error)[:200]}). Name it with --policy."
        ) from error


def make_agents(
    agents: Sequence[str], helper_server: str | None, helper_model: str | None
) -> dict[str, AgentLike] | None:
    """The helpers of a command line; with a server, its model plays those that are given by name alone.

    Args:
        agents: each "name" or "name=package.module:Class"; empty for the environment's default.
        helper_server: address of the server.
        helper_model: the model's name there.
    """
    named: dict[str, AgentLike] = dict(parse_agents(agents) or {})
    if helper_server is None or helper_model is None:
        return named or None
    from aipo_agents.llm import LLMAgent

    for name in named or DEFAULT_AGENTS:
        if named.get(name, name) == name:
            named[name] = LLMAgent.from_server(name, helper_server, helper_model)
    return named


def roll_out(
    env: ConsultEnv,
    policy: str,
    server: str,
    model: str,
    *,
    num_tasks: int,
    samples: int,
    solo: bool,
    out: Path,
    seed: int,
    max_tokens: int,
    temperature: float,
    max_in_flight: int,
    timeout: float | None,
) -> int:
    """Plays the episodes that `out` does not hold yet; returns 1 if a fault ended some of them.

    Args:
        env: made with the policy's tokenizer; closed at the end.
        policy: the tokenizer's name, for the record.
        server: address of the policy's server.
        model: the policy's name there.
        num_tasks: the first tasks of the family.
        samples: episodes of each task.
        solo: no helper answers.
        out: folder of traces.jsonl.
        seed: decides the sampling and the helpers.
        max_tokens: tokens behind the prompt.
        temperature: of the sampling.
        max_in_flight: episodes that run at the same time.
        timeout: seconds for an episode; None for no limit.
    """
    from aipo_agents.backends.base import CompletionSampling
    from aipo_agents.backends.openai_server import OpenAIServer
    from algorithms.samplers.backend_policy import BackendPolicy

    traces = out / "traces.jsonl"
    total = env.tasks.num_tasks
    codec = env.codec
    assert codec is not None

    async def play() -> tuple[list[str], int]:
        backend = OpenAIServer(server, model)
        sampling = CompletionSampling(temperature=temperature, max_tokens=max_tokens)
        episodes = aipo_env.rollout(
            env,
            BackendPolicy(backend, codec, sampling, name=f"{model}, temperature {temperature:g}"),
            num_tasks if total is None else min(num_tasks, total),
            group_size=samples,
            max_in_flight=max_in_flight,
            seed=seed,
            solo_share=1.0 if solo else 0.0,
            max_tokens=max_tokens,
            timeout=timeout,
            traces=traces,
            progress=True,
        )
        try:
            async with episodes:
                side = record_path(traces)
                dataclasses.replace(RunRecord.read(side), tokenizer_name=policy).write(side)
                ended = [t.redacted() if t.confidential else t async for t in episodes if t.stop_reason in FAULTS]
        finally:
            await backend.aclose()
            await env.game.aclose()
        return [str(t.metadata.get("error")) for t in ended], episodes.num_resumed

    faults, num_resumed = asyncio.run(play())
    if num_resumed:
        print(f"{num_resumed} episodes were there already")
    print(summary(aipo_env.read_traces(traces)))
    print(f"traces are in {traces}")
    if faults:
        print(
            f"{len(faults)} episodes were ended by a fault ({errors_path(traces)}); the same command plays them again"
        )
        print(f"the first of them by {faults[0]}")
    return 1 if faults else 0


def claim(traces: Path, record: RunRecord) -> None:
    """Writes the record of a run beside traces that are appended to; a file of several environments gets none."""
    side = record_path(traces)
    if not traces.exists() or not traces.stat().st_size:
        side.parent.mkdir(parents=True, exist_ok=True)
        record.write(side)
    elif side.exists():
        old = RunRecord.read(side)
        if any(getattr(old, name) != getattr(record, name) for name in ("env_id", "options", "agents", "tokenizer")):
            side.unlink()


def summary(trajectories: Iterable[Trajectory]) -> str:
    """Accuracy, consults and cut episodes, in a line for assisted episodes and one for solo ones."""
    lines = []
    finished = list(trajectories)
    for assisted in (True, False):
        part = [t for t in finished if t.assisted == assisted]
        if part:
            correct = sum(t.verdict == "correct" for t in part)
            consults = sum(t.num_consults for t in part) / len(part)
            cut = sum(t.stop_reason in ("length", "max_turns", "max_chars") for t in part)
            lines.append(
                f"{part[0].env_id}, {'assisted' if assisted else 'solo'}: {correct} of {len(part)} correct "
                f"({correct / len(part):.3f}); {consults:.2f} consults an episode; {cut} cut by a budget"
            )
    return "\n".join(lines) or "no episode was finished"
