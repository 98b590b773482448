"""How a training run weighed the tokens of its rollouts, worked out again from their rewards and the run's configuration.

No model is needed for it. At the first update on a batch the current policy is the old one, so that no ratio has moved: the
POLICY tokens' ratio is 1, nothing is clipped for having moved, and no AGENT token has left the trust region. The coefficient
of an AGENT token depends on the policy's own probability of it, which is below 1: where the bounds leave one value for all of
these, that value is exact; else a range is told, unless the probability was recorded.

Dimensions: S samples (trajectories), T loss-bearing tokens, A the AGENT tokens among them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from aipo_env.advantages import ScoredRollout, sample_advantages
from aipo_env.errors import DataFormatError
from aipo_env.trajectory import Source, Trajectory
from algorithms.batch import MicroBatch
from algorithms.config import AGENT_LOSS_FIELDS, ObjectiveConfig
from algorithms.objective import AgentTokens, agent_coefficient
from algorithms.token_facts import LOGPROBS_KEY, Coefficients
from algorithms.train_config import LoraConfig, SamplingConfig, TrainConfig

_NEVER = -1e4
"""A log-probability whose exponential is 0."""
_BOUNDED_BY_ENDS = frozenset({"mask", "clone", "is", "aipo"})
"""The coefficients that rise with pi or do not depend on it: their range lies between those at pi = 0 and pi = 1."""


class TokenWeights:
    """The advantages and coefficients of one training run.

    Args:
        config: of the run.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    @classmethod
    def read(cls, path: Path) -> TokenWeights | None:
        """The weights of the run whose config.json this is; None if it is the configuration of something else.

        Raises:
            DataFormatError: it is a training run's, and not one of this version.
        """
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataFormatError(f"{path} is not JSON ({error}). Was it cut? `aipo train` writes it anew.") from error
        if not isinstance(row, dict) or "objective" not in row or "samples_per_prompt" not in row:
            return None
        try:
            return cls(_config(row))
        except (TypeError, ValueError) as error:
            raise DataFormatError(
                f"{path} is not a training configuration of this version: {error}. View the run with the version that made it."
            ) from error

    @property
    def facts(self) -> Mapping[str, object]:
        """The objective, with what the page must know to explain its numbers."""
        objective = self.config.objective
        return {
            **dataclasses.asdict(objective),
            "policy_rule": dataclasses.asdict(objective.policy_rule),
            "trust_region": objective.has_trust_region,
            "updates": self.config.updates_per_batch,
        }

    def advantages(self, samples: Sequence[ScoredRollout]) -> list[tuple[float, float]] | None:
        """The advantages of the POLICY and of the AGENT tokens of each trajectory of a step; None if it is not whole."""
        config = self.config
        size = config.prompts_per_step * config.samples_per_prompt
        # Dynamic sampling may end with fewer groups; whether they are all of the step cannot be told.
        if len(samples) > size or (len(samples) < size and not config.dynamic_sampling):
            return None
        if len(samples) % config.samples_per_prompt:
            return None
        own_S, help_S = sample_advantages(samples, **config.comparison)
        return list(zip(own_S.tolist(), help_S.tolist(), strict=True))

    def coefficients(
        self, mu_logprobs: Sequence[float], logprobs: Sequence[float] | None, advantage: float
    ) -> Coefficients | None:
        """The coefficients of AGENT tokens at the first update; None for one of the user's own, whose range is not known.

        Args:
            mu_logprobs: log mu; 0.0 where it is unknown.
            logprobs: log pi where it was recorded.
            advantage: of these tokens.
        """
        objective = self.config.objective
        mu_A = torch.tensor(mu_logprobs, dtype=torch.float64)
        if logprobs is not None:
            value_A, ratio_A = self._at(torch.tensor(logprobs, dtype=torch.float64), mu_A, advantage)
            return Coefficients(tuple(value_A.tolist()), tuple(value_A.tolist()), "".join(_states(value_A, ratio_A)))
        if objective.agent_loss == "luffy":
            # f (1 - f) of f = pi / (pi + gamma) is largest at f = 1/2 and 0 at pi = 0.
            highest = (
                0.25
                if objective.luffy_gamma <= 1
                else float(self._at(torch.zeros_like(mu_A), mu_A, advantage)[0].max())
            )
            count = len(mu_logprobs)
            return Coefficients((0.0,) * count, (highest,) * count, "?" * count)
        if objective.agent_loss not in _BOUNDED_BY_ENDS:
            return None
        low_A, low_ratio_A = self._at(torch.full_like(mu_A, _NEVER), mu_A, advantage)
        high_A, high_ratio_A = self._at(torch.zeros_like(mu_A), mu_A, advantage)
        ends = zip(_states(low_A, low_ratio_A), _states(high_A, high_ratio_A), (low_A == high_A).tolist(), strict=True)
        # Where the floor is met at pi = 1 alone, it holds for every token.
        states = "".join(
            low if low == high or (constant and low + high == "f-") else "?" for low, high, constant in ends
        )
        return Coefficients(tuple(low_A.tolist()), tuple(high_A.tolist()), states)

    def _at(
        self, logprobs_A: Float[Tensor, " agent"], mu_A: Float[Tensor, " agent"], advantage: float
    ) -> tuple[Float[Tensor, " agent"], Float[Tensor, " agent"]]:
        """The coefficients, and the ratios pi / mu that they bound, for these log-probabilities of the policy."""
        tokens = AgentTokens(logprobs_A, logprobs_A, mu_A, torch.full_like(mu_A, advantage))
        return agent_coefficient(tokens, self.config.objective), (logprobs_A - mu_A).exp()


def record_agent_logprobs(
    trajectories: Sequence[Trajectory], part: MicroBatch, logprobs_T: Float[Tensor, " tokens"]
) -> None:
    """Notes log pi of the AGENT tokens of a micro-batch in their trajectories, so that their coefficients can be told exactly.

    Of a confidential trajectory nothing is noted: it would say which tokens are likely.

    Args:
        trajectories: those that the micro-batches were made of, in that order.
        part: one of them.
        logprobs_T: log pi of its tokens before the first update.
    """
    agent_T = part.sources_T == Source.AGENT
    for index in torch.unique(part.sequence_ids_T[agent_T]).tolist():
        if not trajectories[index].confidential:
            values = logprobs_T[agent_T & (part.sequence_ids_T == index)].tolist()
            trajectories[index].metadata[LOGPROBS_KEY] = [round(value, 4) for value in values]


def _states(values_A: Float[Tensor, " agent"], ratios_A: Float[Tensor, " agent"]) -> list[str]:
    """For each coefficient: "f" above its ratio (the floor), "c" below it (the cap), "-" equal to it."""
    return ["f" if v > r else "c" if v < r else "-" for v, r in zip(values_A.tolist(), ratios_A.tolist(), strict=True)]


def _config(row: dict[str, Any]) -> TrainConfig:
    """A configuration from its JSON form; fields that a newer trainer added beside the objective do not matter here."""
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    values = {name: value for name, value in row.items() if name in known}
    objective = dict(values["objective"])
    if objective.get("rollout_clip") is not None:
        objective["rollout_clip"] = tuple(objective["rollout_clip"])
    if objective["agent_loss"] not in AGENT_LOSS_FIELDS:
        raise ValueError(
            f"agent_loss={objective['agent_loss']!r} is registered by code of the run, which is not loaded here"
        )
    if "self_imitation" in AGENT_LOSS_FIELDS[objective["agent_loss"]]:
        objective.setdefault("self_imitation", 0.0)  # runs from before there was any
    lora: dict[str, Any] = dict(values.get("lora", {}))
    if "targets" in lora:
        lora["targets"] = tuple(lora["targets"])
    return TrainConfig(
        **{
            **values,
            "out": Path(values["out"]),
            "agents": tuple(values["agents"]),
            "betas": tuple(values["betas"]),
            "objective": ObjectiveConfig(**objective),
            "sampling": SamplingConfig(**values["sampling"]),
            "lora": LoraConfig(**lora),
        }
    )
