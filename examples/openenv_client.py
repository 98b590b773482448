"""OpenEnv's own client plays an environment with helpers, several episodes at the same time.

    aipo serve rulebook-consult --port 8000 --env-options level 2 &
    python examples/openenv_client.py --url http://127.0.0.1:8000

It needs the extra "openenv" here and there; a client elsewhere needs openenv-core alone. The policy is a stand-in: it asks
once, and answers with the last number that it was told. docs/guides/openenv.md says what else there is.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from typing import Any

from openenv.core import GenericEnvClient


def policy(seen: dict[str, Any]) -> str:
    """The next turn: a question to a helper where one may be asked and none was, else an answer."""
    if any(seen["consult_mask"]) and not seen["num_consults"]:
        return '<consult agent="knowledge">Which rule does this operator follow?</consult>'
    told = re.findall(r"\d+", "".join(s["text"] for s in seen["segments"] if s["source"] == "agent"))
    return f"\\boxed{{{told[-1] if told else 0}}}"


async def play(url: str, task: int) -> None:
    """One session, one episode."""
    async with GenericEnvClient(base_url=url) as env:
        result = await env.reset(seed=task, task_index=task)
        rewards = []
        while not result.done:
            result = await env.step({"text": policy(result.observation)})
            rewards.append(result.reward)
    seen = result.observation
    print(f"{seen['task_id']}: {seen['num_consults']} consults, {seen['verdict']}, rewards {rewards}", flush=True)


async def main() -> None:
    """Plays the first tasks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--tasks", type=int, default=8)
    options = parser.parse_args()
    await asyncio.gather(*(play(options.url, task) for task in range(options.tasks)))
    print("(the stand-in's answers are guesses: wrong is what to expect)")


if __name__ == "__main__":
    asyncio.run(main())
