"""TRL's `GRPOTrainer` on an environment with helpers: a policy that fails alone learns from the replies to do without them.

    python examples/trl_aipo.py                    # with the AGENT term: the embedded policy, on a CPU, in minutes
    python examples/trl_aipo.py --agent-loss mask  # replies masked, as in every other trainer: nothing is learnt alone

It needs the extra "trl". docs/guides/trl.md says what else there is.
"""

from __future__ import annotations

import argparse
import os

import torch
from transformers import PrinterCallback
from trl import GRPOConfig

from algorithms.adapters.trl import AIPOTrainer
from algorithms.config import ObjectiveConfig
from algorithms.policies import load_policy


def main() -> None:
    """Trains, and says what the policy can do alone before and after."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--agent-loss", default="aipo", help="aipo, mask, clone, is or luffy")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--out", default="runs/trl")
    parser.add_argument("--eval-tasks", type=int, default=200)
    options = parser.parse_args()
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # TRL warns that `rollout_func` may change; its version is pinned
    torch.set_num_threads(1)  # more cost more than they bring a policy of 0.3 M parameters
    policy = load_policy("embedded")
    args = GRPOConfig(
        output_dir=options.out,
        max_steps=options.steps,
        per_device_train_batch_size=64,
        gradient_accumulation_steps=4,  # 32 problems x 8 rollouts in a step
        num_generations=8,
        num_iterations=2,
        max_completion_length=48,
        scale_rewards="none",
        epsilon_high=0.28,
        learning_rate=3e-4,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=10,
        adam_beta2=0.95,
        num_generations_eval=1,
        per_device_eval_batch_size=100,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    agent_weight = {} if options.agent_loss == "mask" else {"agent_weight": 2.0}
    trainer = AIPOTrainer(
        policy.model,
        "rulebook-consult",
        args,
        objective=ObjectiveConfig(agent_loss=options.agent_loss, **agent_weight),
        env_options={"level": 2, "operators": "@", "style": "terse", "prompt": "bare", "max_reply_chars": 40},
        eval_tasks=range(options.eval_tasks),  # of the split "test"
        processing_class=policy.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    print(f"alone, before: {trainer.evaluate()['eval_reward']:.3f}", flush=True)
    trainer.train()
    print(f"alone, after: {trainer.evaluate()['eval_reward']:.3f}", flush=True)


if __name__ == "__main__":
    main()
