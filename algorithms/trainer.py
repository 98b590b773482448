"""The single-machine trainer: rollouts, advantages, objective, AdamW.

Everything random is a function of (seed, step): a run that was cut and resumed takes the same tasks, samples and
updates as one that was not, to the bit; where something keeps rollouts waiting, up to rounding (`algorithms/rollout.py`).
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

import aipo_env
from aipo_env.advantages import Floats, informative_groups, sample_advantages
from aipo_env.dialects.base import TokenCodec
from aipo_env.errors import ConfigurationError
from aipo_env.leaks import HELD_BACK
from aipo_env.make_options import AgentLike
from aipo_env.registry import env_spec, parse_agents
from aipo_env.tasks.curriculum import Curriculum
from aipo_env.trace_files import FAULTS
from aipo_env.training_sample import TrainingSample, to_training_sample
from aipo_env.training_split import evaluation_env, require_other_rows
from aipo_env.trajectory import Source, Trajectory
from algorithms import batch as batches
from algorithms.checkpoint import checkpoint_path, list_checkpoints, load_checkpoint, save_checkpoint
from algorithms.evaluation import evaluate
from algorithms.logprobs import token_logprobs
from algorithms.memory_plan import explained
from algorithms.objective import combine_metrics, objective_loss
from algorithms.packing import require_packing
from algorithms.policies import Policy, load_policy
from algorithms.policies.adapters import add_adapter, remove_adapter, without_adapter
from algorithms.policies.loading import default_learning_rate, in_bfloat16, warn_unreadable
from algorithms.precision import TrainedWeights, make_optimizer, recomputing, rounding, set_learning_rate
from algorithms.reply_credit import credit_metrics, credit_replies
from algorithms.rollout import LocalSampler
from algorithms.run_folder import (
    CHECKPOINTS,
    METRICS,
    TRACES,
    claim,
    locked,
    note_training_data,
    replace,
    write_whole,
    writing,
)
from algorithms.run_health import PREFIX, best_step, find_problems
from algorithms.token_weights import record_agent_logprobs
from algorithms.trackers import TraceTracker, Tracker, open_trackers
from algorithms.train_config import TrainConfig
from algorithms.versions import note_versions

log = logging.getLogger("algorithms")

Metrics = dict[str, float]
_TASKS, _SAMPLING, _ROUNDING = range(3)


class Trainer:
    """Trains a policy on an environment.

    Args:
        config: the run.
        policy: overrides `config.policy` with a loaded one; it is trained in place.
        agents: overrides the helpers of the environment, as in `aipo_env.make`.
        codec: the tokenizer of who plays, where that is not the trained policy.
    """

    judged_by = "eval/solo_pass1"
    """The metric of the evaluations by which the best policy of a run is known."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        policy: Policy | None = None,
        agents: Mapping[str, AgentLike] | None = None,
        codec: TokenCodec | None = None,
    ) -> None:
        with_masters = not config.lora.rank and config.optimizer != "adamw8bit_stochastic"
        if policy is None:
            policy = load_policy(config.policy, config.device, dtype="float32" if with_masters else config.dtype)
        self.policy = policy
        self.model = self.policy.model
        self.learning_rate = config.learning_rate or default_learning_rate(self.policy, adapter=config.lora.rank > 0)
        self.config = config = dataclasses.replace(config, learning_rate=self.learning_rate)
        self.objective = config.objective
        if config.sampler != "local" and config.objective.rollout_clip is None:
            # The engine rounds otherwise than the learner: its samples are a little off-policy.
            self.objective = dataclasses.replace(config.objective, rollout_clip=(0.0, 2.0))
        if agents is None and config.agents:
            agents = parse_agents(config.agents)
        options: dict[str, Any] = dict(config.env_options) | ({} if agents is None else {"agents": agents})
        if config.ever_assisted and not env_spec(config.env).assisted:
            raise ConfigurationError(
                f"{config.env} is solo, but solo_share={config.solo_share} asks for assisted rollouts. Use the id that ends in "
                "'-consult', or solo_share=1."
            )
        self.env = aipo_env.make(config.env, codec=codec or self.policy.codec, **options)
        warn_unreadable(self.env.codec, self.env)
        aipo_env.require_training_split(self.env.tasks, config.env, allow_test_split=config.allow_test_split)
        evaluated = env_spec(config.eval_env or config.env)
        if evaluated.splits and "test" not in evaluated.splits:
            raise ConfigurationError(
                f"evaluation needs tasks that are not trained on, and {evaluated.id} has no split 'test'. Name another "
                "environment with eval_env, such as math500-consult."
            )
        self.sampler = _make_sampler(config, self.policy)
        self.curriculum = Curriculum(
            config.curriculum, self.env.tasks, max_solo_rate=config.max_solo_rate, rates=config.rates
        )
        if config.lora.rank:
            add_adapter(self.policy, config.lora, config.seed)
        bfloat16 = in_bfloat16(config.dtype, self.policy.tiny, config.device)
        if config.optimizer == "adamw8bit_stochastic" and not bfloat16:
            raise ConfigurationError(
                f'optimizer={config.optimizer!r} is for bf16 weights, and dtype="auto" is fp32 for {self.policy.name} on '
                f'{config.device}; set dtype="bfloat16".'
            )
        self.weights = TrainedWeights(self.model, bfloat16=bfloat16, with_masters=with_masters)
        if not self.weights.masters:
            raise ConfigurationError(
                f"a policy needs parameters that are trained, but all of {self.policy.name} are frozen (requires_grad=False); "
                "unfreeze some."
            )
        if config.packing:
            require_packing(self.policy)
        self._reference: torch.nn.Module | None = None
        """What the policy began with; below an adapter it is still there."""
        if config.objective.kl_coef > 0:
            self._reference = self.model if config.lora.rank else copy.deepcopy(self.model).requires_grad_(False).eval()
        self.optimizer = make_optimizer(config, self.weights)
        self.settings: dict[str, Any] = dataclasses.asdict(config)
        """What a run that goes on in the same folder has to have as well, and trackers are told."""
        self.step = 0
        """Optimizer batches done."""
        self.num_rollouts = 0
        """Rollouts made for training, those that dynamic sampling left out included."""
        self.seconds = 0.0
        """Time spent in `train`, over all its parts if the run was resumed."""
        self.history: list[Metrics] = []
        """One row of metrics per step; after `train` the first is that of step 0, an evaluation alone."""
        self.finished = False
        """Whether `train` came to the end of the run."""

    # -- one step ---------------------------------------------------------------------------------------------------

    def train_step(self) -> tuple[Metrics, list[Trajectory]]:
        """One batch of rollouts and the update(s) on it; returns metrics and the trajectories."""
        started = time.perf_counter()
        with explained(self.config, self.model, self.env):
            trajectories = self.collect()
            sampled = time.perf_counter()
            metrics = self.update(trajectories)
        finished = time.perf_counter()
        self.step += 1
        self.num_rollouts += len(trajectories)
        metrics |= self.metrics_of(trajectories) | self.curriculum.metrics()
        metrics |= {
            "step": self.step,
            "rollouts": self.num_rollouts,
            "seconds/rollout": sampled - started,
            **self.sampler.metrics(),
            "seconds/update": finished - sampled,
        }
        self.history.append(metrics)
        return metrics, trajectories

    def collect(self) -> list[Trajectory]:
        """The rollouts of this step; with dynamic sampling, groups without signal are replaced by groups of further prompts.

        Those that are left out count in `num_rollouts` as well.
        """
        config = self.config
        kept: list[Trajectory] = []
        made = 0
        for attempt in range(1 + config.dynamic_sampling):
            fresh = self._rollout(attempt)
            self._observe(fresh)
            if config.dynamic_sampling == 0:
                return fresh
            made += len(fresh)
            keep = informative_groups([t.reward for t in fresh], [t.group for t in fresh]).tolist()
            num_groups = len(kept) // config.samples_per_prompt
            wanted = [t for t, k in zip(fresh, keep, strict=True) if k]
            for offset in range(0, len(wanted), config.samples_per_prompt):
                if num_groups < config.prompts_per_step:
                    group = wanted[offset : offset + config.samples_per_prompt]
                    kept += [dataclasses.replace(t, group=num_groups) for t in group]
                    num_groups += 1
            if num_groups == config.prompts_per_step:
                break
        chosen = kept or fresh
        self.num_rollouts += made - len(chosen)
        return chosen

    def update(self, trajectories: Sequence[Trajectory]) -> Metrics:
        """The optimizer steps on one batch; episodes that a fault cut are left out, since their rewards say nothing."""
        config = self.config
        trajectories = [t for t in trajectories if t.stop_reason not in FAULTS]
        samples = [to_training_sample(t) for t in trajectories]
        advantages_S, agent_advantages_S = self._advantages(samples)
        normalizer = batches.count_tokens(samples)
        bears_loss = {Source.POLICY} | ({Source.AGENT} if config.objective.agent_loss != "mask" else set())
        replied_S = np.array(
            [Source.AGENT in bears_loss and bool(s.credit[s.sources == Source.AGENT].any()) for s in samples], bool
        )
        # Where the advantage is zero the gradient is: such rows count in the divisors, and cost no pass.
        learns_S = (advantages_S != 0) | ((agent_advantages_S != 0) & replied_S) | (self._reference is not None)
        learns = np.flatnonzero(learns_S).tolist()
        traced = config.trace_every > 0 and (self.step == 0 or (self.step + 1) % config.trace_every == 0)
        parts = batches.micro_batches(
            [samples[i] for i in learns],
            advantages_S[learns],
            config.micro_batch_size,
            pad_id=self.policy.tokenizer.pad_token_id or 0,
            agent_advantages_S=agent_advantages_S[learns],
            device=config.device,
            packing=config.packing,
        )
        # With one update the current policy is the old one: no pass is spent on it.
        old = self._logprobs(self.model, parts) if config.updates_per_batch > 1 else None
        reference = None
        if self._reference is not None:
            with without_adapter(self.model):
                reference = self._logprobs(self._reference, parts)
        self._set_learning_rate()
        sums: list[dict[str, Tensor]] = []
        grad_norm = 0.0
        for update in range(config.updates_per_batch):
            self.weights.zero_gradients()
            with recomputing(self.model, config.recompute):
                for index, part in enumerate(parts):
                    logprobs_T = self._token_logprobs(self.model, part)
                    if traced and update == 0:
                        record_agent_logprobs([trajectories[i] for i in learns], part, logprobs_T.detach())
                    output = objective_loss(
                        logprobs_T,
                        None if old is None else old[index],
                        part.advantages_T,
                        part.sources_T,
                        part.behaviour_logprobs_T,
                        part.sequence_ids_T,
                        self.objective,
                        normalizer=normalizer,
                        reference_logprobs_T=None if reference is None else reference[index],
                    )
                    output.loss.backward()  # type: ignore[no-untyped-call]
                    if update == config.updates_per_batch - 1:
                        sums.append(output.sums)
            grad_norm = float(torch.nn.utils.clip_grad_norm_(self.weights.masters.values(), config.max_grad_norm))
            if not np.isfinite(grad_norm):
                raise FloatingPointError(
                    f"the gradient is not finite at step {self.step + 1}. Lower learning_rate, or check the reward function. "
                    "Nothing was updated; the last checkpoint is intact."
                )
            with rounding(config, self._seed(_ROUNDING, update)):
                self.optimizer.step()
            self.weights.update()
            self.sampler.weights_changed()
        self.weights.drop_gradients()
        metrics = {name: value for name, value in combine_metrics(sums).items() if not name.startswith("tokens/")}
        return metrics | {
            "tokens/trained": 0.0
            + sum(
                float(((part.sources_T == source) & (part.advantages_T != 0)).sum())
                for part in parts
                for source in bears_loss
            ),
            "learning_rows": len(learns) / max(1, len(trajectories)),
            "grad_norm": grad_norm,
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
        }

    # -- the run ----------------------------------------------------------------------------------------------------

    def train(
        self,
        on_step: Callable[[Metrics], None] | None = None,
        trackers: Sequence[str] = ("tensorboard",),
        *,
        on_evaluation: Callable[[int, int], None] = lambda done, total: None,
        on_problem: Callable[[str], None] = log.warning,
        stop: Callable[[], bool] = lambda: False,
        until: int | None = None,
    ) -> list[Metrics]:
        """Runs to `config.steps`, resuming from the newest checkpoint in `config.out` if there is one.

        The policy is evaluated before the first step, every `config.eval_every` steps and at the end. The best one so far, by
        solo accuracy, lies in the folder "best", and its checkpoint stays; the last one lies in the folder "policy".

        Args:
            on_step: called with the metrics of each step, and before the first one with those of step 0.
            trackers: what is told the metrics beside metrics.jsonl (`algorithms.trackers`).
            on_evaluation: called with how many episodes of an evaluation are finished, and how many there are.
            on_problem: told in words when the run begins to go wrong (`algorithms.run_health`).
            stop: asked between steps and between episodes of an evaluation; a run that stops writes a checkpoint, and
                `finished` is False.
            until: the step after which it pauses, as if it had been stopped; None for `config.steps`.

        Returns:
            The history, evaluations included.

        Raises:
            ConfigurationError: when another run writes to the folder, or lies in it.
            DataFormatError: when a file in it is damaged.
            StorageError: when a file cannot be written.
        """
        config, out = self.config, self.config.out
        self.finished = False
        with locked(out):
            with writing(out):
                claim(out, self.settings, begun=bool(list_checkpoints(out / CHECKPOINTS)))
                complete = self.resume(out) and not self._awaits_evaluation()
                note_versions(out, self.step)
                self._note_data(out)
            if not self.history:
                self.history.append({"seconds": 0.0, "step": 0, "rollouts": 0})
            began = time.perf_counter() - self.seconds
            with open_trackers(trackers, out, self.step, self.settings) as tracked:
                try:
                    last = config.steps if until is None else min(until, config.steps)
                    while self.step < last or not complete:
                        if complete:
                            if stop():
                                raise _Stopped
                            _, trajectories = self.train_step()
                            self.history[-1]["seconds"] = self.seconds = time.perf_counter() - began
                            self._trace(out, tracked, trajectories)
                        self._complete_row(out, tracked, on_evaluation, on_problem, stop)
                        complete = True
                        if on_step is not None:
                            on_step(self.history[-1])
                    self.finished = self.step >= config.steps
                except _Stopped:
                    pass
                if not self.finished and self.step and not checkpoint_path(out / CHECKPOINTS, self.step).exists():
                    self._save_checkpoint(out)
            if self.finished and config.steps:
                self._save_policy(out, "policy")
        return self.history

    def metrics_of(self, trajectories: Sequence[Trajectory]) -> Metrics:
        """What a step's rollouts are like."""
        branched = self.config.reply_credit == "branch"
        return rollout_metrics(trajectories) | (credit_metrics(trajectories) if branched else {})

    def evaluate(
        self,
        *,
        num_tasks: int | None = None,
        num_samples: int | None = None,
        on_episode: Callable[[int, int], None] = lambda done, total: None,
    ) -> Metrics:
        """Solo and, where there are helpers, assisted accuracy on the family's test tasks.

        Args:
            num_tasks: of the test tasks; None for `config.eval_tasks`.
            num_samples: of each; None for `config.eval_samples`.
            on_episode: called with how many episodes are finished, and how many there are.
        """
        env, indices = self._eval_env(num_tasks or self.config.eval_tasks)
        # The same tasks and seeds at every evaluation: curves of one run differ by the policy alone.
        return evaluate(
            self.sampler,
            env,
            indices,
            num_samples=num_samples or self.config.eval_samples,
            seed=self.config.seed + 1,
            on_episode=on_episode,
        )

    def close(self) -> None:
        """Ends what `config.sampler` started."""
        self.sampler.close()

    # -- state ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "model": self.weights.state(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "num_rollouts": self.num_rollouts,
            "seconds": self.seconds,
            "history": self.history,
            "curriculum": self.curriculum.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.weights.load_state(state["model"])
        self.sampler.weights_changed()
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.num_rollouts = state["step"], state["num_rollouts"]
        self.seconds, self.history = state["seconds"], list(state["history"])
        self.curriculum.load_state_dict(state["curriculum"])
        torch.set_rng_state(state["torch_rng"])

    def resume(self, out: Path) -> bool:
        """Loads the newest checkpoint of a run, and cuts its logs back to it; False where there is none."""
        checkpoints = list_checkpoints(out / CHECKPOINTS)
        if not checkpoints:
            (out / METRICS).unlink(missing_ok=True)
            (out / TRACES).unlink(missing_ok=True)
            return False
        self.load_state(load_checkpoint(checkpoints[-1]))
        rows = self.history[: -1 if self._awaits_evaluation() else None]
        write_whole(out / METRICS, "".join(f"{json.dumps(row)}\n" for row in rows))
        _cut_traces(out / TRACES, self.step)
        return True

    # -- parts ------------------------------------------------------------------------------------------------------

    def sampling_seed(self, attempt: int) -> int:
        """Seeds the sampling of this step's rollouts."""
        return self._seed(_SAMPLING, attempt)

    def _tasks(self, attempt: int) -> list[int]:
        """The tasks of this step's groups."""
        rng = np.random.default_rng(self._seed(_TASKS, attempt))
        return list(self.curriculum.draw(rng, self.config.prompts_per_step))

    def _rollout(self, attempt: int) -> list[Trajectory]:
        config, tasks, seed = self.config, self._tasks(attempt), self.sampling_seed(attempt)
        trajectories = self.sampler.rollout(
            self.env,
            tasks,
            group_size=config.samples_per_prompt,
            seed=seed,
            solo_share=config.num_solo(self.step) / config.samples_per_prompt,
        )
        if config.reply_credit == "branch":
            self.num_rollouts += credit_replies(
                self.sampler, self.env.game, trajectories, tasks, seed, continuations=config.branch_continuations
            )
        return trajectories

    def _observe(self, trajectories: Sequence[Trajectory]) -> None:
        """Tells the curriculum which rollouts of each group were correct."""
        if self.config.curriculum == "uniform":
            return
        groups: dict[int, tuple[int, dict[bool, list[bool]]]] = {}
        for t in trajectories:
            if t.stop_reason not in FAULTS and t.task_index is not None:
                _, outcomes = groups.setdefault(t.group, (t.task_index, {False: [], True: []}))
                outcomes[t.assisted].append(t.verdict == "correct")
        for index, outcomes in groups.values():
            self.curriculum.observe(index, outcomes[False], outcomes[True])

    def _advantages(self, samples: Sequence[TrainingSample]) -> tuple[Floats, Floats]:
        """The advantages of the POLICY tokens, and of the AGENT tokens, of each rollout."""
        return sample_advantages(samples, **self.config.comparison)

    def _token_logprobs(self, model: torch.nn.Module, part: batches.MicroBatch) -> Tensor:
        return token_logprobs(
            model,
            part.input_ids_BL,
            part.attention_mask_BL,
            part.selected_BL,
            temperature=self.config.sampling.temperature,
            prompt_lengths_B=part.prompt_lengths_B,
            position_ids_BL=part.position_ids_BL,
        ).logprobs_T

    @torch.no_grad()
    def _logprobs(self, model: torch.nn.Module, parts: Sequence[batches.MicroBatch]) -> list[Tensor]:
        return [self._token_logprobs(model, part) for part in parts]

    def _set_learning_rate(self) -> None:
        config = self.config
        rise = min(1.0, (self.step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        fall = 1.0 - (1.0 - config.final_learning_rate) * min(1.0, self.step / max(1, config.steps))
        set_learning_rate(self.optimizer, self.learning_rate * rise * fall)

    def _eval_env(self, num_tasks: int) -> tuple[aipo_env.ConsultEnv, list[int]]:
        config = self.config
        env_id, options = evaluation_env(
            config.env, dict[str, Any](config.env_options), config.eval_env, {"split": "test"} | config.eval_options
        )
        options["agents"] = self.env.agents or self.env.agent_names
        env = aipo_env.make(env_id, codec=self.env.codec, **options)
        if not config.allow_test_split:
            require_other_rows(self.env.tasks, env.tasks)
        total = env.tasks.num_tasks
        return env, list(range(num_tasks if total is None else min(num_tasks, total)))

    def _seed(self, purpose: int, attempt: int) -> int:
        sequence = np.random.SeedSequence(self.config.seed, spawn_key=(purpose, self.step, attempt))
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _awaits_evaluation(self) -> bool:
        """Whether the evaluation that belongs to the last row is still to be made."""
        due = self._due(self.config.eval_every) or self.step in (0, self.config.steps)
        return due and self.judged_by not in self.history[-1]

    def _complete_row(
        self,
        out: Path,
        trackers: Sequence[Tracker],
        on_evaluation: Callable[[int, int], None],
        on_problem: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> None:
        """Evaluates, notes problems, and writes the row of a step and what belongs to it."""

        def counted(done: int, total: int) -> None:
            on_evaluation(done, total)
            if stop():
                raise _Stopped

        row = self.history[-1]
        if self._awaits_evaluation():
            row |= self.evaluate(on_episode=counted)
        for name, sentence in find_problems(self.history).items():
            row[PREFIX + name] = 1.0
            if PREFIX + name not in self.history[-2]:
                on_problem(f"step {self.step}: {sentence}.")
        with writing(out), (out / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for tracker in trackers:
            tracker.log(self.step, row)
        if is_best := best_step(self.history, self.judged_by) == self.step:
            self._save_policy(out, "best")
        if self.step and (self._due(self.config.checkpoint_every) or self.step == self.config.steps or is_best):
            self._save_checkpoint(out)

    def _trace(self, out: Path, trackers: Sequence[Tracker], trajectories: Sequence[Trajectory]) -> None:
        if self._due(self.config.trace_every) or (self.step == 1 and self.config.trace_every):
            for trajectory in trajectories:
                trajectory.metadata["step"] = self.step
            with writing(out):
                aipo_env.write_traces(out / TRACES, trajectories)
            for tracker in trackers:
                if isinstance(tracker, TraceTracker):
                    tracker.log_traces(self.step, trajectories)

    def _save_checkpoint(self, out: Path) -> None:
        # torch's writer raises a RuntimeError of its own where the file takes no more.
        with writing(out, (OSError, RuntimeError)):
            save_checkpoint(out / CHECKPOINTS, self.step, self.state(), best=best_step(self.history, self.judged_by))

    def _save_policy(self, out: Path, name: str) -> None:
        def save(folder: Path) -> None:
            self.policy.save(folder)
            if self.config.lora.merge:
                load_policy(str(folder)).save(folder)
                remove_adapter(folder)
            self._note_data(folder)

        with writing(out, (OSError, SafetensorError)):
            replace(out / name, save)

    def _note_data(self, folder: Path) -> None:
        config = self.config
        options = {**config.env_options, "curriculum": config.curriculum}
        note_training_data(folder, config.env, options, self.env.tasks, config.policy)


class _Stopped(Exception):
    """The run was asked to stop."""


def _make_sampler(config: TrainConfig, policy: Policy) -> LocalSampler:
    if config.sampler == "local":
        return LocalSampler(policy, config.sampling)
    from algorithms.vllm_sampler import VLLMSampler

    server = None if config.sampler == "vllm" else config.sampler
    return VLLMSampler(policy, config.sampling, config.engine_args, server=server, folder=config.out / "served")


def rollout_metrics(trajectories: Sequence[Trajectory]) -> Metrics:
    """Accuracy, consult rate and token counts by source of a batch."""
    own = [t for t in trajectories if t.self_help]
    solo = [t for t in trajectories if not t.assisted and not t.self_help]
    assisted = [t for t in trajectories if t.assisted]
    metrics: Metrics = {"reward": sum(t.reward for t in trajectories) / max(1, len(trajectories))}
    kinds = {kind for t in trajectories for kind in t.reward_parts} | {"correct"}
    if len(kinds) > 1:
        for kind in sorted(kinds):
            metrics[f"reward/{kind}"] = sum(t.reward_parts.get(kind, 0.0) for t in trajectories) / len(trajectories)
    metrics |= {f"tokens/{source.name.lower()}": sum(t.count(source) for t in trajectories) for source in Source}
    sampled = [x for t in trajectories for s in t.segments if s.source is Source.POLICY for x in s.logprobs]
    if sampled:
        # Of what was sampled: an unbiased estimate of the entropy at the sampler's temperature.
        metrics["policy/entropy"] = -sum(sampled) / len(sampled)
    for name, part in (("solo", solo), ("self_help", own), ("assisted", assisted)):
        if part:
            metrics[f"train/{name}_accuracy"] = sum(t.verdict == "correct" for t in part) / len(part)
    if assisted:
        metrics["train/consult_rate"] = sum(t.num_consults > 0 for t in assisted) / len(assisted)
        for agent in sorted({s.agent for t in assisted for s in t.segments if s.source is Source.AGENT}):
            heard = sum(any(s.agent == agent and s.source is Source.AGENT for s in t.segments) for t in assisted)
            metrics[f"train/consult_rate_{agent}"] = heard / len(assisted)
    # A notice that names a helper and counts no consult: it could not answer.
    notices = [s.text for t in assisted for s in t.segments if s.source is Source.TEMPLATE and s.agent]
    failed = sum("could not answer" in text for text in notices)
    if asked := failed + sum(t.num_consults for t in assisted):
        metrics["train/reply_errors"] = failed / asked
        metrics["train/replies_held_back"] = sum(HELD_BACK in text for text in notices) / asked
    metrics["train/truncated"] = sum(t.stop_reason in ("length", "max_turns", "max_chars") for t in trajectories) / max(
        1, len(trajectories)
    )
    return metrics


def _cut_traces(path: Path, step: int) -> None:
    """Drops the trajectories after `step`, which a resumed run samples again."""
    if path.exists():
        kept = [t for t in aipo_env.read_traces(path) if int(str(t.metadata.get("step", 0))) <= step]
        replace(path, lambda part: aipo_env.write_traces(part, kept))
