"""Starts OpenRLHF's own PPO driver with our executor, prompts, baselines and loss in place."""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from aipo_env.errors import ConfigurationError
from aipo_env.groups import num_solo
from algorithms.cluster import hooks
from algorithms.cluster.options import CONFIG_VARIABLE, ClusterConfig, parse_options, split_arguments
from algorithms.cluster.prompts import (
    LABEL_KEY,
    PROMPT_KEY,
    PromptFile,
    evaluation_game,
    export_prompts,
    task_range,
    training_game,
)
from algorithms.cluster.settings import check_estimator, openrlhf_flags
from algorithms.codec import TransformersCodec
from algorithms.config import ObjectiveConfig, check_modes
from algorithms.run_folder import note_training_data

_OWNED = {
    "--train.agent_func_path": "the executor is the one that plays --aipo.env",
    "--data.prompt_dataset": "prompts are exported from --aipo.env",
    "--data.prompt_probs": "prompts are exported from --aipo.env",
    "--data.prompt_split": "the split is an option of the environment: --aipo.env_options split ...",
    "--data.input_key": "prompts are exported from --aipo.env",
    "--data.label_key": "prompts are exported from --aipo.env",
    "--data.input_template": "the prompt is an option of the environment: --aipo.env_options prompt ...",
    "--data.apply_chat_template": "the episode applies the policy's chat template itself, token by token",
    "--data.disable_fast_tokenizer": "token-exact episodes need a fast tokenizer",
    "--data.max_images_per_prompt": "episodes are text",
    "--ds.lora.rank": "OpenRLHF sends the weights to vLLM under the names that they have below an adapter, which vLLM does not "
    "know, so the first sync would fail; adapters are trained by `aipo train --lora.rank ...` on one GPU",
    "--eval.dataset": "prompts of the evaluation are exported from --aipo.env: --aipo.eval_tasks 500",
    "--eval.split": "the split is an option of the environment: --aipo.eval_options split test",
    "--reward.remote_url": "the environment grades",
    "--reward.model_name_or_path": "the environment grades",
}
"""OpenRLHF's flags that this learner sets itself, or that would have no effect, and why."""
_MODE_FLAGS = ("--rollout.n_samples_per_prompt", "--aipo.solo_share", "--aipo.policy_baseline")


def main(arguments: Sequence[str]) -> None:
    """Trains; returns when OpenRLHF's driver has returned.

    Args:
        arguments: the command line: `--aipo.*` flags and OpenRLHF's own.

    Raises:
        AipoError: a mistake in the flags, or an OpenRLHF that is not the expected one; before anything is started.
    """
    ours, theirs = split_arguments(arguments)
    if {"-h", "--help"} & set(arguments):
        ours = ["--help"]
    config = parse_options(ours).with_absolute_paths()
    hooks.check_openrlhf()
    flags = prepare(config, theirs)
    os.environ[CONFIG_VARIABLE] = config.to_json()
    hooks.try_executor()
    hooks.hand_to_workers({CONFIG_VARIABLE: config.to_json()})
    hooks.use_policy_actor()
    hooks.use_trainers()
    sys.argv = [hooks.DRIVER, *flags]
    runpy.run_module(hooks.DRIVER, run_name="__main__", alter_sys=True)


def prepare(config: ClusterConfig, flags: Sequence[str]) -> list[str]:
    """Exports the prompts and completes OpenRLHF's flags.

    Args:
        config: of the run.
        flags: OpenRLHF's flags as the user wrote them; they stay as they are, between our defaults and what we set.

    Raises:
        ConfigurationError: a flag that cannot be set here, or an environment that cannot be trained on.
    """
    for flag, reason in _OWNED.items():
        if _given(flags, flag):
            raise ConfigurationError(f"{flag} cannot be set with this learner: {reason}. Leave it out.")
    if _given(flags, "--actor.model_name_or_path") is None:
        raise ConfigurationError("which model to train is missing: --actor.model_name_or_path (a folder or a hub id).")
    game = training_game(config)
    if not game.config.assisted and config.solo_share not in (ClusterConfig.solo_share, 1.0):
        raise ConfigurationError(
            f"--aipo.solo_share {config.solo_share} has no effect in {game.env_id}, where nobody answers; leave it out, or "
            f"train on {game.env_id}-consult."
        )
    _check_baselines(config, flags, game.config.assisted)
    codec, max_length = _codec(flags), int(_given(flags, "--data.max_len") or 2048)
    train = export_prompts(
        game,
        task_range(game, config.num_tasks, "--aipo.num_tasks"),
        config.cache,
        codec=codec,
        max_length=max_length,
    )
    _report(train, "train on", max_length)
    if folder := _given(flags, "--ckpt.output_dir"):
        policy = str(_given(flags, "--actor.model_name_or_path"))
        note_training_data(Path(folder), config.env, config.env_options, game.tasks, policy)
    owned = ["--train.agent_func_path", _agent_func_path(), "--data.prompt_dataset", str(train.path)]
    owned += ["--data.input_key", PROMPT_KEY, "--data.label_key", LABEL_KEY]
    if config.eval_tasks:
        other = evaluation_game(config)
        evaluation = export_prompts(
            other,
            task_range(other, config.eval_tasks, "--aipo.eval_tasks"),
            config.cache,
            evaluation=True,
            codec=codec,
            max_length=max_length,
        )
        _report(evaluation, "evaluate on", max_length)
        owned += ["--eval.dataset", str(evaluation.path)]
    return [*default_flags(flags), *flags, *owned]


def default_flags(flags: Sequence[str]) -> list[str]:
    """OpenRLHF's flags for the project's own objective, to stand in front of the user's, which override them."""
    defaults = openrlhf_flags(ObjectiveConfig())
    if _given(flags, "--actor.eps_clip"):
        # OpenRLHF prefers the pair to the single bound, so the pair would win over what the user set.
        at = defaults.index("--actor.eps_clip_low_high")
        del defaults[at : at + 3]
    return defaults


def _check_baselines(config: ClusterConfig, flags: Sequence[str], assisted: bool) -> None:
    """Refuses baselines that would compare with nothing, before anything is started."""
    estimator = _given([*default_flags(flags), *flags], "--algo.advantage.estimator")
    assert estimator is not None  # it is among the defaults
    check_estimator(config.objective, estimator)
    num_samples = int(_given(flags, "--rollout.n_samples_per_prompt") or 1)
    solo = num_solo(config.solo_share, num_samples) if assisted else num_samples
    check_modes(config.objective, num_samples, solo, _MODE_FLAGS)


def _given(flags: Sequence[str], flag: str) -> str | None:
    """The value behind a flag ("" where none follows), or None where it is not given.

    As argparse does, reads abbreviations, and takes the last where there are several.
    """
    section = flag.partition(".")[0] + "."
    for number in reversed(range(len(flags))):
        name, equals, value = flags[number].partition("=")
        if name == flag or (len(name) > len(section) and name.startswith(section) and flag.startswith(name)):
            following = flags[number + 1 : number + 2]
            return value if equals else "" if not following or following[0].startswith("--") else following[0]
    return None


def _codec(flags: Sequence[str]) -> TransformersCodec:
    from transformers import AutoTokenizer

    name = _given(flags, "--actor.model_name_or_path")
    return TransformersCodec(AutoTokenizer.from_pretrained(name, trust_remote_code=True))


def _agent_func_path() -> str:
    spec = importlib.util.find_spec("algorithms.cluster.agent_func")
    assert spec is not None
    assert spec.origin is not None
    return spec.origin


def _report(file: PromptFile, purpose: str, max_length: int) -> None:
    left_out = f"; {file.num_too_long} left out, longer than --data.max_len {max_length}" if file.num_too_long else ""
    print(f"{file.num_prompts} prompts to {purpose}: {file.path}{left_out}")
