"""OpenRLHF's trainers, synchronous and asynchronous, with our baselines in them. Imported where OpenRLHF runs.

Ray pickles the class of an actor by value where it cannot be imported by its name, and OpenRLHF's cannot: their names
stand for what `ray.remote` made of them. A subclass that could be imported would meet two copies of its base in the
actor's process, and `super()` in a method of the one fails for objects of the other. So the subclasses are made in
functions, and whole families go by value.
"""

from __future__ import annotations

import importlib
from typing import Any

from algorithms.cluster.baselines import install_baselines
from algorithms.cluster.options import ClusterConfig

_ray: Any = importlib.import_module("ray")


def synchronous_trainer() -> Any:
    """The Ray actor of a synchronous run's trainer."""
    module: Any = importlib.import_module("openrlhf.trainer.ppo_trainer")
    return _ray.remote(_with_baselines(_behind(module.PPOTrainer), "AIPOTrainer"))


def asynchronous_trainer() -> Any:
    """The Ray actor of an asynchronous run's trainer, which starts one actor that samples and one that trains."""
    module: Any = importlib.import_module("openrlhf.trainer.ppo_trainer_async")
    base: Any = _behind(module.PPOTrainerAsync)
    training_actor = _ray.remote(_with_baselines(_behind(module.TrainingActor), "AIPOTrainingActor"))

    class AIPOAsynchronousTrainer(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Where the base's constructor, in this actor's process, looks the name up.
            base.__init__.__globals__["TrainingActor"] = training_actor
            super().__init__(*args, **kwargs)

    return _ray.remote(AIPOAsynchronousTrainer)


def _with_baselines(base: Any, name: str) -> Any:
    """A trainer whose experience maker compares rewards as the config says."""

    class Trainer(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            install_baselines(self.experience_maker, ClusterConfig.from_environment().objective)

    Trainer.__name__ = name
    return Trainer


def _behind(actor_class: Any) -> Any:
    """The class behind a Ray actor: an ActorClass itself cannot be subclassed."""
    return actor_class.__ray_metadata__.modified_class.__ray_actor_class__
