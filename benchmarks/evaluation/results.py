"""`results.json`: all that an evaluation found, and all that is needed to repeat it. Holds no text of a task."""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from aipo_agents.llm import LLMAgent
from aipo_agents.request_key import key_digest
from aipo_env import installation
from aipo_env.game import ConsultGame, describe
from aipo_env.gym_env import ConsultEnv
from aipo_env.installation import DISTRIBUTION
from aipo_env.prompts import templates
from aipo_env.protocol import Agent
from aipo_env.run_record import RunRecord
from aipo_env.tasks.base import Task, TaskSet, is_confidential, provenance_of
from aipo_env.tasks.row_keys import row_keys_of, text_hash
from benchmarks.evaluation import scores
from benchmarks.evaluation.config import EvaluationConfig
from benchmarks.evaluation.episodes import RunEpisodes
from benchmarks.evaluation.fingerprints import model_fingerprint
from benchmarks.evaluation.game import MeteredGame
from benchmarks.evaluation.plan import RunPlan

FORMAT = 1
_PACKAGES = (DISTRIBUTION, "torch", "transformers", "vllm", "datasets", "mpmath", "numpy")
_Json = dict[str, Any]


def evaluation_result(shared: Mapping[str, object], runs: Sequence[_Json], *, complete: bool, command: str) -> _Json:
    """The whole file.

    Args:
        shared: what all runs have in common: policy, seed, versions.
        runs: from `run_result`.
        complete: whether all runs that were asked for are there, and complete.
        command: repeats it.
    """
    return {
        "format": FORMAT,
        "kind": "aipo-evaluation",
        "complete": complete,
        **shared,
        "command": command,
        "timing": {
            "written": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "seconds": sum(run["timing"]["seconds"] for run in runs),
        },
        "runs": list(runs),
    }


def run_settings(plan: RunPlan, env: ConsultEnv, config: EvaluationConfig) -> _Json:
    """What a run is made of; a change of any of it is another run.

    Args:
        plan: of the run.
        env: that is played.
        config: of the evaluation.
    """
    game, family = env.game, family_of(env.game)
    named = templates(game.config.answers)
    prompt = game.prompt_of(plan.assisted)
    template = named.get(prompt, prompt)
    # Where local data lie does not matter; what they are does.
    options = {name: value for name, value in RunRecord.of(env).options.items() if name not in ("data", "solo_prompt")}
    rules = dataclasses.asdict(game.config)
    return {
        "env_id": plan.suite.env_id,
        "env_options": options,
        "rules": {name: value for name, value in rules.items() if name not in ("agents", "assisted")},
        "data": provenance_of(family),
        "confidential": is_confidential(family),
        "isolation": isolation(family),
        "tasks": list(plan.tasks),
        "num_samples": plan.num_samples,
        "sampling": plan.sampling(),
        "episode_timeout": config.timeout,
        "consult_timeout": game.consult_timeout,
        "prompt": {
            "name": prompt if prompt in named else "custom",
            "invites_to_consult": "{agents}" in template,
            "template": template,
        },
        "helpers": {name: describe_helper(name, game.agents.get(name)) for name in game.agent_names},
    }


def run_result(
    episodes: RunEpisodes,
    game: MeteredGame,
    settings: Mapping[str, object],
    *,
    traces: str,
    ks: Sequence[int],
) -> _Json:
    """One run: its settings and what its episodes say.

    Args:
        episodes: of the run.
        game: that was played.
        settings: from `run_settings`.
        traces: the file of traces, relative to that of the results.
        ks: the k of pass@k and the n of maj@n; empty for powers of two.
    """
    plan, finished, scored = episodes.plan, episodes.finished, episodes.scored()
    family = family_of(game)
    tasks = {group: family.task(index) for group, index in enumerate(plan.tasks)}
    majorities = None
    if scored and plan.suite.answers != "program":
        majorities = scores.Majorities(episodes, tasks, family)
    errors = sorted(episodes.errors.items(), key=lambda item: (-item[1], item[0]))
    num_errors = sum(episodes.errors.values())
    suite = plan.suite
    return {
        "suite": suite.name,
        "mode": plan.mode,
        "title": suite.title,
        "complete": episodes.complete,
        "num_tasks": len(plan.tasks),
        "num_tasks_scored": len(scored),
        "num_episodes": plan.num_episodes,
        "num_finished": len(finished),
        "num_errors": num_errors,
        "num_missing": plan.num_episodes - len(finished) - num_errors,
        "errors": [{"error": error, "count": count} for error, count in errors],
        **{name: value for name, value in settings.items() if name != "tasks"},
        # Behind every program that this process ran, and not before them.
        "isolation": isolation(family),
        "defaults": {
            "samples": suite.num_samples,
            "temperature": suite.temperature,
            "top_p": suite.top_p,
            "max_tokens": suite.max_tokens,
            "source": suite.source,
        },
        "traces": traces,
        "metrics": scores.metrics(episodes, majorities, ks) if scored else None,
        "breakdowns": scores.breakdowns(episodes, tasks),
        "rates": scores.rates(finished),
        **scores.counts(finished),
        "tokens": scores.tokens(finished),
        "consults": scores.consults(finished, game.agent_names, episodes.faulted) if plan.assisted else None,
        "tasks": _task_rows(episodes, tasks, majorities, game),
        "timing": {"seconds": sum(e.facts.seconds for e in finished)},
    }


def _task_rows(
    episodes: RunEpisodes, tasks: Mapping[int, Task], majorities: scores.Majorities | None, game: MeteredGame
) -> list[_Json]:
    plan, family = episodes.plan, family_of(game)
    template = game.prompt_of(plan.assisted)
    shown = plan.suite.breakdowns + plan.suite.facts
    majority = {} if majorities is None else majorities.values(plan.num_samples)
    rows: list[_Json] = []
    for group, row in enumerate(episodes.samples):
        task, index = tasks[group], plan.tasks[group]
        keys = row_keys_of(family, index)
        rows.append(
            {
                "id": task.id,
                "index": index,
                **(keys or {"doc_id": index, "doc_hash": None, "target_hash": None}),
                # Before the model's chat template: other harnesses hash what they give it.
                "prompt_hash": text_hash(game.dialect.prompt(template, task.problem)),
                "metadata": {key: task.metadata[key] for key in shown if key in task.metadata},
                "correct": [None if e is None else int(e.correct) for e in row],
                "num_samples": sum(e is not None for e in row),
                "num_correct": sum(e is not None and e.correct for e in row),
                "maj": majority.get(group),
            }
        )
    return rows


def family_of(game: ConsultGame) -> TaskSet:
    """The task family of a game, without what an evaluation puts around it."""
    return game.grading.tasks if isinstance(game, MeteredGame) else game.tasks


def isolation(family: TaskSet) -> _Json | None:
    """What stands between the programs that a family runs and this machine; None where it runs none.

    Raises:
        ConfigurationError: when this machine cannot isolate programs.
    """
    says = getattr(family, "isolation", None)
    return None if says is None else dict(says())


def describe_helper(name: str, agent: Agent | None) -> _Json:
    """What a helper is: its class, what it wraps, and of a language model its weights, sampling and prompt."""
    if agent is None:
        return {"description": describe(name, None), "agent": None}
    found: _Json = {
        "description": describe(name, agent),
        "agent": f"{type(agent).__module__}:{type(agent).__qualname__}",
    }
    if isinstance(agent, LLMAgent):
        found |= {
            "model": agent.backend.model,
            "server": getattr(agent.backend, "base_url", None),
            "temperature": agent.sampling.temperature,
            "top_p": agent.sampling.top_p,
            "max_tokens": agent.sampling.max_tokens,
            "see_transcript": agent.see_transcript,
            "prompt": key_digest(agent.prompt),
        }
    trained = sys.modules.get("algorithms.multi_agent")  # which needs torch; who has such a helper has loaded it
    if trained is not None and isinstance(agent, trained.TrainedHelper):
        found |= {"model": agent.policy.name, "weights": model_fingerprint(agent.policy.model)}
    inner = getattr(agent, "agent", None)
    if isinstance(inner, Agent):
        found["around"] = describe_helper(name, inner)
    return found


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide results, as far as they are installed."""
    return {"python": platform.python_version(), **installation.versions(_PACKAGES)}


def command_line(config: EvaluationConfig) -> str:
    """The `aipo eval` command that repeats an evaluation; defaults are left out."""
    words = ["aipo", "eval"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if value == default or value is None:
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        if isinstance(value, dict):
            for name, part in value.items():
                words += [name, part if isinstance(part, str) else json.dumps(part)]
        elif isinstance(value, tuple):
            words += [str(part) for part in value]
        elif value is not True:
            words.append(str(value))
    return shlex.join(words)
