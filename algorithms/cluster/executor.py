"""Plays an episode on the engine that OpenRLHF hands over: token ids in, token ids out.

Nothing here imports OpenRLHF or vLLM; `algorithms/cluster/agent_func.py` is the class that OpenRLHF loads.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from transformers import PreTrainedTokenizerFast

from aipo_env.errors import ConfigurationError, ServiceError
from aipo_env.game import ConsultGame
from aipo_env.groups import num_solo
from aipo_env.playing import Player
from aipo_env.protocol import TokenAction, TurnRequest
from aipo_env.rollout import EpisodeSeeds
from aipo_env.trajectory import TraceWriter, Trajectory
from algorithms.cluster.options import ClusterConfig
from algorithms.cluster.prompts import PromptLabel, evaluation_game, training_game
from algorithms.cluster.trajectories import to_response
from algorithms.codec import TransformersCodec, load_stop_ids

_MOST_FAULTS = 64
"""Episodes in a row that faults may cut before the run ends: with every engine and grader gone there is nothing to learn."""


@runtime_checkable
class SamplingParams(Protocol):
    """What is used of vLLM's `SamplingParams`."""

    max_tokens: int | None
    logprobs: int | None
    stop: list[str]
    stop_token_ids: list[int] | None
    include_stop_str_in_output: bool


@runtime_checkable
class Logprob(Protocol):
    """vLLM's log-probability of one token."""

    logprob: float


@runtime_checkable
class Completion(Protocol):
    """One of vLLM's `CompletionOutput`s."""

    token_ids: Sequence[int]
    logprobs: Sequence[Mapping[int, Logprob]] | None
    finish_reason: str | None


@runtime_checkable
class RequestOutput(Protocol):
    """vLLM's `RequestOutput`."""

    outputs: Sequence[Completion]


@runtime_checkable
class Engine(Protocol):
    """What is used of OpenRLHF's `RolloutRayActor`."""

    async def generate(self, prompt_token_ids: list[int], sampling_params: object) -> RequestOutput | None:
        """Continues the ids; None where the engine ended without an output."""
        ...


class EngineTurns:
    """A `TurnPolicy` on an OpenRLHF engine, for one episode.

    Args:
        engine: continues token ids.
        sampling_params: OpenRLHF's own for this prompt. `max_tokens` in it (--rollout.max_new_tokens) limits what the policy
            writes in the whole episode; replies of helpers do not count.
    """

    name = "openrlhf"

    def __init__(self, engine: Engine, sampling_params: SamplingParams) -> None:
        self._engine, self._sampling_params = engine, sampling_params
        self._left = sampling_params.max_tokens

    async def act(self, request: TurnRequest) -> TokenAction:
        """Samples the next turn.

        Raises:
            ServiceError: the engine ended the request without an answer.
        """
        limits = [limit for limit in (request.max_tokens, self._left) if limit is not None]
        if limits and min(limits) < 1:
            return TokenAction((), (), "length")
        params = copy.deepcopy(self._sampling_params)
        params.max_tokens = min(limits, default=None)
        # 0: the sampled token's and no other. The side channel needs it whatever OpenRLHF's own loss needs.
        params.logprobs = params.logprobs or 0
        params.stop = [*(params.stop or []), *request.stop]
        params.stop_token_ids = [*(params.stop_token_ids or []), *request.stop_ids]
        params.include_stop_str_in_output = True
        output = await self._engine.generate(list(request.token_ids), params)
        completion = output.outputs[0] if output is not None and output.outputs else None
        if completion is None or completion.logprobs is None or completion.finish_reason == "abort":
            raise ServiceError(
                "OpenRLHF's engine was asked for a turn with log-probabilities and "
                + ("gave none" if completion is None else f"ended it as {completion.finish_reason!r}")
                + ". If the engine died, start the run again with --ckpt.load_enable."
            )
        ids = tuple(int(i) for i in completion.token_ids)
        logprobs = tuple(float(at[i].logprob) for i, at in zip(ids, completion.logprobs, strict=True))
        if self._left is not None:
            self._left -= len(ids)
        return TokenAction(ids, logprobs, "length" if completion.finish_reason == "length" else "stop")


class SampleNumbers:
    """Numbers the samples of a group, 0, 1, 2, ...: OpenRLHF hands no index to its executors.

    OpenRLHF 0.11.2 plays a group in one call (`RolloutRayActor.generate_responses`): it makes the samples' coroutines with
    the same `sampling_params` object and gathers them, so that they start in order, before any of them waits. So samples with
    the same object are a group, and the order in which they ask is their number. `tests/integration_openrlhf` checks it.
    """

    def __init__(self) -> None:
        self._groups: dict[int, _Group] = {}

    @contextlib.contextmanager
    def number(self, group: object) -> Iterator[int]:
        """The number of the next sample of the group which this object stands for, until the sample is finished."""
        # The entry holds the object, so that no other can get its id while samples of the group run.
        entry = self._groups.setdefault(id(group), _Group(group))
        number, entry.started, entry.running = entry.started, entry.started + 1, entry.running + 1
        try:
            yield number
        finally:
            entry.running -= 1
            if not entry.running:
                del self._groups[id(group)]


@dataclasses.dataclass(slots=True)
class _Group:
    key: object
    started: int = 0
    running: int = 0


def is_solo(sample: int, solo_share: float) -> bool:
    """Whether a sample of a group gets no help; of n samples it is `num_solo(share, n)`, spread evenly, whatever n is."""
    return num_solo(solo_share, sample + 1) > num_solo(solo_share, sample)


class EpisodeExecutor:
    """Plays prompts that `algorithms/cluster/prompts.py` exported; one for each engine.

    Args:
        config: of the run.
    """

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self._samples = SampleNumbers()
        self._codec: TransformersCodec | None = None
        self._tokenizer_key: tuple[object, ...] = ()
        self._games: dict[bool, ConsultGame] = {}
        self._traces: TraceWriter | None = None
        self._faults = 0
        """Episodes in a row that a fault cut."""

    async def execute(
        self,
        prompt: str,
        label: str,
        sampling_params: SamplingParams,
        max_length: int,
        hf_tokenizer: PreTrainedTokenizerFast,
        llm_engine: Engine,
        images: object = None,
    ) -> dict[str, object]:
        """Plays one sample; arguments and result are those of OpenRLHF's `AgentExecutorBase.execute`.

        A fault of the engine or of the grader ends the episode as "error": it is recorded, counted and bears no loss, and the
        run goes on.

        Raises:
            ConfigurationError: the prompt is none of ours.
            ServiceError, GradingError: nothing but faults for `_MOST_FAULTS` episodes: what failed does not come back.
        """
        with self._samples.number(sampling_params) as sample:
            # All samples of the group have their number before the first of them can finish.
            await asyncio.sleep(0)
            which = PromptLabel.from_text(label)
            game = self._game(which.evaluation, hf_tokenizer)
            player = Player(game, EngineTurns(llm_engine, sampling_params))
            seeds = EpisodeSeeds(self.config.seed, which.task, sample, which.epoch)
            solo = which.evaluation or not game.config.assisted or is_solo(sample, self.config.solo_share)
            episode = await player.start(which.task, seed=seeds.episode, assisted=not solo)
            start = episode.segments[0]
            if start.text != prompt:
                raise ConfigurationError(
                    f"the prompt of task {which.task} is {start.text[:80]!r} here and {str(prompt)[:80]!r} in the exported "
                    "file: this process has other environment options, data or helpers than the one that exported it. Install "
                    "the same versions and data on every node."
                )
            player.max_tokens = max_length - len(start.token_ids)
            error = await player.play(episode, seeds.turn)
            self._faults = 0 if error is None else self._faults + 1
            if error is not None:
                if self._faults >= _MOST_FAULTS:
                    raise error
                episode.truncate("error")
            trajectory = episode.trajectory(sample=sample, group=which.task)
            if error is not None:
                trajectory.metadata["error"] = f"{type(error).__name__}: {error}"
            self._record(trajectory, which)
            return to_response(trajectory, max_length, label=label)

    def close(self) -> None:
        """Gives the trace file back. OpenRLHF has no such call: its engines end with their process."""
        if self._traces is not None:
            self._traces.close()

    def _game(self, evaluation: bool, tokenizer: PreTrainedTokenizerFast) -> ConsultGame:
        """The game with the policy's tokenizer, made once: OpenRLHF sends a copy of the tokenizer with every prompt."""
        key = (type(tokenizer).__name__, tokenizer.name_or_path, len(tokenizer))
        if self._codec is None:
            stops = load_stop_ids(tokenizer.name_or_path, local=True)
            self._codec, self._tokenizer_key = TransformersCodec(tokenizer, stops), key
        elif key != self._tokenizer_key:
            raise ConfigurationError(
                f"the tokenizer changed during the run, from {self._tokenizer_key} to {key}; one engine serves one policy."
            )
        if evaluation not in self._games:
            make = evaluation_game if evaluation else training_game
            self._games[evaluation] = make(self.config, self._codec)
        return self._games[evaluation]

    def _record(self, trajectory: Trajectory, which: PromptLabel) -> None:
        if self.config.traces is None:
            return
        if self._traces is None:
            self._traces = TraceWriter(self.config.traces / f"rollouts-{socket.gethostname()}-{os.getpid()}.jsonl")
        trajectory.metadata["evaluation"] = which.evaluation
        self._traces.write(trajectory)
