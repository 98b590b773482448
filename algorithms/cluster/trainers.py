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
from algorithms.cluster.epochs import Epochs
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
    generating_actor = _ray.remote(_with_epochs(_behind(module.GenerateSamplesActor)))

    class AIPOAsynchronousTrainer(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Where the base's constructor, in this actor's process, looks the names up.
            base.__init__.__globals__["TrainingActor"] = training_actor
            base.__init__.__globals__["GenerateSamplesActor"] = generating_actor
            super().__init__(*args, **kwargs)

    return _ray.remote(AIPOAsynchronousTrainer)


def _with_baselines(base: Any, name: str) -> Any:
    """A trainer whose experience maker compares rewards as the config says."""

    class Trainer(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            install_baselines(self.experience_maker, ClusterConfig.from_environment().objective)
            # An asynchronous run's prompts are drawn by another actor.
            generator = getattr(self, "samples_generator", None)
            self._epochs = None if generator is None else Epochs(generator)

        def init_checkpoint_states(self) -> Any:
            states = super().init_checkpoint_states()
            if self._epochs is not None:
                self._epochs.consumed = states["total_consumed_prompts"]
            return states

    Trainer.__name__ = name
    return Trainer


def _with_epochs(base: Any) -> Any:
    """The actor that draws an asynchronous run's prompts, which says for which time."""

    class AIPOGenerateSamplesActor(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._epochs = Epochs(self.samples_generator)

        def fit(self, episode: int, total_consumed_prompts: int) -> None:
            self._epochs.consumed = total_consumed_prompts
            super().fit(episode, total_consumed_prompts)

    return AIPOGenerateSamplesActor


def _behind(actor_class: Any) -> Any:
    """The class behind a Ray actor: an ActorClass itself cannot be subclassed."""
    return actor_class.__ray_metadata__.modified_class.__ray_actor_class__
