"""Training sets are not test sets: what every trainer asks before its first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from aipo_env.errors import ConfigurationError
from aipo_env.make_options import HELPER_RULES, RULES
from aipo_env.registry import env_spec, list_envs
from aipo_env.tasks.base import TaskSet, is_for_evaluation

_Value = TypeVar("_Value")


def require_training_split(tasks: TaskSet, env_id: str, *, allow_test_split: bool = False) -> None:
    """Refuses to train on tasks that are for evaluation.

    Args:
        tasks: what would be trained on.
        env_id: their environment.
        allow_test_split: trains on them all the same.

    Raises:
        ConfigurationError: naming training sets.
    """
    if allow_test_split or not is_for_evaluation(tasks):
        return
    own = "its split 'train' (the option `split train`), or on " if "train" in env_spec(env_id).splits else ""
    raise ConfigurationError(
        f"training needs tasks that no evaluation uses, and these are the split {getattr(tasks, 'split', '')!r} of {env_id}. "
        f"Train on {own}one of {', '.join(training_sets())}. If training on a test set is what you mean, say "
        "allow_test_split."
    )


def require_other_rows(tasks: TaskSet, evaluated: TaskSet) -> None:
    """Refuses to evaluate on the rows that are trained on: one file, or one split of a hub.

    Raises:
        ConfigurationError: both have the same rows.
    """
    one, two = ({} if (f := getattr(t, "provenance", None)) is None else f() for t in (tasks, evaluated))
    if one and all(one.get(key) == two.get(key) for key in ("repository", "config", "split", "files")):
        raise ConfigurationError(
            f"the evaluation of {tasks.name} would read the rows that are trained on. Name other data for it (eval_options "
            "data ...) or another environment (eval_env)."
        )


def training_sets() -> list[str]:
    """The families with a split for training, procedural ones of other packages left out."""
    specs = [env_spec(env_id) for env_id in list_envs() if "/" not in env_id]
    return [spec.id for spec in specs if "train" in spec.splits and not spec.assisted]


def evaluation_env(
    env_id: str, options: Mapping[str, _Value], eval_env: str | None, eval_options: Mapping[str, _Value]
) -> tuple[str, dict[str, _Value]]:
    """Id and options of the environment on which a training run is evaluated.

    Args:
        env_id: what is trained on.
        options: its options.
        eval_env: another id to evaluate on; it takes over the rules among the options (prompt, max_consults, ...), and
            nothing that chooses or makes the tasks.
        eval_options: what differs for the evaluation.
    """
    if eval_env is None or eval_env == env_id:
        # What is left out of the training tasks is no matter of the test tasks.
        return env_id, {**{n: v for n, v in options.items() if n not in ("keep", "rates")}, **eval_options}
    rules = RULES - {"split", "tasks"}
    if not env_spec(eval_env).assisted:
        rules -= set(HELPER_RULES)
    return eval_env, {**{name: value for name, value in options.items() if name in rules}, **eval_options}
