"""What is relied on of OpenRLHF, checked before a run starts, and the names in it that are replaced."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from aipo_env.errors import ConfigurationError, MissingDependencyError
from aipo_env.installation import install_command

OPENRLHF_VERSION = "0.11.2"
"""The version whose source was read and which the tests run."""

DRIVER = "openrlhf.cli.train_ppo_ray"
"""OpenRLHF's PPO driver; its argument parser exists only when it runs as __main__."""

_SIGNATURES = {
    "openrlhf.utils.agent:AgentExecutorBase.execute": "self prompt label sampling_params max_length hf_tokenizer llm_engine",
    "openrlhf.trainer.ray.vllm_engine:RolloutRayActor.generate": "self prompt_token_ids sampling_params",
    "openrlhf.trainer.ray.vllm_engine:RolloutRayActor.generate_responses": (
        "self prompt label sampling_params max_length hf_tokenizer num_samples"
    ),
    "openrlhf.trainer.ray.ppo_actor:PolicyModelActor.init_model_from_pretrained": "self strategy pretrain",
    "openrlhf.trainer.ray.ppo_actor:PolicyModelActor.fit": "self kl_ctl",
    "openrlhf.models.loss:PolicyLoss.forward": (
        "self log_probs old_log_probs advantages action_mask rollout_log_probs dp_size batch_num_tokens global_batch_size"
    ),
    "openrlhf.models.actor:Actor.forward": "self sequences action_mask",
    "openrlhf.trainer.ppo_utils.replay_buffer:NaiveReplayBuffer.append": "self experience",
    "openrlhf.trainer.ppo_utils.experience_maker:RemoteExperienceMaker.make_experience_batch": "self rollout_samples",
    "openrlhf.trainer.ppo_utils.experience_maker:RemoteExperienceMaker.compute_advantages_and_returns": "self experiences",
    "openrlhf.trainer.ppo_trainer:PPOTrainer.train_step": "self rollout_samples global_step",
    "openrlhf.trainer.ppo_trainer_async:TrainingActor.train_step": "self rollout_samples global_step",
    "openrlhf.trainer.ppo_trainer_async:PPOTrainerAsync.fit": "self",
    "openrlhf.trainer.ppo_trainer_async:GenerateSamplesActor.fit": "self episode total_consumed_prompts",
    "openrlhf.trainer.ppo_trainer:BasePPOTrainer.init_checkpoint_states": "self",
    "openrlhf.trainer.ppo_utils.samples_generator:SamplesGenerator._dispatch_prompts_to_vllm": "self prompts labels",
}
"""Function -> its parameters in order; more may follow."""

_EXPERIENCE_FIELDS = (
    *("action_mask", "rollout_log_probs", "advantages", "returns", "info"),
    *("index", "rewards", "kl"),
)


def check_openrlhf() -> None:
    """Compares the installed OpenRLHF with what this package was written for.

    Raises:
        MissingDependencyError: OpenRLHF is not installed, or one of its own packages is missing.
        ConfigurationError: it is another version, or something that is relied on has changed.
    """
    try:
        version = importlib.metadata.version("openrlhf")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDependencyError(
            f"training on a cluster needs OpenRLHF {OPENRLHF_VERSION}, which is not installed: {install_command('openrlhf')}"
        ) from error
    if version != OPENRLHF_VERSION:
        raise ConfigurationError(
            f"expected OpenRLHF {OPENRLHF_VERSION}, whose interfaces this learner hooks into, but {version} is installed. "
            f"pip install openrlhf=={OPENRLHF_VERSION}, or a version of aipo that was made for {version}."
        )
    for path, expected in _SIGNATURES.items():
        check_signature(path, _find(path), expected.split())
    fields = getattr(_find("openrlhf.trainer.ppo_utils.experience:Experience"), "__dataclass_fields__", {})
    missing = [name for name in _EXPERIENCE_FIELDS if name not in fields]
    if missing:
        raise _changed("openrlhf.trainer.ppo_utils.experience:Experience", f"fields {missing}", f"{list(fields)}")


def check_signature(path: str, function: Callable[..., object], expected: Sequence[str]) -> None:
    """Compares a function's parameters with the expected ones; more of them may follow.

    Raises:
        ConfigurationError: with both.
    """
    found = list(inspect.signature(function).parameters)
    if found[: len(expected)] != list(expected):
        raise _changed(path, f"({', '.join(expected)})", f"({', '.join(found)})")


def try_executor() -> None:
    """Loads and makes the executor once: a fault that it has would otherwise show in the engines, which others wait for."""
    importlib.import_module("algorithms.cluster.agent_func").AgentExecutor()


def use_policy_actor() -> None:
    """Makes OpenRLHF's driver start our policy actor in place of its own."""
    ray: Any = importlib.import_module("ray")
    from algorithms.cluster.policy_actor import AIPOPolicyModel

    module: Any = importlib.import_module("openrlhf.trainer.ray.ppo_actor")
    # The driver overrides the resources; the decorator is OpenRLHF's own.
    module.PolicyModelActor = ray.remote(num_gpus=1)(AIPOPolicyModel)


def use_trainers() -> None:
    """Makes OpenRLHF's driver start our trainers, which know the baselines, in place of its own."""
    from algorithms.cluster import trainers

    synchronous: Any = importlib.import_module("openrlhf.trainer.ppo_trainer")
    asynchronous: Any = importlib.import_module("openrlhf.trainer.ppo_trainer_async")
    ours = trainers.synchronous_trainer(), trainers.asynchronous_trainer()
    synchronous.PPOTrainer, asynchronous.PPOTrainerAsync = ours


def hand_to_workers(variables: dict[str, str]) -> None:
    """Adds environment variables to the runtime environment of the Ray session that OpenRLHF's driver will start."""
    ray: Any = importlib.import_module("ray")
    start = ray.init

    def init(*args: Any, runtime_env: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        runtime_env = dict(runtime_env or {})
        runtime_env["env_vars"] = {**runtime_env.get("env_vars", {}), **variables}
        return start(*args, runtime_env=runtime_env, **kwargs)

    ray.init = init


def _find(path: str) -> Any:
    module_name, _, names = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("openrlhf"):
            raise _changed(path, "this module", "none") from error
        raise MissingDependencyError(
            f"OpenRLHF needs the package {error.name!r}, which is not installed; docs/cluster.md has the order of installation."
        ) from error
    for name in names.split("."):
        # Ray wraps actor classes; the class itself is kept behind the wrapper.
        metadata = getattr(found, "__ray_metadata__", None)
        if metadata is not None:
            found = metadata.modified_class
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise _changed(path, f"{name!r}", "nothing of that name") from error
    return found


def _changed(path: str, expected: str, found: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path} changed: expected {expected}, found {found}. Is the installed OpenRLHF {OPENRLHF_VERSION} modified? Install "
        f"it again: pip install --force-reinstall --no-deps openrlhf=={OPENRLHF_VERSION}"
    )
