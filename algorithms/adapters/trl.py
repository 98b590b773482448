"""TRL's `GRPOTrainer` (1.16.0) on an environment with helpers, with the AGENT term.

TRL's configuration decides what happens to POLICY tokens; to TRL everything else in a completion is what a tool returned.
The AGENT term is added to its loss, on the log-probabilities of the same forward pass. TRL generates as it always does
(transformers, vLLM); the episode says where a turn ends. What is refused, and why: docs/guides/trl.md.

Dimensions: B completions of one process, C their longest number of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object  # type: ignore[import-untyped]
from datasets import Dataset
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from aipo_agents.backends.tokenizing import stop_ids
from aipo_env import Source, Trajectory, require_training_split, sample_advantages, to_training_sample
from aipo_env.errors import ConfigurationError
from aipo_env.groups import num_solo
from aipo_env.lockstep import Generated, play_rows
from aipo_env.registry import make_game
from algorithms.agent_term import agent_term
from algorithms.codec import TransformersCodec
from algorithms.config import ObjectiveConfig, check_modes, check_own_fields
from algorithms.objective import combine_metrics
from algorithms.trainer import rollout_metrics


class AIPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """Trains a policy that may ask for help while it explores.

    Args:
        model: as for `GRPOTrainer`.
        env: environment id; the solo rollouts of a group use the same tasks and the same prompt.
        args: TRL's configuration. `max_completion_length` counts the tokens behind the prompt, helpers' replies included.
        objective: the AGENT term and the baselines; its fields for POLICY tokens stay at their defaults.
        solo_share: share of each group of `num_generations` that is rolled out without help.
        env_options: options of `aipo_env.make`, `agents` among them.
        tasks: indices of the training tasks; None for all, of an endless family the first million.
        eval_tasks: indices of tasks of the split "test", which `evaluate` plays without help.
        allow_test_split: trains even on a split that is for evaluation.
        processing_class: the tokenizer, a fast one; None for the model's.
        options: further arguments of `GRPOTrainer`: callbacks, optimizers, peft_config, quantization_config.

    Raises:
        ConfigurationError: for settings that would be wrong, or read by nobody, with the reason.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        env: str,
        args: GRPOConfig,
        *,
        objective: ObjectiveConfig | None = None,
        solo_share: float = 0.5,
        env_options: Mapping[str, Any] | None = None,
        tasks: Sequence[int] | None = None,
        eval_tasks: Sequence[int] = (),
        allow_test_split: bool = False,
        processing_class: PreTrainedTokenizerFast | None = None,
        **options: Any,
    ) -> None:
        self.objective, self.solo_share = objective or ObjectiveConfig(), solo_share
        _check(args, self.objective, solo_share)
        tokenizer = processing_class or AutoTokenizer.from_pretrained(getattr(model, "name_or_path", model))
        codec = TransformersCodec(tokenizer, () if isinstance(model, str) else stop_ids(model.generation_config))
        made = {**(env_options or {}), "codec": codec}
        self.games = {True: make_game(env, **made)}
        if eval_tasks:
            self.games[False] = make_game(env, **made | {"split": "test"})
        family = self.games[True].tasks
        require_training_split(family, env, allow_test_split=allow_test_split)
        drawn = range(family.num_tasks or 1_000_000) if tasks is None else tasks
        self.trajectories: list[Trajectory] = []
        """This process's rollouts of the last batch."""
        super().__init__(
            model,
            environment,
            args,
            Dataset.from_dict({"task": drawn}),
            Dataset.from_dict({"task": eval_tasks}) if eval_tasks else None,
            processing_class=tokenizer,
            rollout_func=lambda prompts, trainer: trainer._roll_out(),
            **options,
        )
        self._ends = codec.eos_ids.union(self.eos_token_ids)  # type: ignore[has-type]
        # Generation may stop where a consult ends; a turn without help goes on behind it.
        marker = codec.encode_tag(closing := self.games[True].dialect.closing or "")
        self.eos_token_ids = sorted(self._ends.union(marker if len(marker) == 1 else ()))
        if self.use_vllm:
            strings = {"stop": [closing], "include_stop_str_in_output": True} if closing else {}
            self.vllm_generation.generation_kwargs |= {"stop_token_ids": self.eos_token_ids, **strings}
        else:
            self.generation_kwargs["eos_token_id"] = self.generation_config.eos_token_id = self.eos_token_ids

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        self._game, self._tasks = self.games[self.model.training], [row["task"] for row in inputs]
        self._first = self.accelerator.process_index * len(inputs)
        rows = [{**row, "prompt": self._game.task(row["task"]).problem} for row in inputs]
        batch: dict[str, Tensor] = super()._generate_and_score_completions(rows)
        for name, value in rollout_metrics(self.trajectories).items():
            if name != "reward":  # TRL has that one
                self._metrics["train" if self.model.training else "eval"][name].append(value)
        policy_S, agent_S = sample_advantages(
            gather_object(self._samples),  # type: ignore[has-type]
            "mean" if self.scale_rewards == "none" else "mean_std",
            policy_baseline=self.objective.policy_baseline,
            agent_baseline=self.objective.agent_baseline,
            self_imitation=self.objective.imitation,
        )
        mask_BC = batch["completion_mask"].bool()
        agent_BC, mu_BC = torch.zeros_like(mask_BC), torch.zeros_like(mask_BC, dtype=torch.float32)
        for row, sample in enumerate(self._samples):  # type: ignore[has-type]
            sources, mu = sample.sources[sample.completion], sample.mu_logprobs[sample.completion]
            agent_BC[row, : len(sources)] = torch.from_numpy(sources == Source.AGENT)
            mu_BC[row, : len(mu)] = torch.from_numpy(mu)
        batch |= {"agent_mask": agent_BC & mask_BC, "mu_logprobs": mu_BC}
        for name, advantages_S in {"advantages": policy_S, "agent_advantages": agent_S}.items():
            batch[name] = torch.from_numpy(advantages_S[self._first :][: len(inputs)]).to(mask_BC.device)
        return batch

    def _roll_out(self) -> dict[str, list[Any] | None]:
        """Plays an episode for each row of the batch; what TRL asks of a `rollout_func`."""
        training, limit = self.model.training, self.max_completion_length
        size = self.num_generations if training else self.num_generations_eval
        self.trajectories = play_rows(
            self._game,
            self._tasks,
            self._continue,
            group_size=size,
            num_solo=num_solo(self.solo_share, size) if training else size,
            max_tokens=limit,
            eos_ids=self._ends,
            seed=self.args.seed,
            epoch=self.state.global_step,
            first=self._first,
            everywhere=lambda running: max(gather_object([running])),
        )
        samples = [to_training_sample(t, t.segments[0].num_tokens + limit) for t in self.trajectories]
        self._samples, rows = samples, [(s, s.completion) for s in samples]
        # TRL takes no empty completion: what a fault cut is an end token that bears no loss.
        return {
            "prompt_ids": [s.token_ids[: s.prompt_length].tolist() for s in samples],
            "completion_ids": [s.token_ids[c].tolist() or self.eos_token_ids[:1] for s, c in rows],
            "env_mask": [(s.sources[c] == Source.POLICY).tolist() or [False] for s, c in rows],
            "logprobs": [s.logprobs[c].tolist() or [0.0] for s, c in rows] if self.use_vllm else None,
            "reward": [None if s.faulted else s.reward for s in samples],
        }

    def _continue(self, contexts: list[list[int]], max_tokens: int) -> Generated:
        if self.use_vllm:
            self.vllm_generation.max_completion_length = max_tokens
        else:
            self.generation_kwargs["max_new_tokens"] = self.generation_config.max_new_tokens = max_tokens
        return self._generate_single_turn(contexts, None, {}, num_generations=1)  # type: ignore[no-any-return]

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._logprobs_BC = found[0]
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)
        new_BC, agent_BC = self._logprobs_BC, inputs["agent_mask"]
        old_BC = inputs.get("old_per_token_logps", new_BC)
        advantages_BC = inputs["agent_advantages"][:, None].expand_as(new_BC)
        term, sums = agent_term(new_BC, old_BC, advantages_BC, inputs["mu_logprobs"], agent_BC, self.objective)
        for name, value in combine_metrics([sums]).items():
            self._metrics["train"][name].append(value)
        # N: the policy's tokens of the whole optimizer step, as TRL divides its own sums; TRL counts those generated at once.
        parts = self.current_gradient_accumulation_steps if self.model.training else 1
        if self.loss_type == "dr_grpo":
            return loss + term / (len(agent_BC) * self.max_completion_length * parts)  # type: ignore[no-any-return]
        count = inputs["num_items_in_batch"].clamp(min=1.0) / self.args.steps_per_generation
        return loss + term * self.accelerator.num_processes / (count * parts)  # type: ignore[no-any-return]


def environment(reward: list[float | None], **_: object) -> list[float | None]:
    """The reward, which came with the rollout; TRL logs it under this name."""
    return reward


def _check(args: GRPOConfig, objective: ObjectiveConfig, solo_share: float) -> None:
    for wrong, why in (
        (args.scale_rewards == "batch", "scale_rewards='batch' has no counterpart for replies; use 'group' or 'none'"),
        (args.multi_objective_aggregation != "sum_then_normalize", "multi_objective_aggregation has one reward: leave it out"),
        (args.remove_unused_columns, "remove_unused_columns would remove the tasks: leave it out"),
        (not 0 <= solo_share <= 1, f"solo_share is a share between 0 and 1, got {solo_share}"),
    ):  # fmt: skip
        if wrong:
            raise ConfigurationError(f"{why}.")
    check_own_fields(objective, "POLICY tokens obey GRPOConfig (loss_type, epsilon, beta). Set it there.")
    names = ("num_generations", "solo_share", "objective.policy_baseline")
    check_modes(objective, args.num_generations, num_solo(solo_share, args.num_generations), names)
