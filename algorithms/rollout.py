"""Rollouts of a policy in this process: `aipo_env.rollout` with continuous batching, for synchronous callers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

from torch import nn

import aipo_env
from aipo_agents.backends.base import CompletionSampling
from aipo_agents.backends.transformers_model import TransformersModel
from aipo_env import ConsultEnv, Trajectory
from aipo_env.consulting import ask_together, run_sync
from aipo_env.episode import Episode
from aipo_env.errors import ConfigurationError
from aipo_env.game import ConsultGame
from aipo_env.playing import Player
from algorithms.policies import Policy
from algorithms.samplers import BackendPolicy
from algorithms.train_config import SamplingConfig


def local_policy(policy: Policy, sampling: SamplingConfig, *, context_length: int | None = None) -> BackendPolicy:
    """The turns of a policy that is loaded here.

    Args:
        policy: model, which is switched to evaluation mode, and tokenizer.
        sampling: temperature, limits, and how many rows are decoded together.
        context_length: tokens that are used of those that the model takes; None for all.
    """
    backend = TransformersModel(
        policy.model, policy.tokenizer, eos_ids=policy.eos_ids, name=policy.name, max_batch=sampling.batch_size
    )
    return BackendPolicy(
        backend,
        policy.codec,
        CompletionSampling(sampling.temperature, sampling.top_p, sampling.max_tokens),
        context_length=min(context_length or backend.context_length, backend.context_length),
        name=policy.name,
    )


class LocalSampler:
    """Rolls out a policy that is loaded here.

    What is sampled is a function of the policy's weights, `sampling`, the seed, the task and the sample, but for the rounding
    of matrix products of other shapes. Where all episodes run at the same time and nobody waits for anything but the model,
    neither helpers nor graders, the shapes are the same again: then it is reproducible to the bit.

    Args:
        policy: model and tokenizer.
        sampling: temperature, limits, episodes at the same time.
    """

    def __init__(self, policy: Policy, sampling: SamplingConfig) -> None:
        self._loaded, self._sampling = policy, sampling

    @functools.cached_property
    def _policy(self) -> BackendPolicy:
        return local_policy(self._loaded, self._sampling)

    def rollout(
        self,
        env: ConsultEnv,
        tasks: Sequence[int],
        *,
        group_size: int,
        seed: int,
        solo_share: float = 0.0,
        on_episode: Callable[[Trajectory], None] = lambda trajectory: None,
    ) -> list[Trajectory]:
        """Plays groups of episodes; returns them by group and sample.

        Args:
            env: made with the policy's tokenizer.
            tasks: of each group.
            group_size: samples in a group.
            seed: decides the sampling and the helpers.
            solo_share: of each group, its first samples.
            on_episode: called with each trajectory when it is finished.

        Raises:
            ConfigurationError: for an environment with another tokenizer.
        """
        if env.codec is None or env.codec.fingerprint != self._loaded.codec.fingerprint:
            raise ConfigurationError(
                "the environment and the policy need the same tokenizer: make the environment with codec=policy.codec."
            )
        for index in dict.fromkeys(tasks):
            # At hand, so that episodes start together whatever a thread would take for it.
            env.game.task(index)

        async def play() -> list[Trajectory]:
            episodes = aipo_env.rollout(
                env,
                self._policy,
                tasks,
                group_size=group_size,
                max_in_flight=self._sampling.batch_size,
                seed=seed,
                solo_share=solo_share,
                max_tokens=self._sampling.max_tokens,
            )
            found = []
            async with episodes:
                async for trajectory in episodes:
                    on_episode(trajectory)
                    found.append(trajectory)
            return sorted(found, key=lambda trajectory: (trajectory.group, trajectory.sample))

        with self._at_work():
            return run_sync(play())

    def play_on(
        self, branches: Sequence[tuple[ConsultGame, Episode, Callable[[int], int]]]
    ) -> list[BaseException | None]:
        """Plays episodes from where they stand to their ends.

        Args:
            branches: each a game, its episode, and the policy's seed as a function of the number of turns taken.

        Returns:
            For each None, or why it came to no end (`Player.play`).
        """

        async def play() -> list[BaseException | None]:
            most = self._sampling.max_tokens
            return await ask_together(
                [Player(game, self._policy, max_tokens=most).play(episode, seed) for game, episode, seed in branches]
            )

        with self._at_work():
            return run_sync(play())

    def weights_changed(self) -> None:
        """Told whenever the policy's weights have been changed."""

    def close(self) -> None:
        """Frees what the sampler holds."""

    def metrics(self) -> dict[str, float]:
        """What there is to tell of the last rollout."""
        return {}

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Around the episodes of a rollout."""
        with evaluating(self._loaded.model):
            try:
                yield
            finally:
                backend = self._policy.backend
                assert isinstance(backend, TransformersModel)
                backend.forget()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, a model is in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
