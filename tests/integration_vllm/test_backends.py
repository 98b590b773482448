"""Ids and log-probabilities of a vLLM server and of an in-process engine, against `transformers` on the same weights."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aipo_agents.backends import ChatSampling, CompletionSampling, Generation, Message, OpenAIServer, TransformersModel
from algorithms.policies import Policy
from tests.integration_vllm.processes import run_kept
from tests.integration_vllm.reference import largest_difference, reference_logprobs
from tests.integration_vllm.server import VLLMServer

TOLERANCE = 1e-3
"""Of a log-probability, absolute. Both sides compute in fp32 and add up in another order; see the printed differences."""

PROMPTS = (
    "What is 17 + 25?",
    "Name a prime number above 90 and say why it is prime.",
    "Write the word consult between angle brackets.",
)
SETTINGS = ((1.0, 1.0), (0.7, 0.9))
CHAT = (Message("system", "You are brief."), Message("user", "What is 3 + 4?"))


def differences(
    policy: Policy, prompt: Sequence[int], generation: Generation, temperature: float, top_p: float
) -> float:
    assert generation.token_ids
    assert generation.logprobs is not None
    expected = reference_logprobs(
        policy, [*prompt, *generation.token_ids], len(prompt), temperature=temperature, top_p=top_p
    )
    return largest_difference(generation.logprobs, expected)


def test_the_server_samples_from_the_distribution_that_transformers_computes(
    server: VLLMServer, policy: Policy
) -> None:
    async def play() -> list[tuple[list[int], Generation, float, float]]:
        backend = OpenAIServer(server.base_url, server.name, logprobs_mode="processed")
        prompts = [policy.codec.encode_prompt(text) for text in PROMPTS]
        asked = [
            (prompt, temperature, top_p, seed) for temperature, top_p in SETTINGS for seed, prompt in enumerate(prompts)
        ]
        async with asyncio.timeout(240):
            generations = await asyncio.gather(
                *(
                    backend.complete(
                        prompt, CompletionSampling(temperature=temperature, top_p=top_p, max_tokens=40, seed=seed)
                    )
                    for prompt, temperature, top_p, seed in asked
                )
            )
            # The seed decides the sample, alone as in company.
            alone = await backend.complete(asked[0][0], CompletionSampling(max_tokens=40, seed=asked[0][3]))
            chat = await backend.chat(CHAT, ChatSampling(temperature=1.0, max_tokens=40, seed=9, logprobs=True))
            await backend.aclose()
        assert alone.token_ids == generations[0].token_ids
        chat_prompt = policy.tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in CHAT], add_generation_prompt=True, return_dict=False
        )
        return [
            *((p, g, t, top_p) for (p, t, top_p, _), g in zip(asked, generations, strict=True)),
            (list(chat_prompt), chat, 1.0, 1.0),
        ]

    rows = asyncio.run(play())
    largest = [differences(policy, *row) for row in rows]
    count = sum(len(generation.token_ids or ()) for _, generation, _, _ in rows)
    print(f"server against transformers, {count} tokens: largest difference of a log-probability {max(largest):.2e}")
    assert max(largest) < TOLERANCE


def test_a_stop_string_ends_a_turn_and_belongs_to_it(server: VLLMServer, policy: Policy) -> None:
    prompt = policy.codec.encode_prompt(PROMPTS[1])

    async def play() -> tuple[Generation, Generation, str]:
        backend = OpenAIServer(server.base_url, server.name, logprobs_mode="processed")
        async with asyncio.timeout(120):
            free = await backend.complete(prompt, CompletionSampling(temperature=0.0, max_tokens=24))
            stop = policy.codec.decode(free.token_ids or ())[9:13]
            stopped = await backend.complete(prompt, CompletionSampling(temperature=0.0, max_tokens=24, stop=(stop,)))
        await backend.aclose()
        return free, stopped, stop

    free, stopped, stop = asyncio.run(play())
    assert free.token_ids is not None
    assert stopped.token_ids is not None
    assert stopped.finish_reason == "stop"
    text = policy.codec.decode(free.token_ids)
    assert stopped.text == text[: text.index(stop) + len(stop)]
    # The ids are whole tokens: their text reaches the end of the stop string, and may reach past it.
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]
    assert policy.codec.decode(stopped.token_ids).startswith(stopped.text)
    assert stop not in policy.codec.decode(stopped.token_ids[:-1])


def test_transformers_model_on_the_same_weights(policy: Policy) -> None:
    async def play() -> list[tuple[list[int], Generation, float, float]]:
        backend = TransformersModel(policy.model, policy.tokenizer, name="smollm2")
        prompts = [policy.codec.encode_prompt(text) for text in PROMPTS]
        async with asyncio.timeout(240):
            generations = await asyncio.gather(
                *(
                    backend.complete(
                        prompt, CompletionSampling(temperature=temperature, top_p=top_p, max_tokens=24, seed=seed)
                    )
                    for seed, prompt in enumerate(prompts)
                    for temperature, top_p in SETTINGS
                )
            )
        await backend.aclose()
        settings = [(prompt, *setting) for prompt in prompts for setting in SETTINGS]
        return [(p, g, t, top_p) for (p, t, top_p), g in zip(settings, generations, strict=True)]

    largest = [differences(policy, *row) for row in asyncio.run(play())]
    print(f"TransformersModel against a plain forward: largest difference of a log-probability {max(largest):.2e}")
    assert max(largest) < TOLERANCE


@pytest.fixture(scope="module")
def engine(model_folder: Path, policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an in-process engine answered, in a process of its own: it brings a process, signal handlers, torch threads."""
    folder = tmp_path_factory.mktemp("engine")
    requests: list[dict[str, Any]] = [
        {
            "ids": policy.codec.encode_prompt(text),
            "sampling": {"temperature": temperature, "top_p": top_p, "max_tokens": 32, "seed": seed},
        }
        for temperature, top_p in SETTINGS
        for seed, text in enumerate(PROMPTS)
    ]
    messages = [{"role": m.role, "content": m.content} for m in CHAT]
    sampling = {"temperature": 1.0, "max_tokens": 32, "seed": 3, "logprobs": True}
    requests.append({"messages": messages, "sampling": sampling})
    requests.append({"messages": messages, "sampling": {"max_tokens": 32, "logprobs": True, "stop": [" "]}})
    (folder / "requests.json").write_text(json.dumps(requests))
    script = str(Path(__file__).with_name("engine_answers.py"))
    paths = [str(model_folder), str(folder / "requests.json"), str(folder / "answers.json")]
    run_kept([sys.executable, script, *paths], folder / "log", timeout=400)
    if not (folder / "answers.json").exists():
        raise RuntimeError(f"the engine gave no answers:\n{(folder / 'log').read_text(errors='replace')[-3000:]}")
    answers: dict[str, Any] = json.loads((folder / "answers.json").read_text())
    return {"requests": requests, **answers}


def test_the_engine_samples_from_the_distribution_that_transformers_computes(
    engine: dict[str, Any], policy: Policy
) -> None:
    print(f"in-process engine ready after {engine['start_seconds']:.0f} s")
    generations = [Generation(**{**row, "usage": None}) for row in engine["generations"]]
    largest = []
    for request, generation in zip(engine["requests"][:-1], generations[:-1], strict=True):
        sampling = request["sampling"]
        prompt = request.get("ids") or policy.tokenizer.apply_chat_template(
            request["messages"], add_generation_prompt=True, return_dict=False
        )
        largest.append(differences(policy, prompt, generation, sampling["temperature"], sampling.get("top_p", 1.0)))
    print(f"engine against transformers: largest difference of a log-probability {max(largest):.2e}")
    assert max(largest) < TOLERANCE
    for row, first in zip(engine["again"], engine["generations"], strict=False):
        assert row["token_ids"] == first["token_ids"]
    greedy = generations[-1]
    assert " " not in greedy.text
    assert greedy.finish_reason == "stop"
    assert " " in policy.codec.decode(greedy.token_ids or ())
    assert set(greedy.logprobs or ()) == {0.0}


def test_the_engine_aborts_what_is_cancelled_refuses_what_is_too_long_and_closes(engine: dict[str, Any]) -> None:
    assert engine["cancelled"] == "CancelledError"
    assert engine["unfinished"] == 0
    for name, words in (("too_long", "1024"), ("outliving", "closed"), ("late", "closed")):
        assert str(engine[name]).startswith("ServiceError(transient=False)"), name
        assert words in str(engine[name])
