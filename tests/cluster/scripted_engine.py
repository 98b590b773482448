"""An engine with the interface that OpenRLHF's rollout actor has, whose turns are written in the test."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

from aipo_env.markup import FEEDBACK_CLOSE
from algorithms.cluster.executor import EpisodeExecutor
from algorithms.codec import TransformersCodec


@dataclasses.dataclass
class Params:
    """The fields of vLLM's SamplingParams that matter here, at OpenRLHF's values."""

    max_tokens: int | None = None
    logprobs: int | None = None
    stop: list[str] = dataclasses.field(default_factory=list)
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    temperature: float = 1.0


@dataclasses.dataclass
class Logprob:
    logprob: float


@dataclasses.dataclass
class Completion:
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None


@dataclasses.dataclass
class Output:
    outputs: list[Completion]


@dataclasses.dataclass
class Call:
    prompt: list[int]
    params: Params
    output: list[int]


class ScriptedEngine:
    """Writes what `script(context, turn)` says, cut as vLLM cuts: by stop strings, kept where asked, and by max_tokens.

    Args:
        codec: of the policy.
        script: maps the context's text and the number of replies or notices in it to the turn's text; "<eos>" ends it.
        honour_stop: False stands for a token that carries text beyond the stop string.
    """

    def __init__(self, codec: TransformersCodec, script: Callable[[str, int], str], honour_stop: bool = True) -> None:
        self.calls: list[Call] = []
        self._codec, self._script, self._honour_stop = codec, script, honour_stop

    async def generate(
        self, prompt_token_ids: list[int], sampling_params: Params, multi_modal_data: object = None
    ) -> Output:
        await asyncio.sleep(0)
        context = self._codec.decode(prompt_token_ids)
        text = self._script(context, context.count(FEEDBACK_CLOSE) + context.count("</notice>"))
        body, end, _ = text.partition("<eos>")
        reason = "stop"
        for stop in sampling_params.stop if self._honour_stop else []:
            if stop in body:
                body, end = body[: body.index(stop)] + stop * sampling_params.include_stop_str_in_output, ""
        ids = self._codec.encode_tag(body) + ([self._codec.tokenizer.eos_token_id] if end else [])
        if sampling_params.max_tokens is not None and len(ids) > sampling_params.max_tokens:
            ids, reason = ids[: sampling_params.max_tokens], "length"
        wanted = sampling_params.logprobs is not None
        logprobs = [{i: Logprob(-0.25 - 0.001 * n)} for n, i in enumerate(ids)] if wanted else None
        self.calls.append(Call(list(prompt_token_ids), sampling_params, ids))
        return Output([Completion(ids, logprobs, reason)])


async def generate_responses(
    executor: EpisodeExecutor,
    engine: ScriptedEngine,
    prompt: str,
    label: str,
    params: Params,
    max_length: int,
    num_samples: int,
) -> list[dict[str, object]]:
    """Plays a group as OpenRLHF 0.11.2 does: the same arguments for every sample, gathered."""
    samples = [
        executor.execute(
            prompt=prompt,
            label=label,
            sampling_params=params,
            max_length=max_length,
            hf_tokenizer=engine._codec.tokenizer,
            llm_engine=engine,
            images=None,
        )
        for _ in range(num_samples)
    ]
    return await asyncio.gather(*samples)
