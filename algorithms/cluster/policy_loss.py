"""The loss of the cluster learner: OpenRLHF's own policy loss on POLICY tokens, plus the project's AGENT term.

The loss that OpenRLHF built from its flags stays in charge of the POLICY tokens, so each of those flags means what
OpenRLHF says; `algorithms.objective` computes the AGENT term, as it does on one machine. `docs/cluster.md` lists what
every flag does here.

How the AGENT tokens get there (read in OpenRLHF 0.11.2; `algorithms/cluster/channel.py` has the format):

- OpenRLHF's action mask covers POLICY tokens alone. So `batch_num_tokens` and `global_batch_size`, which OpenRLHF counts
  from that mask over all micro-batches and data-parallel ranks of an optimizer step, are the objective's N and number of
  sequences, on the ordinary path and with dynamic batches.
- `Actor.forward` multiplies log-probabilities by that mask. A forward pre-hook hands it a mask of ones, so those of the
  AGENT tokens stay; all further uses of the mask are untouched.
- `advantages` holds the AGENT tokens' own advantages at their places (`algorithms/cluster/baselines.py` wrote them there).

Dimensions: B sequences, L their longest number of tokens less 1, A the AGENT tokens among them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from aipo_env.errors import ConfigurationError
from algorithms.agent_term import agent_term
from algorithms.cluster.channel import decode
from algorithms.cluster.settings import check_agent_config, check_openrlhf_settings
from algorithms.config import ObjectiveConfig
from algorithms.objective import combine_metrics

PolicyLossOutput = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]
"""loss, clip_ratio, ppo_kl, vllm_kl and is_filter_ratio, as OpenRLHF's trainer unpacks them."""

_SMALLEST_COUNT = 1e-6  # below one token divided by any number of accumulation steps


@runtime_checkable
class Experience(Protocol):
    """What is used of OpenRLHF's `Experience`."""

    returns: Tensor
    info: dict[str, Tensor]


@runtime_checkable
class ReplayBuffer(Protocol):
    """What is used of OpenRLHF's `NaiveReplayBuffer`."""

    append: Callable[[Experience], None]


@runtime_checkable
class OpenRLHFTrainer(Protocol):
    """What is used of OpenRLHF's `ActorPPOTrainer`."""

    args: SimpleNamespace
    actor: nn.Module
    actor_loss_fn: nn.Module
    replay_buffer: ReplayBuffer


class AIPOPolicyLoss(nn.Module):
    """OpenRLHF's policy loss with the AGENT term added.

    Args:
        policy_loss: the loss that OpenRLHF built (`ActorPPOTrainer.actor_loss_fn`).
        config: the AGENT fields of the objective; OpenRLHF's flags stand for its POLICY fields (`settings.agent_part`).

    Raises:
        ConfigurationError: the config asks for something that OpenRLHF cannot do or that its flags decide.
    """

    def __init__(self, policy_loss: nn.Module, config: ObjectiveConfig) -> None:
        super().__init__()
        check_agent_config(config)
        self.policy_loss = policy_loss
        self.config = config
        self._sums: dict[str, Tensor] = {}

    def forward(
        self,
        log_probs: Float[Tensor, "batch length"],
        old_log_probs: Float[Tensor, "batch length"],
        advantages: Float[Tensor, "batch length"],
        action_mask: Shaped[Tensor, "batch length"] | None = None,
        rollout_log_probs: Float[Tensor, "batch length"] | None = None,
        dp_size: int = 1,
        batch_num_tokens: Tensor | float | None = None,
        global_batch_size: Tensor | float | None = None,
    ) -> PolicyLossOutput:
        """The loss of one micro-batch; arguments and results are those of OpenRLHF's `PolicyLoss.forward`.

        Args:
            log_probs: log pi of every token under the current policy, not masked.
            old_log_probs: the same under the policy at the start of the updates.
            advantages: one per token, those of AGENT tokens at their places.
            action_mask: 1 at POLICY tokens.
            rollout_log_probs: the side channel.
            dp_size: number of data-parallel ranks, whose gradients are averaged.
            batch_num_tokens: POLICY tokens of the whole optimizer step, divided by the number of accumulated
                micro-batches; None: of this micro-batch.
            global_batch_size: sequences with a POLICY token, counted likewise.

        Raises:
            ConfigurationError: the action mask or the channel is missing, or an AGENT token is marked as an action.
        """
        if action_mask is None or rollout_log_probs is None:
            raise ConfigurationError(
                "the policy loss needs the action mask and the side channel (OpenRLHF's rollout_log_probs), but "
                f"action_mask is {_presence(action_mask)} and rollout_log_probs {_presence(rollout_log_probs)}. Return "
                "channel.encode(trajectory) as 'rollout_log_probs' from the agent executor."
            )
        policy_BL = action_mask > 0
        channel = decode(rollout_log_probs)
        if bool((channel.is_agent & policy_BL).any()):
            raise ConfigurationError(
                "actions are POLICY tokens alone, but AGENT tokens are marked as actions, so OpenRLHF would count and "
                "whiten over them. Return channel.action_ranges(trajectory) as 'action_ranges' from the agent executor."
            )
        num_tokens = _positive(batch_num_tokens)
        loss, clip_ratio, ppo_kl, vllm_kl, is_filter_ratio = self.policy_loss(
            log_probs,
            old_log_probs,
            advantages,
            action_mask=action_mask,
            # A ratio of 1 at AGENT tokens: whatever correction OpenRLHF masks away there stays finite.
            rollout_log_probs=torch.where(channel.is_agent, old_log_probs, rollout_log_probs),
            dp_size=dp_size,
            batch_num_tokens=num_tokens,
            global_batch_size=_positive(global_batch_size),
        )
        agent_loss = self._agent_sum(log_probs, old_log_probs, advantages, policy_BL, channel.is_agent, channel.log_mu)
        divisor = policy_BL.sum().clamp(min=1) if num_tokens is None else num_tokens / dp_size
        any_policy = policy_BL.any()
        return (
            loss + agent_loss / divisor,
            _unless_empty(clip_ratio, any_policy),
            _unless_empty(ppo_kl, any_policy),
            None if vllm_kl is None else _unless_empty(vllm_kl, any_policy),
            None if is_filter_ratio is None else _unless_empty(is_filter_ratio, any_policy),
        )

    def pop_metrics(self) -> dict[str, float]:
        """The AGENT metrics (`docs/objective.md`, section 8) of all micro-batches since the last call, over all ranks.

        Every rank must call it equally often. `agent/token_fraction` is the share of AGENT tokens among all that bear loss,
        `agent/advantage` the mean of their advantages. `tokens/trained` counts tokens of both kinds whose advantage is not 0.
        """
        if not self._sums:
            return {}
        names = sorted(self._sums)
        totals = torch.stack([self._sums[name].double() for name in names])
        self._sums = {}
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals)
        sums = dict(zip(names, totals.unbind(), strict=True))
        policy, agent = float(sums.pop("tokens/policy")), float(sums["tokens/agent"])
        trained = float(sums.pop("tokens/trained"))
        metrics = combine_metrics([sums])
        del metrics["tokens/agent"]
        return metrics | {"tokens/trained": trained, "agent/token_fraction": agent / max(agent + policy, 1.0)}

    def _agent_sum(
        self,
        log_probs_BL: Float[Tensor, "batch length"],
        old_log_probs_BL: Float[Tensor, "batch length"],
        advantages_BL: Float[Tensor, "batch length"],
        policy_BL: Bool[Tensor, "batch length"],
        agent_BL: Bool[Tensor, "batch length"],
        log_mu_BL: Float[Tensor, "batch length"],
    ) -> Float[Tensor, ""]:
        """The AGENT term's loss before its division by N; keeps the metrics."""
        loss, sums = agent_term(log_probs_BL, old_log_probs_BL, advantages_BL, log_mu_BL, agent_BL, self.config)
        sums["tokens/policy"] = policy_BL.sum()
        sums["tokens/trained"] = (advantages_BL[policy_BL] != 0).sum()
        if self.config.agent_loss != "mask":
            advantages_A = advantages_BL[agent_BL]
            sums["tokens/trained"] = sums["tokens/trained"] + (advantages_A != 0).sum()
            sums["agent/advantage"] = advantages_A.sum()
        self._sums = {name: value + self._sums.get(name, 0) for name, value in sums.items()}
        return loss


def install_policy_loss(trainer: OpenRLHFTrainer, config: ObjectiveConfig) -> AIPOPolicyLoss:
    """Puts the AGENT term into an OpenRLHF trainer: its loss, and its actor's log-probabilities outside the action mask.

    Call it where the trainer lives, after OpenRLHF built it and before the first rollout is scored.

    Args:
        trainer: OpenRLHF's `ActorPPOTrainer`.
        config: the AGENT fields of the objective.

    Returns:
        The loss, for its `pop_metrics`.

    Raises:
        ConfigurationError: see `check_openrlhf_settings` and `AIPOPolicyLoss`.
    """
    check_openrlhf_settings(trainer.args)
    loss = AIPOPolicyLoss(trainer.actor_loss_fn, config)
    trainer.actor_loss_fn = loss
    reveal_log_probs(trainer.actor)
    if trainer.args.algo.kl.init_coef > 0 and not trainer.args.algo.kl.use_loss:
        _mend_logged_return(trainer.replay_buffer)
    return loss


def reveal_log_probs(actor: nn.Module) -> None:
    """Makes OpenRLHF's `Actor` return log-probabilities of all tokens, where it would return 0 outside the action mask."""

    def lift_mask(
        module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        if len(args) > 1:
            args = (args[0], _ones_like(args[1]), *args[2:])
        if "action_mask" in kwargs:
            kwargs = {**kwargs, "action_mask": _ones_like(kwargs["action_mask"])}
        return args, kwargs

    actor.register_forward_pre_hook(lift_mask, with_kwargs=True)


def _mend_logged_return(replay_buffer: ReplayBuffer) -> None:
    """Corrects the metric `return` where the KL penalty is part of the reward.

    OpenRLHF sums the penalty over all tokens for it and relies on log-probabilities of 0 outside the actions, which are no
    longer so. `returns`, which the advantages come from, is masked: its first entry is the sum over actions.
    """
    append = replay_buffer.append

    def append_with_return(experience: Experience) -> None:
        experience.info["return"] = experience.returns[:, 0].clone()
        append(experience)

    replay_buffer.append = append_with_return


def _ones_like(mask: object) -> object:
    return torch.ones_like(mask) if isinstance(mask, Tensor) else mask


def _positive(count: Tensor | float | None) -> Tensor | float | None:
    """The count, or something tiny for 0: an optimizer step without POLICY tokens has loss 0, not 0 / 0."""
    if isinstance(count, Tensor):
        return count.clamp(min=_SMALLEST_COUNT)
    return None if count is None else max(count, _SMALLEST_COUNT)


def _unless_empty(metric: Tensor, any_policy: Bool[Tensor, ""]) -> Tensor:
    """OpenRLHF's mean over actions is NaN where there is none; it would spoil the mean over micro-batches."""
    return torch.where(any_policy, metric.detach(), torch.zeros_like(metric))


def _presence(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else "there"
