"""How the objective's settings and OpenRLHF's flags (0.11.2) correspond, and which of them are refused.

POLICY tokens obey OpenRLHF's own flags, except for what their rewards are compared with (`policy_baseline`), which OpenRLHF has
no flag for; AGENT tokens obey the AGENT fields of `ObjectiveConfig`.
"""

from __future__ import annotations

from types import SimpleNamespace

from aipo_env.advantages import AdvantageEstimator
from aipo_env.errors import ConfigurationError
from algorithms.config import AGENT_LOSS_FIELDS, OWN_FIELDS, ObjectiveConfig, check_own_fields

_ESTIMATORS: dict[AdvantageEstimator, str] = {
    "mean": "dr_grpo",
    "mean_std": "group_norm",
    "leave_one_out": "rloo",
    "mean_whitened": "reinforce_baseline",
}
GROUPLESS = {
    "reinforce": "has no baseline but the mean over all tokens of the batch",
    "flash_reinforce": "compares a reward with the mean of the whole batch",
}
"""OpenRLHF's estimators that compare a reward with none of its group, and what they do instead."""
WHITENED = ("reinforce", "reinforce_baseline")
"""OpenRLHF's estimators that whiten advantages over the actions of the batch."""
_AGGREGATIONS = {"token_mean": "token-mean", "sequence_mean": "seq-mean-token-mean"}


def openrlhf_flags(config: ObjectiveConfig) -> list[str]:
    """OpenRLHF's flags for the POLICY part of an objective; flags that come later on a command line override them.

    One difference remains where a baseline is "group": OpenRLHF's `group_norm` divides by std + 1e-9, `mean_std` by std + 1e-4.

    Raises:
        ConfigurationError: OpenRLHF has no such setting.
    """
    rule = config.policy_rule
    if rule.surrogate != "clip":
        raise _no_flag("surrogate", rule.surrogate, "'clip'")
    if rule.aggregation not in _AGGREGATIONS:
        raise _no_flag("aggregation", rule.aggregation, "'token_mean' or 'sequence_mean'")
    if rule.ratio == "sequence" and rule.aggregation != "sequence_mean":
        raise _no_flag("aggregation of sequence ratios", rule.aggregation, "'sequence_mean'")
    flags = [
        *("--algo.advantage.estimator", _ESTIMATORS[rule.advantage]),
        *("--actor.policy_loss_type", "gspo" if rule.ratio == "sequence" else "ppo"),
        *("--actor.eps_clip_low_high", str(rule.clip_low), str(rule.clip_high)),
        *("--actor.loss_agg_mode", _AGGREGATIONS[rule.aggregation]),
        *("--algo.kl.init_coef", str(config.kl_coef)),
    ]
    if config.kl_coef > 0:
        if rule.aggregation != "token_mean":
            raise _no_flag("aggregation with kl_coef > 0", rule.aggregation, "'token_mean'")
        flags += ["--algo.kl.use_loss", "--algo.kl.estimator", "k3"]
    if config.rollout_clip is not None:
        if rule.ratio == "sequence":
            raise _no_flag("rollout_clip with sequence ratios", config.rollout_clip, "None")
        low, high = config.rollout_clip
        flags += ["--algo.advantage.is_correction_level", "token", "--algo.advantage.is_correction_mode", "clip"]
        flags += ["--algo.advantage.is_correction_threshold", str(low), str(high)]
    return flags


def agent_part(config: ObjectiveConfig) -> ObjectiveConfig:
    """The config with all but `OWN_FIELDS` back at their defaults, as `AIPOPolicyLoss` and `install_baselines` take it."""
    return ObjectiveConfig(**{name: getattr(config, name) for name in OWN_FIELDS})


def check_agent_config(config: ObjectiveConfig) -> None:
    """Refuses what the cluster learner would not read.

    Raises:
        ConfigurationError: a POLICY field is set, or the AGENT term's divisor is a count that OpenRLHF does not make.
    """
    check_own_fields(
        config,
        "POLICY tokens obey OpenRLHF's flags. Pass those of openrlhf_flags(config), and agent_part(config) here",
    )


def our_estimator(estimator: str) -> AdvantageEstimator:
    """Our name of an OpenRLHF estimator that compares the samples of a group."""
    return next(ours for ours, theirs in _ESTIMATORS.items() if theirs == estimator)


def reads_agent_baseline(config: ObjectiveConfig) -> bool:
    """Whether the config's AGENT term has advantages."""
    return "agent_baseline" in AGENT_LOSS_FIELDS[config.agent_loss]


def check_estimator(config: ObjectiveConfig, estimator: str) -> None:
    """Refuses baselines that an estimator has no place for.

    Args:
        config: of the run.
        estimator: OpenRLHF's --algo.advantage.estimator.

    Raises:
        ConfigurationError: the estimator compares a reward with none of its group, and a baseline asks for a part of the group.
    """
    if estimator not in GROUPLESS:
        return
    apart = ["policy_baseline"] if config.policy_baseline != "group" else []
    if reads_agent_baseline(config) and config.agent_baseline == "solo":
        apart.append("agent_baseline")
    if apart:
        raise ConfigurationError(
            f"--algo.advantage.estimator {estimator} {GROUPLESS[estimator]}, so there is no group of which "
            + " and ".join(f"--aipo.{name} {getattr(config, name)}" for name in apart)
            + " could take a part; say "
            + " ".join(f"--aipo.{name} group" for name in apart)
            + ", which leaves the comparison to OpenRLHF, or use dr_grpo, group_norm, rloo or reinforce_baseline"
        )


def check_openrlhf_settings(args: SimpleNamespace) -> None:
    """Refuses OpenRLHF's settings that would be wrong for trajectories with helpers' replies.

    Args:
        args: OpenRLHF's parsed arguments (`openrlhf.utils.config.hierarchize`).

    Raises:
        ConfigurationError: with the flag, the reason and what to use instead.
    """
    advantage = args.algo.advantage
    if advantage.estimator == "gae":
        raise ConfigurationError(
            "--algo.advantage.estimator must compare samples, but it is 'gae' (OpenRLHF's default): a critic has no value for "
            "tokens that are no actions, so an AGENT token would have no advantage; use dr_grpo, group_norm or rloo"
        )
    if advantage.gamma != 1:
        raise ConfigurationError(
            f"--algo.advantage.gamma must be 1, but it is {advantage.gamma}: OpenRLHF discounts by position, so a long "
            "reply of a helper would shrink the advantage of all that came before it; leave it out"
        )
    if getattr(args.reward, "overlong_buffer_len", None) is not None:
        raise ConfigurationError(
            f"--reward.overlong_buffer_len must be left out, but it is {args.reward.overlong_buffer_len}: OpenRLHF measures a "
            "response from its first to its last action, the helpers' replies in between included, so it would punish "
            "consulting; limit the policy's tokens by the environment's budgets"
        )


def _no_flag(name: str, value: object, possible: str) -> ConfigurationError:
    return ConfigurationError(
        f"OpenRLHF 0.11.2 has no flag for {name} {value!r}; use {possible}, or train with the single-machine trainer"
    )
