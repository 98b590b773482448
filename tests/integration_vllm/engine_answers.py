"""Asks an in-process `VLLMEngine` a few things and writes the answers as JSON; run as a process of its own.

Usage: engine_answers.py MODEL_FOLDER REQUESTS.json ANSWERS.json
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from aipo_agents.backends import ChatSampling, CompletionSampling, Generation, Message, VLLMEngine
from aipo_env import ServiceError


async def ask(engine: VLLMEngine, requests: list[dict[str, Any]]) -> dict[str, object]:
    """All requests at once, then a cancelled one, one that is too long, one that outlives the engine, one that is late."""

    async def one(request: dict[str, Any]) -> Generation:
        options = {**request["sampling"], "stop": tuple(request["sampling"].get("stop", ()))}
        if "messages" in request:
            return await engine.chat([Message(**m) for m in request["messages"]], ChatSampling(**options))
        return await engine.complete(request["ids"], CompletionSampling(**options))

    generations = await asyncio.gather(*map(one, requests))
    # Alone, each of them gives the same ids again.
    again = [await one(request) for request in requests[:3]]
    ids, endless = list(range(400, 420)), CompletionSampling(max_tokens=900, seed=1)
    running = asyncio.create_task(engine.complete(ids, endless))
    await asyncio.sleep(1.0)
    running.cancel()
    outcome = (await asyncio.gather(running, return_exceptions=True))[0]
    deadline = time.monotonic() + 20
    while engine.unfinished_requests and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    unfinished = engine.unfinished_requests

    async def refusal(prompt: list[int]) -> str:
        try:
            await engine.complete(prompt, endless)
        except ServiceError as error:
            return f"ServiceError(transient={error.transient}): {error}"
        return "none"

    too_long = await refusal(ids * 100)
    outliving = asyncio.create_task(refusal(ids))
    await asyncio.sleep(1.0)
    await engine.aclose()
    await engine.aclose()
    return {
        "generations": [dataclasses.asdict(generation) for generation in generations],
        "again": [dataclasses.asdict(generation) for generation in again],
        "cancelled": type(outcome).__name__,
        "unfinished": unfinished,
        "too_long": too_long,
        "outliving": await asyncio.wait_for(outliving, 30),
        "late": await refusal(ids),
    }


def main() -> None:
    model, requests, answers = sys.argv[1:]
    started = time.monotonic()
    engine = VLLMEngine(
        model, name="smollm2", dtype="float32", enforce_eager=True, max_model_len=1024, max_num_seqs=8, block_size=32
    )
    seconds = time.monotonic() - started
    result = asyncio.run(ask(engine, json.loads(Path(requests).read_text())))
    Path(answers).write_text(json.dumps({**result, "start_seconds": seconds}))


if __name__ == "__main__":
    main()
