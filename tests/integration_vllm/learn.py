"""The demo's AIPO run with a sampler of choice; vLLM's CPU attention takes the embedded policy with heads of 32 dimensions.

    python -m tests.integration_vllm.learn local --seed 0     # or vllm, or http://127.0.0.1:8000/v1

For a server: `VLLM_SERVER_DEV_MODE=1 vllm serve runs/learn/start --dtype float32 --enforce-eager --max-model-len 256
--no-enable-chunked-prefill --logprobs-mode processed_logprobs --generation-config vllm`; the folder is made by the other two.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import torch

from algorithms.demo import demo_config
from algorithms.trainer import Trainer
from tests.integration_openrlhf.checkpoint import write_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sampler")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/learn"))
    given = parser.parse_args()
    start = given.out / "start"
    if not (start / "model.safetensors").exists():
        write_checkpoint(start)
    torch.set_num_threads(1)
    name = "server" if "/" in given.sampler else given.sampler
    config = dataclasses.replace(
        demo_config("aipo", given.out, seed=given.seed, steps=given.steps), out=given.out / f"{name}-{given.seed}",
        policy=str(start), sampler=given.sampler, engine_args={"max_model_len": 256} if name == "vllm" else {}, eval_samples=2,
        eval_tasks=100,
    )  # fmt: skip
    trainer, begun = Trainer(config), time.process_time()
    try:
        row = trainer.train(trackers=())[-1]
    finally:
        trainer.close()
    print(
        {key: value for key, value in row.items() if key.startswith("eval/")},
        f"{time.process_time() - begun:.0f} CPU s",
    )


if __name__ == "__main__":
    main()
