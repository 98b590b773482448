"""OpenRLHF's learner on the CPU, from finished trajectories to the gradient of an optimizer step.

Real: the parser, `SamplesGenerator._process_response_into_experience`, `Experience` and its functions, `RemoteExperienceMaker`,
`PolicyModelActor.forward`, `Actor` (fp32 weights), `NaiveReplayBuffer`, `ActorPPOTrainer.ppo_train`, the data-parallel process
group (gloo). Stood in for: Ray's dispatch (the calls are made here) and DeepSpeed's engine (`LocalStrategy` scales the loss and
averages gradients as it does). The full run, with both, is tested beside this.

Each run happens in forked processes, one for each data-parallel rank, because OpenRLHF's state is global.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import multiprocessing
import runpy
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, distributed

from aipo_env.training_sample import to_training_sample
from aipo_env.trajectory import Trajectory
from algorithms.cluster.baselines import install_baselines
from algorithms.cluster.channel import action_ranges, encode
from algorithms.cluster.policy_loss import install_policy_loss
from algorithms.cluster.trajectories import FAULTS, OUTCOME, SOLO
from algorithms.config import ObjectiveConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of DeepSpeed, vLLM and torch about each other
    from openrlhf.models import Actor
    from openrlhf.trainer.ppo_utils import NaiveReplayBuffer, experience_maker
    from openrlhf.trainer.ppo_utils.experience import (
        Experience,
        balance_experiences,
        make_experience_batch,
        split_experience_batch,
    )
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
    from openrlhf.trainer.ppo_utils.kl_controller import FixedKLController
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
    from openrlhf.trainer.ray import launcher, ppo_actor
    from openrlhf.utils.config import hierarchize
    from openrlhf.utils.deepspeed import DeepspeedStrategy
    from openrlhf.utils.seqlen_balancing import get_seqlen_balanced_partitions

__all__ = [
    "Actor", "Experience", "NaiveReplayBuffer", "RemoteExperienceMaker", "Step", "balance_experiences",
    "get_seqlen_balanced_partitions", "load_actor", "make_experience_batch", "parse", "split_experience_batch", "to_experience",
    "train",
]  # fmt: skip

MAX_LENGTH = 512


@dataclasses.dataclass
class Step:
    """What one rank saw."""

    gradients: list[dict[str, Tensor]]
    """By parameter, one for each optimizer step, averaged over ranks."""
    status: dict[str, float]
    """What OpenRLHF logs."""
    metrics: dict[str, float]
    """What our loss logs."""
    micro_batches: int


class _Parsed(Exception):
    def __init__(self, namespace: argparse.Namespace) -> None:
        self.namespace = namespace


def parse(flags: Sequence[str]) -> SimpleNamespace:
    """The flags as OpenRLHF's own parser reads them."""

    def capture(parser: argparse.ArgumentParser) -> argparse.Namespace:
        raise _Parsed(real(parser, [str(flag) for flag in flags]))

    real, argv = argparse.ArgumentParser.parse_args, sys.argv
    argparse.ArgumentParser.parse_args = capture  # type: ignore[assignment, method-assign]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
    except _Parsed as parsed:
        args: SimpleNamespace = hierarchize(parsed.namespace)
    finally:
        argparse.ArgumentParser.parse_args, sys.argv = real, argv  # type: ignore[method-assign]
    args.actor.eps_clip_low_high = args.actor.eps_clip_low_high or (args.actor.eps_clip, args.actor.eps_clip)
    if len(args.algo.advantage.is_correction_threshold) == 1:
        args.algo.advantage.is_correction_threshold.insert(0, 0.0)
    return args


def load_actor(folder: Path, *, packing: bool = False) -> Actor:
    """OpenRLHF's `Actor`; it offers half precision alone, so the weights are made fp32 afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        actor = Actor(str(folder), attn_implementation="sdpa", param_dtype="bf16", packing_samples=packing)
    actor.model.float()
    return actor


def to_experience(trajectory: Trajectory, max_length: int = MAX_LENGTH) -> Experience:
    """A finished trajectory as OpenRLHF's rollout worker returns it, turned into an `Experience` by OpenRLHF."""
    sample = to_training_sample(trajectory)
    response = {
        "prompt": trajectory.task_id, "label": "", "images": None, "reward": trajectory.reward, "scores": trajectory.reward,
        "observation_tokens": trajectory.token_ids, "action_ranges": action_ranges(sample),
        "rollout_log_probs": encode(sample), "truncated": False,
        "extra_logs": {SOLO: float(not trajectory.assisted), OUTCOME: trajectory.outcome, FAULTS: 0.0},
    }  # fmt: skip
    return SamplesGenerator._process_response_into_experience(None, response, max_len=max_length)


class LocalStrategy:
    """What `ActorPPOTrainer` asks of its strategy, without DeepSpeed."""

    ring_attn_group = None

    def __init__(self, args: SimpleNamespace) -> None:
        self.args = args
        self.world_size = distributed.get_world_size()
        self.ds_device_mesh = distributed.device_mesh.init_device_mesh(
            "cpu", (self.world_size,), mesh_dim_names=("dp",)
        )
        self.accumulated_gradient = args.train.batch_size // args.train.micro_batch_size // self.world_size
        # DeepSpeed's own setting with dynamic batches is one accumulation step.
        self.loss_divisor = 1 if args.train.dynamic_batch_enable else self.accumulated_gradient
        self.all_reduce = DeepspeedStrategy.all_reduce.__get__(self)
        self.gradients: list[dict[str, Tensor]] = []
        self.micro_batches = 0

    def is_rank_0(self) -> bool:
        return distributed.get_rank() == 0

    def backward(self, loss: Tensor, actor: Any, optimizer: object) -> None:
        (loss / self.loss_divisor).backward()
        self.micro_batches += 1

    def optimizer_step(self, optimizer: object, actor: Any, scheduler: object, name: str) -> None:
        if not self.args.train.dynamic_batch_enable and self.micro_batches % self.accumulated_gradient:
            return
        gradients = {}
        for key, parameter in actor.model.named_parameters():
            gradients[key] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            distributed.all_reduce(gradients[key])
            gradients[key] /= self.world_size
            parameter.grad = None
        self.gradients.append(gradients)

    def get_grad_norm(self, actor: Any) -> float:
        return 0.0


class LocalGroup:
    """A `RayActorGroup` of one: the worker's method is called here."""

    def __init__(self, worker_class: type, actor: Any, strategy: LocalStrategy) -> None:
        # The policy's worker calls its model `actor`, the reference model's calls it `model`.
        self.forward = worker_class.forward.__get__(SimpleNamespace(actor=actor, model=actor, strategy=strategy))

    def async_run_method_batch(self, method_name: str, **batches: list[Any]) -> list[list[Tensor]]:
        assert method_name == "forward"
        return [
            [self.forward(**dict(zip(batches, values, strict=True)))] for values in zip(*batches.values(), strict=True)
        ]


def train(
    trajectories: Sequence[Trajectory],
    actor: Any,
    flags: Sequence[str],
    config: ObjectiveConfig | None,
    *,
    group_size: int,
    micro_batches: int = 1,
    ranks: int = 1,
    updated: dict[str, Tensor] | None = None,
    reference: Any = None,
) -> list[Step]:
    """One `ppo_train` on a batch of trajectories; one optimizer step unless the flags say otherwise.

    Args:
        config: our AGENT term and baselines; None leaves OpenRLHF as it is.
        micro_batches: of an optimizer step, on each rank.
        ranks: data-parallel ranks.
        updated: weights that the policy has moved to since the rollouts were scored.
        reference: an actor for the KL penalty.
    """
    total = len(trajectories)
    assert not total % (ranks * micro_batches)
    args = parse([
        *("--actor.model_name_or_path", "unused", "--train.agent_func_path", "unused", "--vllm.sync_backend", "gloo"),
        *("--rollout.batch_size", total // group_size, "--rollout.n_samples_per_prompt", group_size),
        *("--rollout.micro_batch_size", 2, "--train.batch_size", total),
        *("--train.micro_batch_size", total // ranks // micro_batches),
        *flags,
    ])  # fmt: skip
    assert (args.algo.kl.init_coef > 0) == (reference is not None)
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            context.Process(
                target=_rank, args=(rank, ranks, Path(folder), trajectories, actor, args, config, updated, reference)
            )
            for rank in range(ranks)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(timeout=120)
            if worker.is_alive():
                worker.kill()
        errors = [path.read_text() for path in Path(folder).glob("*.error")]
        assert not errors, errors[0]
        return [Step(**torch.load(Path(folder) / f"{rank}.result")) for rank in range(ranks)]


def _rank(rank: int, ranks: int, folder: Path, *args: Any) -> None:
    warnings.simplefilter("ignore")
    try:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
        torch.manual_seed(rank)
        torch.save(dataclasses.asdict(_train_here(rank, ranks, *args)), folder / f"{rank}.result")
        distributed.destroy_process_group()
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())


def _train_here(
    rank: int,
    ranks: int,
    trajectories: Sequence[Trajectory],
    actor: Any,
    args: SimpleNamespace,
    config: ObjectiveConfig | None,
    updated: dict[str, Tensor] | None,
    reference: Any,
) -> Step:
    # No Ray: what would be a reference to a remote result is the result.
    experience_maker.ray = SimpleNamespace(get=lambda result: result, put=lambda value: value)
    args.actor.num_nodes, args.actor.num_gpus_per_node = 1, ranks
    strategy = LocalStrategy(args)
    optimizer = torch.optim.SGD(actor.parameters(), lr=1.0)
    trainer = ppo_actor.ActorPPOTrainer(
        strategy,
        actor,
        ema_model=None,
        actor_optim=optimizer,
        actor_scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
        micro_train_batch_size=args.train.micro_batch_size,
        dataloader_pin_memory=False,
    )
    loss = None if config is None else install_policy_loss(trainer, config)

    def worker_class(ray_actor: Any) -> type:
        return ray_actor.__ray_metadata__.modified_class

    controller = FixedKLController(args.algo.kl.init_coef)
    maker = RemoteExperienceMaker(
        LocalGroup(worker_class(ppo_actor.PolicyModelActor), actor, strategy),
        None,
        None,
        None if reference is None else LocalGroup(worker_class(launcher.ReferenceModelActor), reference, strategy),
        controller,
        strategy,
        SimpleNamespace(pad_token_id=0),
    )
    if config is not None:
        install_baselines(maker, config)
    experiences = maker.make_experience_batch([to_experience(trajectory) for trajectory in trajectories])
    if args.train.dynamic_batch_enable:
        experiences = balance_experiences(experiences, args)
    share = len(experiences) // ranks
    for experience in experiences[rank * share : (rank + 1) * share]:
        trainer.replay_buffer.append(copy.deepcopy(experience))
    if updated is not None:
        actor.model.load_state_dict(updated)
    status = trainer.ppo_train(controller.value)
    return Step(
        strategy.gradients,
        {k: float(v) for k, v in status.items()},
        {} if loss is None else loss.pop_metrics(),
        strategy.micro_batches,
    )
