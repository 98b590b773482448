"""OpenRLHF's trainers, synchronous and asynchronous, with our baselines in them. Imported where OpenRLHF runs."""

from __future__ import annotations

import importlib
from typing import Any

from algorithms.cluster.baselines import install_baselines
from algorithms.cluster.options import ClusterConfig

_ray: Any = importlib.import_module("ray")
_synchronous: Any = importlib.import_module("openrlhf.trainer.ppo_trainer")
_asynchronous: Any = importlib.import_module("openrlhf.trainer.ppo_trainer_async")


def _behind(actor_class: Any) -> Any:
    """The class behind a Ray actor: an ActorClass itself cannot be subclassed."""
    return actor_class.__ray_metadata__.modified_class.__ray_actor_class__


_Trainer: Any = _behind(_synchronous.PPOTrainer)
_TrainingActor: Any = _behind(_asynchronous.TrainingActor)
_AsynchronousTrainer: Any = _behind(_asynchronous.PPOTrainerAsync)


class AIPOTrainer(_Trainer):  # type: ignore[misc]
    """The trainer of a synchronous run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        install_baselines(self.experience_maker, ClusterConfig.from_environment().objective)


class AIPOTrainingActor(_TrainingActor):  # type: ignore[misc]
    """The part of an asynchronous trainer that trains."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        install_baselines(self.experience_maker, ClusterConfig.from_environment().objective)


class AIPOAsynchronousTrainer(_AsynchronousTrainer):  # type: ignore[misc]
    """The trainer of an asynchronous run, which starts one actor that samples and one that trains."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Replaced in this actor's own process, where OpenRLHF's constructor looks the name up.
        _asynchronous.TrainingActor = _ray.remote(AIPOTrainingActor)
        super().__init__(*args, **kwargs)
