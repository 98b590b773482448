"""OpenRLHF's policy actor with our term in its loss and our metrics in its status. Imported where OpenRLHF runs."""

from __future__ import annotations

import importlib
from typing import Any

from algorithms.cluster.options import ClusterConfig
from algorithms.cluster.policy_loss import AIPOPolicyLoss, install_policy_loss

_actors: Any = importlib.import_module("openrlhf.trainer.ray.ppo_actor")
# The class behind the Ray actor: an ActorClass itself cannot be subclassed.
_PolicyModel: Any = _actors.PolicyModelActor.__ray_metadata__.modified_class.__ray_actor_class__


class AIPOPolicyModel(_PolicyModel):  # type: ignore[misc]
    """The policy actor of a run with helpers."""

    _loss: AIPOPolicyLoss

    def init_model_from_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """OpenRLHF's own, then the AGENT term is put into the trainer that it built."""
        super().init_model_from_pretrained(*args, **kwargs)
        self._loss = install_policy_loss(self.trainer, ClusterConfig.from_environment().objective)

    def fit(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """OpenRLHF's own; adds the AGENT metrics of the step."""
        status: dict[str, Any] = super().fit(*args, **kwargs)
        return status | self._loss.pop_metrics()
