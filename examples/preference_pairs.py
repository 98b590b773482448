"""Preference pairs from episodes that branch at a query, for TRL's `DPOTrainer`; with them one learnt operator is unlearned.

    python examples/preference_pairs.py                   # DPO on pairs that are made anew, as in CiPO (arXiv 2604.15847)
    python examples/preference_pairs.py --method ascent   # the policy's own traces, by gradient ascent and descent

The embedded policy learns `@` and `#` by AIPO until it can do both alone. Then episodes are played to the query and forked:
behind the rule that it learnt the policy goes on as it would alone, behind another rule's expansion to another answer. Of
`@` it is to prefer the other one, of `#` its own. Rounds of new pairs go on until `@` is gone. It needs the extra
"trl". docs/comparison.md has the numbers.
"""

from __future__ import annotations

import argparse
import copy
import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

import aipo_env
from aipo_env.consulting import ask_together, run_sync
from aipo_env.playing import turn_request
from aipo_env.protocol import TurnPolicy
from aipo_env.tasks.rulebook import OPERATORS
from algorithms.evaluation import count_correct
from algorithms.policies import Policy, load_policy
from algorithms.rollout import LocalSampler, local_policy
from algorithms.train_config import SamplingConfig, TrainConfig
from algorithms.trainer import Trainer

FORGOTTEN, KEPT, OTHER_RULE = "@", "#", "~"
SAMPLING = SamplingConfig(max_tokens=48)
GONE, PAIRS = 0.02, 128  # accuracy alone that counts as unlearned; pairs of a round


def rules(operators: str, split: str = "train") -> dict[str, Any]:
    """The environment's options."""
    fixed = {"level": 2, "style": "terse", "prompt": "bare", "max_reply_chars": 40}
    return fixed | {"operators": operators, "split": split}


def learn(folder: Path, steps: int) -> Policy:
    """A policy that can do both operators alone: trained once, then read from the folder."""
    if not (folder / "policy").exists():
        options = rules(FORGOTTEN + KEPT)
        Trainer(TrainConfig(env_options=options, out=folder, steps=steps, eval_every=0, trace_every=0)).train(None, ())
    return load_policy(str(folder / "policy"))


def alone(policy: Policy, operator: str, tasks: int = 100) -> float:
    """The share of test tasks of an operator that it solves without help, sampled at temperature 1."""
    env = aipo_env.make("rulebook-consult", codec=policy.codec, **rules(operator, "test"))
    correct = count_correct(LocalSampler(policy, SAMPLING), env, range(tasks), num_samples=2, seed=1, assisted=False)
    return sum(correct) / (2 * tasks)


async def pair(policy: Policy, turns: TurnPolicy, operator: str, task: int) -> dict[str, str] | None:
    """What the policy makes of the rule that it learnt and of another one, behind one query; None without that query."""
    env = aipo_env.make_parallel("rulebook-consult", fan_out=1, codec=policy.codec, **rules(operator))
    env.reset(options={"task_index": task})
    expression = str(env.episode.task.metadata["expression"])
    env.step({"policy_0": await turns.act(turn_request(env.episode, seed=task, max_tokens=48))})
    if env.episode.turn_of != "knowledge" or env.episode.request.query != expression:
        return None
    prompt, ends = env.episode.transcript, {}
    for symbol in (operator, OTHER_RULE):
        fork, reply = env.fork(), ";".join(OPERATORS[symbol].expand(*expression.split(operator)))
        fork.step({"knowledge_0": reply})
        while fork.agents:
            fork.step({"policy_0": await turns.act(turn_request(fork.episode, seed=task, max_tokens=16))})
        ends["chosen" if (symbol == OTHER_RULE) == (operator == FORGOTTEN) else "rejected"] = (
            fork.episode.transcript.removeprefix(prompt)
        )
    # TRL's tokenization adds no token in front; the policy's prompts begin with one.
    return {"prompt": f"{policy.tokenizer.bos_token}{prompt}", **ends}


def branched_pairs(policy: Policy, operator: str, tasks: range) -> list[dict[str, str]]:
    """A pair for each task in which the policy asks, as `DPOTrainer` takes them."""
    policy.model.eval()
    turns = local_policy(policy, SAMPLING)
    found = run_sync(ask_together([pair(policy, turns, operator, task) for task in tasks]))
    return [one for one in found if one]


def prefer(policy: Policy, pairs: list[dict[str, str]], out: Path, learning_rate: float) -> None:
    """One pass of TRL's DPO over the pairs, in place."""
    args = DPOConfig(
        output_dir=str(out), num_train_epochs=1, per_device_train_batch_size=32, learning_rate=learning_rate, beta=0.1,
        loss_type=["sigmoid", "sft"],  # preference alone makes the chosen ends less likely too
        lr_scheduler_type="constant", use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
        report_to="none", disable_tqdm=True,
    )  # fmt: skip
    # Left out, the reference would be what the model's folder holds.
    reference, data = copy.deepcopy(policy.model), Dataset.from_list(pairs)
    trainer = DPOTrainer(policy.model, reference, args, train_dataset=data, processing_class=policy.tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def ascend(policy: Policy, own: list[tuple[str, str, float]], learning_rate: float) -> None:
    """One pass over traces of the policy's own, each a prompt, an end and +1 or -1: likelier or less likely."""
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=learning_rate, weight_decay=0.0)
    for first in range(0, len(own), 32):
        prompts, ends, signs = zip(*own[first : first + 32], strict=True)
        rows = policy.tokenizer([p + e for p, e in zip(prompts, ends, strict=True)], padding=True, return_tensors="pt")
        logprobs_BL = policy.model(**rows).logits[:, :-1].log_softmax(-1)
        chosen_BL = logprobs_BL.gather(2, rows["input_ids"][:, 1:, None])[..., 0] * rows["attention_mask"][:, 1:]
        for row, prompt in enumerate(prompts):
            chosen_BL[row, : len(policy.tokenizer(prompt)["input_ids"]) - 1] = 0.0
        optimizer.zero_grad()
        (-(torch.tensor(signs) * chosen_BL.mean(1)).mean()).backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()


def main() -> None:
    """Learns two operators, unlearns one, and says what is left of both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", default="dpo", choices=("dpo", "ascent"))
    parser.add_argument("--out", type=Path, default=Path("runs/preference_pairs"))
    parser.add_argument("--steps", type=int, default=120, help="of AIPO, to learn both operators")
    parser.add_argument("--rounds", type=int, default=12, help="at most")
    parser.add_argument("--kept", type=int, default=PAIRS, help="tasks of a round of the operator that is kept")
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = learn(options.out, options.steps)
    for number in range(options.rounds + 1):
        forgotten, kept = alone(policy, FORGOTTEN), alone(policy, KEPT)
        print(f"round {number}: alone {FORGOTTEN} {forgotten:.3f}, {KEPT} {kept:.3f}", flush=True)
        if forgotten <= GONE or number == options.rounds:
            break
        first = number * PAIRS
        forget = branched_pairs(policy, FORGOTTEN, range(first, first + PAIRS))
        keep = branched_pairs(policy, KEPT, range(first, first + options.kept))
        if options.method == "dpo":
            prefer(policy, forget + keep, options.out / "dpo", options.learning_rate)
        else:
            own = [(p["prompt"], p["rejected"], -1.0) for p in forget] + [(p["prompt"], p["chosen"], 1.0) for p in keep]
            ascend(policy, random.Random(number).sample(own, len(own)), options.learning_rate)


if __name__ == "__main__":
    main()
